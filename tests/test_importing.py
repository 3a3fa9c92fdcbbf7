"""What `import bndl_hf` brings along and changes, seen in one process that has imported nothing else of ours."""

import json
import subprocess
import sys

import pytest

from test_rooms import HEAVY

WATCH = """
import json, sys
from transformers import AutoModelForImageClassification, PreTrainedModel
before = set(sys.modules)
from transformers.pipelines import PIPELINE_REGISTRY
entries = dict(PIPELINE_REGISTRY.supported_tasks)
contents = {task: dict(entry) for task, entry in entries.items()}
import bndl_hf
new = set(sys.modules) - before
tasks = PIPELINE_REGISTRY.supported_tasks
seen = {
    "modules": sorted(new),
    "tasks": sorted(set(tasks) - set(entries)),
    "others_are_kept": all(tasks[task] is entry and entry == contents[task] for task, entry in entries.items()),
}
from bndl_hf import BNDLForImageClassification
seen["peft"] = "peft" in sys.modules
import bndl_hf.metrics
seen["evaluate"] = "evaluate" in sys.modules
try:
    bndl_hf.metrics.load("pavpu")
except ImportError as error:
    seen["hidden"] = str(error)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a user's own, with a file that hides Hugging Face's library."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "evaluate.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def process(folder):
    return subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, check=True, cwd=folder)


@pytest.fixture(scope="module")
def seen(process):
    return json.loads(process.stdout)


def test_importing_the_package_adds_nothing_heavy_to_transformers(seen):
    # transformers itself imports scipy where that is installed; what counts is what we add.
    assert "bndl_hf" in seen["modules"]
    assert not set(HEAVY) & set(seen["modules"])


def test_importing_the_package_adds_one_pipeline_and_changes_no_other(seen, process):
    assert seen["tasks"] == ["bndl-image-classification"]
    assert seen["others_are_kept"]
    assert "already registered" not in process.stderr


def test_importing_a_model_does_not_import_peft(seen):
    assert not seen["peft"]


def test_importing_the_metrics_is_light_and_a_file_that_hides_evaluate_is_named(seen, folder):
    assert not seen["evaluate"]
    assert seen["hidden"].startswith(f"`import evaluate` found {folder}")
