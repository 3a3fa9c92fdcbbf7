"""A page that answers in the browser: the exported graph, onnxruntime-web and a few pictures, in a folder or one file.

No server computes anything and no image leaves the reader's device. The page's own files lie in `page/`: modules of
JavaScript that are joined here, a style and a template. Read onnx_file.py for the graph, recipe.py for what happens to
an image before it and runtime.py for what runs it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from torch import Tensor
from transformers import BaseImageProcessor
from transformers.utils import logging

from bndl_hf.export.onnx_file import OnnxExport, export_onnx
from bndl_hf.export.page_pictures import Examples, example_pictures, thumbnail_sheets
from bndl_hf.export.recipe import page_recipe
from bndl_hf.export.runtime import CDN, CODE, PACKAGE, PageRuntime, find_runtime, packed_whole
from bndl_hf.interpretability.thumbnails import FactorThumbnails
from bndl_hf.model.factor_names import factor_names
from bndl_hf.model.input_images import read_image
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.utils.files import written_whole

logger = logging.get_logger(__name__)

# In the order they are joined: each uses only those before it.
MODULES = ("resize", "pixels", "decisions", "model", "view", "batch", "main")
GRAPH = "model.onnx"
_CHECKED = 3  # examples the graph is checked on
# Names of the files of a page, for those of an earlier one to go.
_OURS = re.compile(r"example-\d+\.(png|jpeg)|factors-\d+\.webp|(model|ort)[\w.-]*\.(gz|mjs)")


@dataclass(frozen=True)
class PageExport:
    """What was written.

    Attributes:
        path: the folder, or the one file.
        page: the HTML file in it, or itself.
        files: {name: bytes on disk}.
        is_runtime_embedded: whether the page needs nothing from elsewhere; otherwise it loads onnxruntime-web from a
            CDN, pinned and with its hashes.
        runtime: where the runtime came from: "folder", "cache", "npm" or "cdn".
        onnx: what is said of the graph.
    """

    path: Path
    page: Path
    files: dict[str, int]
    is_runtime_embedded: bool
    runtime: str
    onnx: OnnxExport

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def export_page(
    model: BNDLForImageClassification,
    processor: BaseImageProcessor,
    examples: Examples,
    path: str | os.PathLike[str],
    *,
    single_file: bool = False,
    title: str = "What does the model see?",
    thumbnails: FactorThumbnails | None = None,
    runtime: str | os.PathLike[str] | None = None,
    half: bool = False,
    top_k: int | None = None,
) -> PageExport:
    """Write a page on which anyone can try the model, in a browser and without a server that computes.

    It shows the answer with its verdict and reason, probabilities and their spread, the parts of the answer, the class
    map where the backbone has one, a slider for the accepted risk where decisions were fitted (`fit_decisions`), and a
    table of several images. Images are decoded, resized and normalised as `processor` does it.

    Args:
        model: a `BNDLForImageClassification`.
        processor: its image processor.
        examples: images to try, which become part of the page: {name: image}, or paths, PIL images, ...; may be empty.
            Ask whether they may be shown.
        path: of the folder, or of the HTML file with `single_file`. A folder is served by any web server, and loses the
            files of an earlier page; one file opens by double click.
        single_file: everything in one file, a third larger.
        title: heading of the page.
        thumbnails: what factors look like (`load_factor_thumbnails`), shown beside them; part of the page, too.
        runtime: folder with onnxruntime-web 1.30.0; "cdn" has the page load it from a CDN; None takes the cache
            (`$XDG_CACHE_HOME/bndl_hf`), else has npm fetch it, else the CDN, with a warning.
        half: store weights as float16, see `export_onnx`.
        top_k: parts to name, see `export_onnx`.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: `path` is a folder where it has to be a file, or a file where it has to be a folder; the page cannot
            repeat what `processor` does; an example cannot be read; `runtime` is not the
            pinned version; the model cannot be exported (`export_onnx`).

    Example:
        >>> from bndl_hf.export import export_page
        >>> page = export_page(model, processor, ["cat.jpg"], "page.html", single_file=True)  # doctest: +SKIP
        >>> page.size, page.is_runtime_embedded  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_dir() if single_file else path.is_file():
        kinds = ("a folder", "an HTML file such as page.html") if single_file else ("a file", "a folder")
        raise ValueError(f"path={os.fspath(path)} is {kinds[0]}; with single_file={single_file} it must be {kinds[1]}.")
    recipe = page_recipe(processor)
    entries, files = example_pictures(examples)
    sheets, sheet_files = thumbnail_sheets(thumbnails)
    found = find_runtime(runtime)
    if not found.files:
        logger.warning("The page loads onnxruntime-web from a CDN, with pinned hashes: %s.", found.reason)
    size = (recipe["crop"] or recipe["resize"])["height"], (recipe["crop"] or recipe["resize"])["width"]
    with tempfile.TemporaryDirectory(prefix="bndl-") as folder:
        graph = Path(folder) / GRAPH
        inputs = _pixel_values(processor, examples)
        onnx = export_onnx(
            model, graph, top_k=top_k, half=half, example=inputs, image_size=None if inputs is not None else size
        )
        packed = {GRAPH: packed_whole(graph.read_bytes()), **found.files}
    stored = {name: name if name == CODE else f"{name}.gz" for name in packed}
    files |= sheet_files | {stored[name]: content for name, content in packed.items()}
    if CODE in packed:
        files[CODE] = gzip.decompress(packed[CODE])  # a module is imported as it is, without leave for blobs
    facts = {
        **_facts(model),
        "recipe": recipe,
        "image_size": list(size),
        "examples": entries,
        "thumbnails": sheets,
        "files": stored,
        "remote": found.remote,
        "size_words": _size_words(packed, found),
    }
    written = _as_one_file(facts, title, files) if single_file else _as_folder(facts, title, files)
    folder_path = path.parent if single_file else path
    if not single_file and path.is_dir():
        for old in path.iterdir():
            if _OURS.fullmatch(old.name) and old.name not in written:
                old.unlink()
    for name, content in written.items():  # index.html is the last: it appears when what it needs is there
        with written_whole(path if single_file else folder_path / name) as partial:
            partial.write_bytes(content)
    return PageExport(
        path,
        path if single_file else path / "index.html",
        {path.name if single_file else name: len(content) for name, content in written.items()},
        bool(found.files),
        found.source,
        OnnxExport(Path(GRAPH), onnx.size, onnx.outputs, onnx.image_size, onnx.deviations),
    )


def _pixel_values(processor: BaseImageProcessor, examples: Examples) -> Tensor | None:
    """Pixel values of the first examples, to check the graph on; None without any."""
    chosen = list(examples.values() if hasattr(examples, "values") else examples)[:_CHECKED]
    if not chosen:
        return None
    arrays = processor(images=[read_image(image) for image in chosen], return_tensors="np")["pixel_values"]
    return torch.from_numpy(np.asarray(arrays, dtype=np.float32))


def _facts(model: BNDLForImageClassification) -> dict[str, Any]:
    """What the page needs to make decisions of the graph's numbers and to name things."""
    config = model.decision_layer.config
    fields = ("temperature", "variance_scale", "conformal", "verdict")
    return {
        "labels": [str(config.id2label[index]) for index in range(config.num_labels)],
        "factors": factor_names(model),
        **{name: getattr(config, name) for name in fields},
    }


def _size_words(packed: dict[str, bytes], runtime: PageRuntime) -> str:
    """ "Model 18.7 MB, runtime 3.8 MB": what a reader downloads."""
    of_model = len(packed[GRAPH])
    words = f"Model {of_model / 1e6:.1f} MB"
    if not runtime.files:
        return f"{words}; the runtime comes from {CDN.removeprefix('https://')}"
    return f"{words}, runtime {(sum(map(len, packed.values())) - of_model) / 1e6:.1f} MB"


def joined_code() -> str:
    """The page's modules as one."""
    parts = [_text_of(f"{name}.js") for name in MODULES]
    code = "\n".join(re.sub(r"^import .*\n", "", part, flags=re.MULTILINE) for part in parts)
    return re.sub(r"^export ", "", code, flags=re.MULTILINE)


def _as_folder(facts: dict[str, Any], title: str, files: dict[str, bytes]) -> dict[str, bytes]:
    # Code from the CDN is a blob once its hash is checked.
    policy = _policy("'self' blob:" if facts["remote"] else "'self'", "'self'", "'self' blob: data:", ["'self'"], facts)
    page = _render(title, facts, policy=policy, style=None, code=None, embedded={})
    style, code = _text_of("style.css"), joined_code()
    return {**files, "style.css": style.encode(), "app.js": code.encode(), "index.html": page.encode()}


def _as_one_file(facts: dict[str, Any], title: str, files: dict[str, bytes]) -> dict[str, bytes]:
    style, code = _text_of("style.css"), joined_code()
    policy = _policy(f"{_hash_of(code)} blob:", _hash_of(style), "blob: data:", [], facts)
    embedded = {name: base64.b64encode(content).decode("ascii") for name, content in files.items()}
    page = _render(title, facts, policy=policy, style=style, code=code, embedded=embedded)
    return {"page": page.encode()}


def _policy(scripts: str, styles: str, images: str, connections: list[str], facts: dict[str, Any]) -> str:
    """The Content-Security-Policy: nothing from elsewhere but, without a runtime of its own, the CDN."""
    reached = " ".join([*connections, *([CDN] if facts["remote"] else [])]) or "'none'"
    return (
        f"default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; style-src {styles}; img-src {images}; "
        f"connect-src {reached}; base-uri 'none'; form-action 'none'"
    )


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _render(title: str, facts: dict[str, Any], **values: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    num_classes = len(facts["labels"])
    sure = "how sure it is" if facts["verdict"] is None else "whether it is sure"
    return environment.from_string(_text_of("index.html.jinja")).render(
        title=title,
        lead=f"Give it an image: it names one of {num_classes:,} classes, says {sure}, and shows why.",
        notice=f"Runs on {PACKAGE.replace('@', ' ')}, © Microsoft Corporation, MIT License.",
        # A name that holds "</script>" must stay inside its string.
        facts=json.dumps(facts, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        **values,
    )


def _text_of(name: str) -> str:
    return package_files("bndl_hf.export").joinpath("page").joinpath(name).read_text(encoding="utf-8")
