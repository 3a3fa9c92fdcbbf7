"""The files in `model/` travel with every checkpoint: transformers finds them by a regex and runs them on their own."""

import ast
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "src" / "bndl_hf" / "model"
FILES = sorted(FOLDER.glob("*.py"))
SIBLINGS = {file.stem for file in FILES}
ALLOWED = {"torch", "transformers", *sys.stdlib_module_names}
# transformers' own, over the text: docstrings included, at any indentation.
RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE)


def imports(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_import_only_torch_transformers_the_standard_library_and_siblings(file):
    for node in imports(ast.parse(file.read_text())):
        where = f"{file.name}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, where
        elif node.level == 0:
            assert node.module.split(".")[0] in ALLOWED, where
        else:
            assert node.level == 1, f"{where} leaves the folder"
            assert node.module is not None, f"{where}: write `from .name import thing`, not `from . import name`"
            assert node.module in SIBLINGS - {"__init__"}, f"{where}: .{node.module} is not a file beside it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_siblings_are_imported_at_the_top(file):
    tree = ast.parse(file.read_text())
    for node in imports(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node in tree.body, f"{file.name}:{node.lineno} imports .{node.module} inside a block"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_regex_finds_siblings_and_nothing_else(file):
    text = file.read_text()
    found = set(RELATIVE_IMPORT.findall(text))
    assert found <= SIBLINGS
    assert found == {n.module for n in imports(ast.parse(text)) if isinstance(n, ast.ImportFrom) and n.level}


def test_the_folder_is_flat_and_the_regex_catches_a_docstring():
    assert not [child for child in FOLDER.iterdir() if child.is_dir() and child.name != "__pycache__"]
    assert {"configuration_bndl", "modeling_bndl"} <= SIBLINGS
    assert RELATIVE_IMPORT.findall('"""Use it so:\n    from .hub import publish\n"""') == ["hub"]
