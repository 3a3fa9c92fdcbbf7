"""Accuracy by uncertainty decile, the paper's Fig. 2: sort the test images by uncertainty, cut them into ten groups,
and look at the accuracy of each. A useful uncertainty makes it fall from left to right. selective.py condenses the
same question into one number.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .calibration import bin_equal_mass
from .validation import check_correct, check_count, check_scores


@dataclass(frozen=True, eq=False)
class AccuracyByUncertainty:
    """Groups of images from least to most uncertain; tensors on the CPU."""

    uncertainty: Tensor  # [G] mean uncertainty of each group, in the unit it came in, ascending
    accuracy: Tensor  # [G] share of accurate images of each group, in [0, 1]
    count: Tensor  # [G] images; they differ by at most one


def accuracy_by_uncertainty_decile(uncertainty: Tensor, correct: Tensor, num_groups: int = 10) -> AccuracyByUncertainty:
    """Mean accuracy and mean uncertainty of ten equally large groups of images, sorted by uncertainty (Fig. 2).

    Images of equal uncertainty share their accuracy, so the order of the rows does not matter: with one constant
    uncertainty every group has the overall accuracy.

    Args:
        uncertainty: [B] any score that is higher for less certain images: p-value, entropy in nats, 1 - confidence.
        correct: [B] whether the prediction is right, booleans or 0/1.
        num_groups: G, at most B. 10: the paper's value, Fig. 2.

    Returns:
        AccuracyByUncertainty, least uncertain group first.

    Raises:
        ValueError: uncertainty empty or NaN, correct of another length, fewer images than groups.

    Example:
        >>> import torch
        >>> uncertainty, correct = torch.tensor([0.1, 0.9, 0.2, 0.8]), torch.tensor([1, 0, 1, 1])
        >>> groups = accuracy_by_uncertainty_decile(uncertainty, correct, num_groups=2)
        >>> groups.accuracy
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    check_count(num_groups, "num_groups")
    key = check_scores(uncertainty, "uncertainty")
    accurate = check_correct(correct, len(key))
    if len(key) < num_groups:
        raise ValueError(
            f"uncertainty has {len(key)} images for num_groups={num_groups}; every group needs an image. "
            "Pass more images or a smaller num_groups."
        )
    groups = bin_equal_mass(key, accurate, num_groups)
    return AccuracyByUncertainty(uncertainty=groups.confidence, accuracy=groups.accuracy, count=groups.count)
