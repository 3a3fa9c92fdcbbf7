"""The files in `model/` travel with every checkpoint: transformers finds them by a regex and runs them on their own."""

import ast
import json
import re
import shutil
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


WATCH = """
import builtins, json, sys
import torch, transformers
from transformers import ViTConfig, pipeline

asked, original = set(), builtins.__import__
def watched(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and str((globals or {}).get("__file__", "")).startswith(sys.argv[1]):
        asked.add(name.split(".")[0])
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = watched
sys.path.insert(0, sys.argv[1])
sys.modules["bndl_hf"] = None  # importing it fails
from alone.configuration_bndl import BNDLConfig
from alone.modeling_bndl import BNDLForImageClassification, BNDLModel

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
classifier = transformers.ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))
model = BNDLForImageClassification.from_backbone_pretrained(classifier, warm_start=True)
images = torch.randn(2, 3, 8, 8)
model(images, labels=torch.tensor([0, 1])).loss.backward()
model.predict(images), model.predict(images, method="monte_carlo"), model.explain(images)
BNDLModel(model.config)(images)
model.save_pretrained(sys.argv[1] + "/saved")
BNDLForImageClassification.from_pretrained(sys.argv[1] + "/saved")
print(json.dumps([sorted(asked), sorted({name.split(".")[1] for name in sys.modules if name.startswith("alone.")})]))
"""


def test_in_a_process_of_its_own_the_set_asks_for_nothing_but_torch_transformers_and_the_standard_library(
    tmp_path, run_python
):
    # By another name, without the package, and doing everything: what is imported inside a function counts too.
    shutil.copytree(FOLDER, tmp_path / "alone", ignore=shutil.ignore_patterns("__pycache__"))
    done = run_python(["-c", WATCH, tmp_path], tmp_path, installed=False, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    asked, loaded = json.loads(done.stdout.splitlines()[-1])
    assert {"torch", "transformers"} <= set(asked) <= ALLOWED
    assert set(loaded) == SIBLINGS - {"__init__"}
