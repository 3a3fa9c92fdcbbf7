"""Reading checkpoint folders before anything is restored from them: are they whole, and what do they hold?"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, logging

logger = logging.get_logger(__name__)

# What DeepSpeed and FSDP write instead of optimizer.pt.
_SHARDED_STATES = ("global_step*", "optimizer_*", "pytorch_model_fsdp*")


def checkpoint_folders(output_dir: str | os.PathLike[str]) -> list[Path]:
    """The folders checkpoint-N in `output_dir`, by N."""
    found = [
        (int(m[1]), path) for path in Path(output_dir).glob("checkpoint-*") if (m := re.search(r"-(\d+)$", path.name))
    ]
    return [path for _, path in sorted(found)]


def whole_checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Those that a run can go on from, by N."""
    return [path for path in checkpoint_folders(output_dir) if checkpoint_problem(path) is None]


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Path of the newest whole checkpoint in `output_dir`, or None; others are skipped with a warning."""
    for path in reversed(checkpoint_folders(output_dir)):
        problem = checkpoint_problem(path)
        if problem is None:
            return str(path)
        logger.warning(f"Skipping {path}: {problem}.")
    return None


def checkpoint_problem(path: Path) -> str | None:
    """What keeps a checkpoint folder from being resumed, or None when it is whole."""
    if not path.is_dir():
        return "there is no such folder"
    return next(_problems(path), None)


def checkpoint_kind(path: Path) -> str:
    """What a checkpoint holds: "adapters", "model" or "decision layer"."""
    if any(path.rglob(ADAPTER_CONFIG_NAME)):
        return "adapters"
    return "model" if (path / CONFIG_NAME).exists() else "decision layer"


def random_state_problem(path: Path, world_size: int, process_index: int) -> str | None:
    """Why a process finds no random state in a whole checkpoint, or None where it does."""
    wanted = "rng_state.pth" if world_size <= 1 else f"rng_state_{process_index}.pth"
    if (path / wanted).exists():
        return None
    return f"it was written by {len(list(path.glob('rng_state*.pth')))} processes and this run has {world_size}"


def _problems(path: Path) -> Iterator[str]:
    try:
        state = json.loads((path / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        yield f"its {TRAINER_STATE_NAME}, written last, is missing or cut short (the run was interrupted while saving)"
        return
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        yield f"its {TRAINER_STATE_NAME} does not say which step it is of"
    yield from _weight_problems(path)
    if any(next(path.glob(pattern), None) for pattern in _SHARDED_STATES):
        return
    files = {"optimizer": "optimizer.pt", "learning rate schedule": "scheduler.pt", "random state": "rng_state*.pth"}
    missing = [f"{what} ({name})" for what, name in files.items() if next(path.glob(name), None) is None]
    if missing:
        yield f"it lacks its {', '.join(missing)}, which would start afresh"
    for pattern in (*files.values(), "scaler.pt"):
        for file in path.glob(pattern):
            try:
                with zipfile.ZipFile(file) as archive:
                    damaged = archive.testzip()
            except (OSError, zipfile.BadZipFile) as error:
                yield f"{file.name} is damaged ({error})"
            else:
                if damaged is not None:
                    yield f"{file.name} is damaged ({damaged} in it has another checksum than it was written with)"


def _weight_problems(path: Path) -> Iterator[str]:
    weights = [*path.rglob("*.safetensors"), *path.glob("pytorch_model*"), *path.glob("global_step*")]
    if not weights:
        yield "it holds no weights"
    for index in path.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield f"{index.name} is damaged"
            continue
        if absent := sorted(shard for shard in shards if not (path / shard).exists()):
            yield f"{absent[0]} is missing"
    for file in weights:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                yield f"{file.name} is damaged ({error})"
