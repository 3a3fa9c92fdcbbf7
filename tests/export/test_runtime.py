"""Where the page's runtime comes from, and that nothing but the pinned files is taken."""

import pytest

from bndl_hf.export import runtime
from bndl_hf.export.runtime import FILES, cache_folder, find_runtime


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bndl_hf" / f"onnxruntime-web-{runtime.VERSION}"


def test_a_folder_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not hold ort\.wasm\.bundle\.min\.mjs and"):
        find_runtime(tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes(b"of another version")
    with pytest.raises(ValueError, match=r"is not that of onnxruntime-web@"):
        find_runtime(tmp_path)


def test_where_npm_fails_the_page_loads_pinned_files_and_says_why(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = find_runtime()
    assert (found.source, found.files) == ("cdn", {})
    assert "npm could not fetch" in found.reason
    assert set(found.remote) == set(FILES)


def test_what_npm_fetched_must_have_the_pinned_hash(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho other > "$4/other.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "does not have the hash" in find_runtime().reason
    assert not (tmp_path / "cache").exists()
