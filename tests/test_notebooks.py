"""The notebooks run from top to bottom in a kernel, offline, and say what their text says."""

import os
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def executed(name: str, folder: Path, **environment: str) -> list[str]:
    """The text that the code cells of a notebook leave, run in `folder`."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    said = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            said.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return said


def test_quickstart(tmp_path: Path) -> None:
    said = "\n".join(executed("quickstart", tmp_path))
    assert "From 288 held-out images:" in said
    assert "BNDLPrediction of 359 images: " in said
    assert "sure, at most 2 % of answers this sure are wrong" in said
    assert "'share_unfamiliar': " in said


def test_photos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(tiny).save_pretrained(tmp_path / "backbone")
    make_image_processor(64).save_pretrained(tmp_path / "backbone")
    said = "\n".join(executed("photos", tmp_path, BNDL_BACKBONE=str(tmp_path / "backbone")))
    assert "['test/flower', 'test/temple', 'train/flower', 'train/temple']" in said
    assert "From 60 held-out images:" in said
    assert "BNDLPrediction of 80 images: " in said
    assert said.count(": unfamiliar, unlike 95 %") >= 2


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_in_the_repository_has_no_outputs_that_could_be_stale(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
