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
