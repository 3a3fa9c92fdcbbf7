"""The notebooks run from top to bottom, cell by cell, offline, and say what their text says."""

from pathlib import Path

import nbformat
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from jobs import JobServer

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def executed(jobs: JobServer, name: str, folder: Path, **environment: str) -> str:
    """The text that the code cells of a notebook leave, run in `folder` by the shell that kernels run them in."""
    environment = {"IPYTHONDIR": str(folder / ".ipython"), "MPLBACKEND": "agg", **environment}
    job = jobs.start("notebook", environment, path=NOTEBOOKS / f"{name}.ipynb", cwd=folder)
    assert job.wait() == 0, job.log
    return job.log


def test_quickstart(tmp_path: Path, jobs: JobServer) -> None:
    said = executed(jobs, "quickstart", tmp_path)
    assert "From 288 held-out images:" in said
    assert "BNDLPrediction of 359 images: " in said
    assert "sure, at most 2 % of answers this sure are wrong" in said
    assert "'share_unfamiliar': " in said


def test_photos(tmp_path: Path, jobs: JobServer) -> None:
    torch.manual_seed(0)
    tiny = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(tiny).save_pretrained(tmp_path / "backbone")
    make_image_processor(64).save_pretrained(tmp_path / "backbone")
    said = executed(jobs, "photos", tmp_path, BNDL_BACKBONE=str(tmp_path / "backbone"))
    assert "['test/flower', 'test/temple', 'train/flower', 'train/temple']" in said
    assert "From 60 held-out images:" in said
    assert "BNDLPrediction of 80 images: " in said
    assert said.count(": unfamiliar, unlike 95 %") >= 2


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_in_the_repository_is_one_and_has_no_outputs_that_could_be_stale(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
