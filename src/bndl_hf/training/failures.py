"""What training stops for, in sentences: a loss that is not a number, a batch of one image before a BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def tensors_not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold NaN or infinite values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]


def loss_not_finite(loss: float, step: int, batch: int, epoch: float, model: nn.Module, kept: str | None) -> ValueError:
    """The error of a step whose loss is NaN or infinite.

    Args:
        loss: of the batch.
        step: number of the optimizer step, from 1.
        batch: number of the batch in that step, from 1; above 1 with gradient accumulation.
        epoch: where in the training, in epochs.
        model: the model, whose broken tensors are named.
        kept: path of the last whole checkpoint, or None.
    """
    broken = tensors_not_finite(model)
    cause = (
        f"The weights are broken since the step before ({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''})"
        if broken
        else "The weights are finite, so it comes from this batch"
    )
    held = f"{kept} is from before and untouched" if kept else "There is no earlier checkpoint"
    return ValueError(
        f"The loss is {loss} at step {step}, batch {batch} (epoch {epoch:.2f}); training stops. {cause}. {held}. Lower "
        "the learning rates or max_grad_norm, add warmup_steps, or train without fp16, and resume."
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
