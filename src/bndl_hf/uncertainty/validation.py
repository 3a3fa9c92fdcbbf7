"""Checks on what a user hands to `bndl_hf.uncertainty`: done once, where a value enters, so that the metrics
(Sec. 5 of the paper) can trust it.

Every message says what arrived, what fits and what to do. The helpers return detached tensors ready to count with,
float64 and int64. Values per image come back on the CPU, where sorting and counting them is deterministic and cheap;
values per image and class stay on their device if it knows float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Largest accepted |sum - 1| of a row of probabilities. A softmax that was once rounded to bfloat16 (8 significant bits)
# is off by up to 2^-9 = .002, whatever dtype it is in by now; what is not a distribution is usually off by far more.
SUM_TOLERANCE = 1e-2


def check_probs(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`probs` [B, C] as float64 rows that sum to one, `labels` [B] as int64 on the same device; or ValueError."""
    arrived = torch.as_tensor(probs).detach()
    if arrived.ndim != 2 or arrived.shape[0] < 1 or arrived.shape[1] < 2:
        raise ValueError(
            f"probs has shape {list(arrived.shape)}; images by classes, [B, C] with B >= 1 and C >= 2, fits. "
            "Pass softmax(logits, dim=-1)."
        )
    checked = as_float64(arrived)
    check_finite(checked, "probs", "Find the image whose logits are not finite before taking the softmax.")
    if (lowest := checked.min().item()) < 0:
        raise ValueError(
            f"probs holds {lowest:.4g}; probabilities lie in [0, 1]. Pass softmax(logits, dim=-1), not the logits."
        )
    off = (checked.sum(dim=-1) - 1).abs()  # [B]
    if off.max().item() > SUM_TOLERANCE:
        row = int(off.argmax())
        raise ValueError(
            f"probs sums to {checked[row].sum().item():.4g} in row {row}; every row sums to 1. "
            "Pass softmax(logits, dim=-1) over all classes."
        )
    return checked, check_labels(labels, *checked.shape).to(checked.device)


def check_logits_samples(logits_samples: Tensor) -> Tensor:
    """`logits_samples` [S, B, C] with at least two draws, finite, in the dtype it came in, or ValueError."""
    arrived = torch.as_tensor(logits_samples).detach()
    if arrived.ndim != 3 or arrived.shape[1] < 1 or arrived.shape[2] < 2:
        raise ValueError(
            f"logits_samples has shape {list(arrived.shape)}; draws first, [S, B, C] with B >= 1 and C >= 2, fits. "
            "Pass prediction.logits_samples of model.predict(..., method='monte_carlo')."
        )
    if arrived.shape[0] < 2:
        raise ValueError(
            f"logits_samples holds S={arrived.shape[0]} draws; a t-test needs at least 2. "
            "Pass num_samples=20, the paper's number."
        )
    check_finite(arrived, "logits_samples", "Leave out classes masked with -inf, and images whose logits overflowed.")
    return arrived


def check_labels(labels: Tensor, num_images: int, num_classes: int, name: str = "labels") -> Tensor:
    """`labels` [B] as int64 class indices on their own device, or ValueError that calls the argument `name`."""
    arrived = torch.as_tensor(labels).detach()
    if arrived.ndim != 1 or arrived.shape[0] != num_images:
        raise ValueError(
            f"{name} has shape {list(arrived.shape)}; one class index per image, shape [{num_images}], fits. "
            f"Pass {name}.argmax(dim=-1) if its rows are one-hot."
        )
    if arrived.dtype.is_floating_point or arrived.dtype.is_complex or arrived.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {arrived.dtype}; class indices are integers. Pass {name}.long().")
    for extreme in (arrived.min().item(), arrived.max().item()):
        if not 0 <= extreme < num_classes:
            raise ValueError(
                f"{name} holds {extreme}; with C={num_classes} classes an index lies in 0..{num_classes - 1}. "
                "Leave out ignored images (-100) and check that the model has the dataset's num_labels."
            )
    return arrived.to(torch.int64)


def check_scores(scores: Tensor, name: str) -> Tensor:
    """One score per image, [B], as float64 on the CPU, or ValueError. Infinite scores have a rank; NaN has none."""
    arrived = torch.as_tensor(scores).detach()
    if arrived.ndim != 1 or arrived.shape[0] == 0:
        raise ValueError(
            f"{name} has shape {list(arrived.shape)}; one number per image, [B] with B >= 1, fits. "
            "Pass a vector that is not empty."
        )
    checked = arrived.cpu().to(torch.float64)
    if (count := int(checked.isnan().sum())) > 0:
        raise ValueError(
            f"{name} holds {count} NaN of {len(checked)} values; NaN has no rank. "
            "Find the image that made it, or leave it out."
        )
    return checked


def check_correct(correct: Tensor, num_images: int) -> Tensor:
    """`correct` [B], booleans or zeros and ones, as float64 on the CPU, or ValueError."""
    arrived = torch.as_tensor(correct).detach()
    if arrived.ndim != 1 or arrived.shape[0] != num_images:
        raise ValueError(
            f"correct has shape {list(arrived.shape)}; one truth value per image, shape [{num_images}], fits. "
            "Pass predicted == labels."
        )
    checked = arrived.cpu().to(torch.float64)
    strange = checked[(checked != 0) & (checked != 1)]
    if len(strange) > 0:
        raise ValueError(
            f"correct holds {strange[0].item():.4g}; it is True/False or 1/0 for each image. Pass predicted == labels."
        )
    return checked


def check_finite(values: Tensor, name: str, advice: str) -> None:
    """ValueError with the number of NaN and infinite entries of `values`, if there are any."""
    if (count := int((~values.isfinite()).sum())) > 0:
        raise ValueError(
            f"{name} holds {count} values that are NaN or infinite, of {values.numel()}; all must be finite. {advice}"
        )


def check_threshold(threshold: float) -> None:
    """ValueError unless the significance level lies strictly between 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError(
            f"threshold={threshold} is not in (0, 1); it is the p-value below which an image is certain. "
            "Pass 0.05, say."
        )


def check_count(value: int, name: str) -> None:
    """ValueError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is not a whole number of at least 1. Pass an int such as 15.")


def check_choice(value: str, name: str, choices: Sequence[str]) -> None:
    """ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown. Pass one of {', '.join(repr(choice) for choice in choices)}.")


def as_float64(values: Tensor) -> Tensor:
    """`values` in float64, on its own device unless that device has no float64 (Apple's MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).to(torch.float64)
