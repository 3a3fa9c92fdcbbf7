"""Checkpoints that are whole or not there, and that resume exactly.

A folder `checkpoint-N` counts only once everything a run goes on from is in it and readable: weights, optimizer,
schedule, random state, and trainer_state.json, which is written last. Models are written beside their place and moved
in. Restoring goes through `from_pretrained`: transformers 5 renames parameters of ViT, DeiT, DINOv2, BEiT, Swin and
others on their way to disk, and the Trainer's own `load_state_dict(strict=False)` then keeps the initial encoder
without a warning (transformers issues 43701, 48805).
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.adapters import has_adapters, trained_decision_layer
from bndl_hf.training.checkpoint_folders import (
    checkpoint_kind,
    checkpoint_problem,
    last_checkpoint,
    random_state_problem,
    whole_checkpoints,
)
from bndl_hf.training.failures import tensors_not_finite
from bndl_hf.training.run_lock import run_lock
from bndl_hf.training.tuning_report import tuning_entry

logger = logging.get_logger(__name__)

# What a checkpoint holds, and which training goes on from it.
_KINDS = {
    "model": ("a whole model", "end-to-end"),
    "adapters": ("adapters", "adapter (peft)"),
    "decision layer": ("a decision layer alone", "head-only"),
}
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # what a full disk raises in Python, torch and safetensors


def end_of_training(trainer: Trainer, max_steps: int) -> str | None:
    """Why a run that was resumed has nothing left to train, in a sentence; None where it has.

    The state of early stopping is there with `restore_callback_states_from_checkpoint` alone.
    """
    if tuning_entry(trainer.state.log_history) is not None:
        return "The decision layer is tuned already, so nothing is trained now; start afresh (--restart) to tune again."
    if trainer.state.global_step >= max_steps:
        return (
            f"All {max_steps} steps are done already, so nothing is trained now; pass more num_train_epochs or "
            "max_steps to train longer."
        )
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback) and trainer.args.restore_callback_states_from_checkpoint:
            patience = callback.early_stopping_patience
            if callback.early_stopping_patience_counter >= patience:
                return (
                    f"Training had stopped early, {patience} evaluations after the best, so nothing is trained now; "
                    "start afresh (--restart), or resume without early stopping, to train longer."
                )
    return None


class SafeCheckpoints(Trainer):
    """The saving and restoring half of `BNDLTrainer`.

    Training on cached features changes the decision layer alone, so its checkpoints hold nothing else.
    """

    model: Any
    _saves_checkpoint = False

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As `Trainer.train`; `resume_from_checkpoint=True` takes the newest whole checkpoint.

        Raises:
            ValueError: the checkpoint is not whole or not of this training; another run is using the output folder; or
                the loss is not a number.
            OSError: a checkpoint could not be written; those before it are untouched.
        """
        with run_lock(str(self.args.output_dir)) if self.is_world_process_zero() else nullcontext():
            checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
            try:
                return super().train(checkpoint, trial, ignore_keys_for_eval)
            except KeyboardInterrupt:
                self._say_how_to_go_on(trial)
                raise

    def _say_how_to_go_on(self, trial: Any) -> None:
        """After an interruption."""
        if isinstance(self.model, PosteriorHead) and self.args.save_strategy == SaveStrategy.NO:
            return  # `fit_decision_layer`, or one training of a search: there is nothing to go on from
        kept, step = last_checkpoint(self._get_output_dir(trial)), self.state.global_step
        if getattr(self.args, "tune_head", False) and not step:
            logger.warning(
                "Interrupted while tuning the decision layer; the next run starts again, on the same features."
            )
            return
        logger.warning(
            f"Interrupted after step {step} of {self.state.max_steps}. "
            + (
                f"{kept} is whole: start the same command again, or trainer.train(resume_from_checkpoint=True),"
                " to go on from there."
                if kept
                else "There is no checkpoint yet, so the next run starts from the beginning; a smaller "
                'save_steps (with save_strategy="steps") leaves one earlier.'
            )
        )

    def _checkpoint_to_resume(self, given: str | bool | None) -> str | None:
        """Path of the checkpoint that is meant, None for a fresh start."""
        if not given:
            return None
        if given is True:
            found = last_checkpoint(str(self.args.output_dir))
            if found is None:
                raise ValueError(
                    f"resume_from_checkpoint=True, but {self.args.output_dir} holds no whole checkpoint; start "
                    "without it."
                )
            given = found
        elif problem := checkpoint_problem(Path(given)):
            others = [path for path in whole_checkpoints(Path(given).parent) if path != Path(given)]
            instead = f" {others[-1]} is whole." if others else ""
            raise ValueError(f"{given} cannot be resumed: {problem}.{instead}")
        held, wanted = checkpoint_kind(Path(given)), self._kind_of_training()
        if wanted is not None and held != wanted:
            raise ValueError(
                f"{given} holds {_KINDS[held][0]}, which {_KINDS[wanted][1]} training cannot go on from; use another "
                "output_dir, or start afresh."
            )
        if problem := random_state_problem(Path(given), self.args.world_size, self.args.process_index):
            logger.warning(f"{given}: {problem}; random numbers start afresh, all else goes on where it was.")
        return given

    def _kind_of_training(self) -> str | None:
        if has_adapters(self.model):
            return "adapters"
        if isinstance(self.model, PosteriorHead) or getattr(self.args, "cache_features", False):
            return "decision layer"
        return "model" if isinstance(self.model, PreTrainedModel) else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if broken := tensors_not_finite(self.accelerator.unwrap_model(self.model)):
            kept = last_checkpoint(self._get_output_dir(trial=trial))
            raise ValueError(
                f"After step {self.state.global_step} the weights hold NaN or infinite values ({', '.join(broken[:3])}"
                f"{', ...' if len(broken) > 3 else ''}), so they are not saved; training stops. "
                + (f"{kept} is from before and untouched. " if kept else "There is no earlier checkpoint. ")
                + "Lower the learning rates or max_grad_norm, and resume."
            )
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # what an earlier run left in this place must not vouch for half of a new one
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        self._saves_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        except _WRITE_ERRORS as error:
            if (folder / TRAINER_STATE_NAME).exists():  # written to the end: pushing it failed, say
                raise
            shutil.rmtree(folder, ignore_errors=True)
            kept = last_checkpoint(folder.parent)
            raise OSError(
                f"{folder.name} could not be written ({error}). "
                + (f"{Path(kept).name} is untouched" if kept else "There is no earlier checkpoint")
                + f" in {folder.parent}; make room and resume."
            ) from error
        finally:
            self._saves_checkpoint = False

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
        target = Path(str(self.args.output_dir) if output_dir is None else output_dir)
        staging = target.parent / f".{target.name}.incomplete"
        shutil.rmtree(staging, ignore_errors=True)
        whole: Any = self.model
        try:
            if self._saves_checkpoint and self._kind_of_training() == "decision layer":
                self.model = trained_decision_layer(self.accelerator.unwrap_model(whole))
            super()._save(str(staging), state_dict=state_dict)
            target.mkdir(parents=True, exist_ok=True)
            for file in [path for path in staging.rglob("*") if path.is_file()]:
                place = target / file.relative_to(staging)
                place.parent.mkdir(parents=True, exist_ok=True)  # an adapter with a name of its own has a folder
                os.replace(file, place)
        finally:
            self.model = whole
            shutil.rmtree(staging, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._restore(resume_from_checkpoint, self.model if model is None else model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not self._restore(best, self.model):
            super()._load_best_model()

    def _restore(self, folder: str, model: nn.Module) -> bool:
        """Copy every weight of a checkpoint into `model`, in memory's names; False where the Trainer has to do it.

        A weight too many or too few is an error.
        """
        target = self.accelerator.unwrap_model(model)
        has_weights = {SAFE_WEIGHTS_NAME, f"{SAFE_WEIGHTS_NAME}.index.json"} & set(os.listdir(folder))
        if not has_weights or has_adapters(target):
            return False
        if not (Path(folder) / CONFIG_NAME).exists():
            weights = load_file(Path(folder) / SAFE_WEIGHTS_NAME)
            trained_decision_layer(target).load_state_dict(weights, strict=True)
        elif isinstance(target, PreTrainedModel):
            saved = type(target).from_pretrained(folder, dtype=target.dtype)
            target.load_state_dict(saved.state_dict(), strict=True)
        else:
            return False
        logger.info(f"Weights restored from {folder}.")
        return True
