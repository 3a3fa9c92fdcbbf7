"""Result files: what was measured, with what, on which machine; written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from bndl_hf.utils.files import written_whole


def describe_environment() -> dict[str, Any]:
    """Versions and hardware behind a figure: Python, libraries, processor, cores in use, accelerator."""
    return {
        "python": platform.python_version(),
        "bndl-hf": sys.modules["bndl_hf"].__version__,  # of this code: a checkout on the path has no metadata
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def seconds_taken(call: Callable[[], Any], device: str = "cpu") -> float:
    """Wall-clock seconds of one call, what it left running on an accelerator included."""

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    started = now()
    call()
    return now() - started


def read_finished(path: str | os.PathLike[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The "runs" of a result file that was made with the same "settings"; [] where there is none.

    Raises:
        ValueError: the file holds runs of other settings, which writing would lose.
    """
    path = Path(path)
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    if found.get("settings") != json.loads(json.dumps(settings)):
        raise ValueError(
            f"{path} holds runs with other settings; name another output file, or remove it to start anew."
        )
    return found["runs"]


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write `values` as indented JSON; the file appears whole or stays as it was."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2, default=str) + "\n")
