"""Every class's probability against how often it came true, added up over batches: what the class-wise calibration error
and the Brier decomposition need of a test set of any size, in 5 x C x M numbers. calibration.py and scoring.py have the
same two for all images at once, and their sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scoring import BrierDecomposition
from .validation import check_count, check_probs


@dataclass(frozen=True, eq=False)
class ClassBins:
    """Sums over images of each class's probability p and outcome y in M equal-width bins of p; they add up with `+`."""

    sums: Tensor  # [5, C, M] float64 on the CPU: count, p, p^2, y, p y; y is 1 for the true class, else 0

    def __add__(self, other: ClassBins) -> ClassBins:
        if self.sums.shape != other.sums.shape:
            mine, theirs = list(self.sums.shape[1:]), list(other.sums.shape[1:])
            raise ValueError(
                f"Bins of [classes, bins] = {mine} and {theirs} do not add up; use one num_bins for one set of classes."
            )
        return ClassBins(self.sums + other.sums)

    @property
    def classwise_calibration_error(self) -> float:
        """As `classwise_calibration_error` of all images so far, a fraction in [0, 1]."""
        count, p, _, y, _ = self.sums
        num_images = count[0].sum()
        return ((y - p).abs().sum(dim=-1) / num_images).mean().item()

    @property
    def brier_decomposition(self) -> BrierDecomposition:
        """As `brier_decomposition` of all images so far."""
        count, p, p_squared, y, p_y = self.sums
        num_images = count[0].sum()
        mean_forecast, frequency = (p / count).nan_to_num(0.0), (y / count).nan_to_num(0.0)  # [C, M]
        base_rate = y.sum(dim=-1, keepdim=True) / num_images  # [C, 1]
        # sum (p - m)^2 - 2 (p - m)(y - f) over a bin with means m and f
        within = p_squared - count * mean_forecast.square() - 2 * (p_y - count * mean_forecast * frequency)
        return BrierDecomposition(
            reliability=((count * (mean_forecast - frequency).square()).sum() / num_images).item(),
            resolution=((count * (frequency - base_rate).square()).sum() / num_images).item(),
            uncertainty=(base_rate * (1 - base_rate)).sum().item(),
            within_bin=(within.sum() / num_images).item(),
        )


def class_bins(probs: Tensor, labels: Tensor, num_bins: int = 15) -> ClassBins:
    """Bins of every class's probability for one batch; add the batches up.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.
        num_bins: M equal-width bins ((m - 1) / M, m / M] of each class's probability.

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length, num_bins < 1.

    Example:
        >>> first = class_bins(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
        >>> second = class_bins(torch.tensor([[0.9, 0.1]]), torch.tensor([1]))
        >>> round((first + second).classwise_calibration_error, 4)  # |1 - 1.8| / 2 and |1 - 0.2| / 2
        0.4
    """
    check_count(num_bins, "num_bins")
    checked, truth = (values.cpu() for values in check_probs(probs, labels))
    num_classes = checked.shape[1]
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    place = torch.bucketize(checked, edges[1:-1]) + num_bins * torch.arange(num_classes)  # [B, C], a bin of a class
    outcome = torch.zeros_like(checked).scatter_(1, truth.unsqueeze(1), 1.0)
    values = (torch.ones_like(checked), checked, checked.square(), outcome, checked * outcome)
    sums = [torch.bincount(place.flatten(), v.flatten(), minlength=num_classes * num_bins) for v in values]
    return ClassBins(torch.stack(sums).view(5, num_classes, num_bins))
