"""Result files: what was measured, with what, on which machine; written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe_environment() -> dict[str, Any]:
    """Versions and hardware behind a figure: Python, libraries, processor, cores in use, accelerator."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("bndl-hf", "torch", "transformers")},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write `values` as indented JSON; the file appears whole or stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(values, indent=2, default=str) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
