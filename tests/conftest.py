"""Tiny models made from configurations: no download, no GPU, one thread a process (the suite runs with `-n 2`)."""

import os

# Before anything imports transformers: no test may reach for the Hub or draw a progress bar.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from hub.processes import run_python  # noqa: F401 - a fixture
from hub_server.fixtures import api, hub, no_waiting  # noqa: F401 - fixtures
from jobs import jobs  # noqa: F401 - a fixture
from model.tiny import BACKBONES, IMAGE_SIZE, tiny_model

torch.set_num_threads(1)
logging.disable_progress_bar()

REPOSITORY = Path(__file__).resolve().parents[1]

# Files of few and slow tests. A process is given whole files in the order of collection; one of these at the end would
# leave the other process with nothing to do.
SLOW_FILES = (
    *("test_notebooks.py", "hub/test_space.py", "export/test_web_page.py", "export/test_export_onnx.py"),
    *("scripts/test_demo.py", "benchmarks/test_frontier.py", "benchmarks/test_views.py", "hub/test_contents.py"),
    *("training/test_tuned_training.py", "training/test_tuning.py", "scripts/test_finetune.py", "hub/test_publish.py"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(SLOW_FILES))


@pytest.fixture(params=BACKBONES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def vit_model():
    return tiny_model("vit")


@pytest.fixture
def resnet_model():
    return tiny_model("resnet")


@pytest.fixture
def pixel_values():
    return torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def shared():
    """The folder of golden vectors and feature sets beside the repository; what needs it is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs golden vectors or features that are not part of the repository")
    return folder
