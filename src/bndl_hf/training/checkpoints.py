"""Checkpoints that are whole or not there, and that resume exactly.

A folder `checkpoint-N` counts only once its trainer_state.json, written last, is readable; models are written beside
their place and moved in. Restoring goes through `from_pretrained`: transformers 5 renames parameters of ViT, DeiT,
DINOv2, BEiT, Swin and others on their way to disk, and the Trainer's own `load_state_dict(strict=False)` then keeps the
initial encoder without a word (transformers issues 43701, 48805).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.adapters import has_adapters

logger = logging.get_logger(__name__)

# What a checkpoint holds, and which training goes on from it.
_KINDS = {
    "model": ("a whole model", "end-to-end"),
    "adapters": ("adapters", "adapter (peft)"),
    "decision layer": ("a decision layer alone", "head-only"),
}
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # what a full disk raises in Python, torch and safetensors


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Path of the newest whole checkpoint in `output_dir`, or None; half-written ones are passed over, aloud."""
    found = [
        (int(m[1]), path) for path in Path(output_dir).glob("checkpoint-*") if (m := re.search(r"-(\d+)$", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        problem = checkpoint_problem(path)
        if problem is None:
            return str(path)
        logger.warning(f"Passing over {path}: {problem}.")
    return None


def checkpoint_problem(path: Path) -> str | None:
    """What keeps a checkpoint folder from being resumed, or None when it is whole."""
    if not path.is_dir():
        return "there is no such folder"
    try:
        json.loads((path / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return f"its {TRAINER_STATE_NAME}, written last, is missing or cut short (the run was interrupted while saving)"
    for weights in path.rglob("*.safetensors"):
        try:
            with safe_open(weights, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{weights.name} is damaged ({error})"
    return None


class SafeCheckpoints(Trainer):
    """The saving and restoring half of `BNDLTrainer`."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As `Trainer.train`; `resume_from_checkpoint=True` takes the newest whole checkpoint."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"resume_from_checkpoint=True, but {self.args.output_dir} holds no whole checkpoint; start "
                    "without it."
                )
        elif resume_from_checkpoint:
            problem = checkpoint_problem(Path(resume_from_checkpoint))
            if problem is not None:
                raise ValueError(f"{resume_from_checkpoint} cannot be resumed: {problem}.")
        if resume_from_checkpoint:
            held, wanted = _kind_of_checkpoint(Path(resume_from_checkpoint)), _kind_of_model(self.model)
            if wanted is not None and held != wanted:
                raise ValueError(
                    f"{resume_from_checkpoint} holds {_KINDS[held][0]}, which {_KINDS[wanted][1]} training cannot go "
                    "on from; use another output_dir, or start afresh."
                )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # what an earlier run left in this place must not vouch for half of a new one
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        try:
            super()._save_checkpoint(model, trial)
        except _WRITE_ERRORS as error:
            if checkpoint_problem(folder) is None:  # written to the end: pushing it failed, say
                raise
            shutil.rmtree(folder, ignore_errors=True)
            kept = last_checkpoint(folder.parent)
            raise OSError(
                f"{folder.name} could not be written ({error}). "
                + (f"{Path(kept).name} is untouched" if kept else "There is no earlier checkpoint")
                + f" in {folder.parent}; make room and resume."
            ) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`; what was in `output_dir` before stays whole when the disk is full."""
        try:
            super().save_model(output_dir, _internal_call)
        except (OSError, SafetensorError) as error:  # safetensors has a name of its own for a failed write
            is_disk = isinstance(error, SafetensorError) or error.errno in _DISK_ERRORS
            if _internal_call or not is_disk:  # part of a checkpoint, which says it itself; or pushing failed, say
                raise
            raise OSError(
                f"The model could not be written to {output_dir or self.args.output_dir} ({error}). What was there "
                "before is untouched; make room and save again."
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the model beside its place, then move it in, so that a failure leaves what was there before."""
        if not self.args.should_save:  # another process writes; this one must keep its hands off the same folders
            return super()._save(output_dir, state_dict=state_dict)
        target = Path(self.args.output_dir if output_dir is None else output_dir)
        staging = target.parent / f".{target.name}.incomplete"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            super()._save(str(staging), state_dict=state_dict)
            target.mkdir(parents=True, exist_ok=True)
            for file in [path for path in staging.rglob("*") if path.is_file()]:
                place = target / file.relative_to(staging)
                place.parent.mkdir(parents=True, exist_ok=True)  # an adapter with a name of its own has a folder
                os.replace(file, place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if not _has_own_weights(target, resume_from_checkpoint):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        logger.info(f"Loading model from {resume_from_checkpoint}.")
        _restore(target, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        target = self.accelerator.unwrap_model(self.model)
        best = self.state.best_model_checkpoint
        if best is None or not _has_own_weights(target, best):
            return super()._load_best_model()
        logger.info(f"Loading best model from {best} (score: {self.state.best_metric}).")
        _restore(target, best)


def _kind_of_model(model: nn.Module) -> str | None:
    if has_adapters(model):
        return "adapters"
    if isinstance(model, PreTrainedModel):
        return "model"
    return "decision layer" if isinstance(model, PosteriorHead) else None


def _kind_of_checkpoint(folder: Path) -> str:
    if any(folder.rglob(ADAPTER_CONFIG_NAME)):
        return "adapters"
    return "model" if (folder / CONFIG_NAME).exists() else "decision layer"


def _has_own_weights(model: nn.Module, folder: str) -> bool:
    """Whether `folder` holds a whole transformers model of the kind of `model` (and not, say, a peft adapter)."""
    names = {SAFE_WEIGHTS_NAME, f"{SAFE_WEIGHTS_NAME}.index.json"}
    return isinstance(model, PreTrainedModel) and bool(names & set(os.listdir(folder)))


def _restore(model: PreTrainedModel, folder: str) -> None:
    """Copy every weight of the checkpoint into `model`, in memory's names; a missing or extra one is an error."""
    saved = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict(), strict=True)
