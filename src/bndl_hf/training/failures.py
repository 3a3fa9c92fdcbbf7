"""What training stops for, in sentences: a loss that is not a number, a batch of one image before a BatchNorm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# With float16 a step whose gradients overflow is skipped, and the weights stay good; not so many in a row.
_MOST_SKIPPED_STEPS = 10


@dataclass(frozen=True)
class Place:
    """Where in a training a batch was: optimizer step and batch of that step, from 1, and epochs."""

    step: int
    batch: int
    epoch: float


class LossWatch:
    """Finds the loss that is not a number: at once on a processor, one batch later where waiting would cost time.

    A GPU works behind the program that feeds it. Asking for a loss stops the program until the GPU has caught up, and
    then the GPU waits for the program; the loss of the batch before has long been there.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._pending: tuple[Tensor, torch.cuda.Event, Place] | None = None

    def add(self, loss: Tensor, place: Place, may_be_skipped: bool) -> tuple[float, Place] | None:
        """The loss that training stops for and its place, if one is known by now.

        Args:
            loss: of a batch, one number.
            place: of that batch.
            may_be_skipped: whether a step of such a loss does no harm (float16), up to ten in a row.
        """
        if not loss.is_cuda:
            return self._judge(loss.item(), place, may_be_skipped)
        found = self.finish(may_be_skipped)
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        arrives = torch.cuda.Event()
        arrives.record()
        self._pending = copy, arrives, place
        return found

    def finish(self, may_be_skipped: bool = False) -> tuple[float, Place] | None:
        """As `add`, for what is still on its way when training ends."""
        if self._pending is None:
            return None
        (copy, arrives, place), self._pending = self._pending, None
        arrives.synchronize()
        return self._judge(copy.item(), place, may_be_skipped)

    def _judge(self, loss: float, place: Place, may_be_skipped: bool) -> tuple[float, Place] | None:
        if math.isfinite(loss):
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        return None if may_be_skipped and self._in_a_row <= _MOST_SKIPPED_STEPS else (loss, place)


def tensors_not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold NaN or infinite values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]


def loss_not_finite(loss: float, place: Place, model: nn.Module, kept: str | None) -> ValueError:
    """The error of a batch whose loss is NaN or infinite.

    Args:
        loss: of the batch.
        place: of the batch.
        model: the model, whose broken tensors are named.
        kept: path of the last whole checkpoint, or None.
    """
    broken = tensors_not_finite(model)
    names = f"{', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}"
    cause = "The weights are finite, so it comes from this batch"
    if broken:
        # On a GPU the step of this batch was taken before its loss was known (`LossWatch`).
        on_gpu = next(model.parameters()).is_cuda
        cause = (
            f"The weights are broken, by this batch or the step before it ({names})"
            if on_gpu
            else f"The weights are broken since the step before ({names})"
        )
    held = f"{kept} is from before and untouched" if kept else "There is no earlier checkpoint"
    return ValueError(
        f"The loss is {loss} at step {place.step}, batch {place.batch} (epoch {place.epoch:.2f}); training stops. "
        f"{cause}. {held}. Lower the learning rates or max_grad_norm, add warmup_steps, or train without fp16, and "
        "resume."
    )


@contextmanager
def batch_norm_errors_in_words(batch_size: int) -> Iterator[None]:
    """Say what to do where a BatchNorm gets one value per channel: a batch of one image, down to 1 x 1 pixels."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "A batch holds one image, and the backbone's BatchNorm cannot train on a single value per channel. Pass "
            f"dataloader_drop_last=True (--dataloader_drop_last), or a per_device_train_batch_size other than "
            f"{batch_size} that leaves no single image over."
        ) from error
