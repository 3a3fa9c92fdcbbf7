"""Accuracy and the proper scores: negative log-likelihood and Brier. They are lowest, on average, for the true
probabilities, so they judge accuracy and calibration (Sec. 5) at once and cannot be gamed by the choice of bins.
calibration.py has the part that needs bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .classwise import bin_every_class, within_bin_variance
from .validation import check_count, check_probs

# The smallest normal float64, 2.2e-308: a true class of probability zero costs 708.4 nats, not infinitely many.
PROBABILITY_FLOOR = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class BrierDecomposition:
    """Parts of the Brier score: it equals reliability - resolution + uncertainty + within_bin."""

    reliability: float  # >= 0: (mean probability - frequency)^2 of a bin; 0 is calibrated
    resolution: float  # >= 0: squared distance of a bin's frequency and the base rate; more is better
    uncertainty: float  # >= 0: sum_c of base rate (1 - base rate), the score of predicting the base rates
    within_bin: float  # variance of the probabilities in a bin, minus twice their covariance with the truth


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Share of images whose most probable class is the true one.

    Args:
        probs: [B, C] probabilities. The first of equally probable classes is the predicted one.
        labels: [B] true classes.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length.

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
        0.5
    """
    checked, truth = check_probs(probs, labels)
    return (checked.argmax(dim=-1) == truth).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Mean of -log p(true class), in nats.

    A probability of exactly zero (float32 softmax underflows at a gap of 104) counts as 2.2e-308: 708.4 nats for that
    image, so one such image moves the mean without making it infinite.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.

    Returns:
        Nats per image, in [0, 708.4]; log(C) for uniform probabilities.

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length.

    Example:
        >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 1])), 4)
        0.4904
    """
    return log_loss_per_image(*check_probs(probs, labels)).mean().item()


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Mean over images of sum_c (p_c - [c is true])^2 (Brier 1950).

    Summed over classes: for two classes it is twice scikit-learn's `brier_score_loss` with its default
    `scale_by_half="auto"`.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.

    Returns:
        A number in [0, 2]: 0 for certain and right, 2 for certain and wrong, 1 - 1/C for uniform probabilities.

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(brier_score(probs, torch.tensor([0, 0])), 4)  # (.01 + .01 + .36 + .36) / 2
        0.37
    """
    return squared_error_per_image(*check_probs(probs, labels)).mean().item()


def brier_decomposition(probs: Tensor, labels: Tensor, num_bins: int = 15) -> BrierDecomposition:
    """Brier score = reliability - resolution + uncertainty (Murphy 1973) + what happens within bins.

    Each class's probability is binned by equal width and decomposed as a yes/no forecast; the parts are summed over
    classes. Murphy's three terms are the whole score only if a bin holds a single probability; the remainder
    (Stephenson et al. 2008) makes the sum exact: within_bin = mean over images of (p - bin mean of p)^2 - 2 (p - bin
    mean of p)(y - bin frequency), y = 1 for the true class.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.
        num_bins: Equal-width bins of each class's probability.

    Returns:
        BrierDecomposition, whose parts reproduce `brier_score` up to rounding.

    Raises:
        ValueError: as `brier_score`; num_bins < 1.

    Example:
        >>> parts = brier_decomposition(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> parts.reliability, parts.resolution, parts.uncertainty
        (0.0, 0.5, 0.5)
    """
    check_count(num_bins, "num_bins")
    checked, truth = check_probs(probs, labels)
    bins = bin_every_class(checked, truth, num_bins)
    within_bin = within_bin_variance(bins, checked, truth)
    return BrierDecomposition(bins.reliability, bins.resolution, bins.uncertainty, within_bin)


def log_loss_per_image(probs: Tensor, labels: Tensor) -> Tensor:
    """-log p(true class) of each image, [B], in nats; arguments checked."""
    return -probs.gather(1, labels.unsqueeze(1)).squeeze(1).clamp_min(PROBABILITY_FLOOR).log()


def squared_error_per_image(probs: Tensor, labels: Tensor) -> Tensor:
    """sum_c (p_c - [c is true])^2 of each image, [B]; arguments checked."""
    minus_one = probs.new_full((len(labels), 1), -1.0)
    return probs.scatter_add(1, labels.unsqueeze(1), minus_one).square().sum(dim=1)
