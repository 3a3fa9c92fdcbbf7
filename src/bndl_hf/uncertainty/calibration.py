"""Calibration: does a probability of .8 come true four times in five? The numbers behind the paper's claim that BNDL's
uncertainty can be trusted (Sec. 5), and the bins of a reliability diagram.

All of them compare, bin by bin, the mean probability with the share of images where it came true; they differ in what
is binned (the top class or every class) and how (equal width or equal mass). Proper scores, which need no bins, are in
scoring.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .classwise import bin_every_class, bin_index, equal_width_edges
from .ranking import sort_with_shared_ties
from .validation import check_choice, check_count, check_probs

STRATEGIES = ("equal_width", "equal_mass")


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Confidence and accuracy in M bins, a reliability diagram; on the CPU. Bins of the same edges add up with `+`."""

    edges: Tensor  # [M + 1] bin m is (edges[m], edges[m + 1]]; the first bin includes its lower edge
    count: Tensor  # [M] images
    confidence_sum: Tensor  # [M] sum of the confidences of a bin
    correct_sum: Tensor  # [M] number of accurate images of a bin

    @property
    def confidence(self) -> Tensor:
        """Mean confidence of each bin, [M], in [0, 1]; NaN where a bin is empty, which a plot leaves out."""
        return self.confidence_sum / self.count

    @property
    def accuracy(self) -> Tensor:
        """Share of accurate images of each bin, [M], in [0, 1]; NaN where a bin is empty, which a plot leaves out."""
        return self.correct_sum / self.count

    @property
    def expected_calibration_error(self) -> float:
        """sum_m (n_m / n) |accuracy_m - confidence_m|, a fraction in [0, 1]; empty bins weigh nothing."""
        return ((self.correct_sum - self.confidence_sum).abs().sum() / self.count.sum()).item()

    @property
    def maximum_calibration_error(self) -> float:
        """max_m |accuracy_m - confidence_m| over bins with images, a fraction in [0, 1]."""
        return (self.accuracy - self.confidence).abs().nan_to_num(0.0).max().item()

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        if not torch.equal(self.edges, other.edges):
            raise ValueError(
                f"edges of {len(self.count)} and {len(other.count)} bins differ; only bins of the same edges add up. "
                "Use equal_width bins and one num_bins."
            )
        return replace(
            self,
            count=self.count + other.count,
            confidence_sum=self.confidence_sum + other.confidence_sum,
            correct_sum=self.correct_sum + other.correct_sum,
        )


def expected_calibration_error(probs: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Calibration error of the top class: sum_m (n_m / n) |accuracy_m - confidence_m| (Guo et al. 2017).

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.
        num_bins: Bins ((m - 1) / M, m / M] of the highest probability. 15: Guo et al.'s value (arXiv:1706.04599, Table
            1).

    Returns:
        A fraction in [0, 1]; 0 for a perfect prediction.

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length, num_bins < 1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
        >>> round(expected_calibration_error(probs, torch.tensor([0, 1, 1])), 4)  # (|1 - 1.8| + |1 - 0.6|) / 3
        0.4
    """
    return calibration_bins(probs, labels, num_bins).expected_calibration_error


def adaptive_calibration_error(probs: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Expected calibration error of the top class over bins that hold equally many images (Nguyen and O'Connor 2015).

    A confident classifier has nearly all its images in one equal-width bin; equal mass spreads them. Images of equal
    confidence share their accuracy, so the order of the rows does not matter.

    Departure: Nixon et al.'s ACE (arXiv:1904.01685) averages over all classes; this is about the top class, as most
    papers report it.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.
        num_bins: Number of bins; their sizes differ by at most one image.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: as `expected_calibration_error`.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> round(adaptive_calibration_error(probs, labels, num_bins=2), 4)  # (|1 - 1.3| + |2 - 1.7|) / 4
        0.15
    """
    return calibration_bins(probs, labels, num_bins, strategy="equal_mass").expected_calibration_error


def classwise_calibration_error(probs: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Calibration error of every class's probability, averaged over classes (Kull et al. 2019).

    (1 / C) sum_c sum_m (n_mc / n) |share of class c in bin m - mean probability of class c in bin m|. It sees
    probabilities below the top one, which `expected_calibration_error` does not; with many classes it is small,
    because most probabilities are near zero.

    Args:
        probs: [B, C] probabilities.
        labels: [B] true classes.
        num_bins: Equal-width bins of each class's probability.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: as `expected_calibration_error`.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
        >>> round(classwise_calibration_error(probs, torch.tensor([0, 1])), 4)  # |1 - 1.8| / 2 and |1 - 0.2| / 2
        0.4
    """
    check_count(num_bins, "num_bins")
    return bin_every_class(*check_probs(probs, labels), num_bins).calibration_error


def calibration_bins(
    probs: Tensor, labels: Tensor, num_bins: int = 15, strategy: str = "equal_width"
) -> CalibrationBins:
    """Confidence against accuracy of the top class in M bins: a reliability diagram (Guo et al. 2017, Fig. 1).

    Args:
        probs: [B, C] probabilities. The top class is the first of equal ones.
        labels: [B] true classes.
        num_bins: M.
        strategy: "equal_width" bins of [0, 1], or "equal_mass" bins of equally many images.

    Returns:
        CalibrationBins with `confidence` [M] and `accuracy` [M], NaN in empty bins.

    Raises:
        ValueError: as `expected_calibration_error`; an unknown strategy.

    Example:
        >>> bins = calibration_bins(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]), num_bins=4)
        >>> bins.count, bins.correct_sum
        (tensor([0, 0, 1, 1]), tensor([0., 0., 0., 1.], dtype=torch.float64))
    """
    check_count(num_bins, "num_bins")
    check_choice(strategy, "strategy", STRATEGIES)
    checked, truth = check_probs(probs, labels)
    confidence, predicted = checked.max(dim=-1).values.cpu(), checked.argmax(dim=-1)  # [B]
    correct = (predicted == truth).cpu().to(torch.float64)
    return (bin_equal_width if strategy == "equal_width" else bin_equal_mass)(confidence, correct, num_bins)


def bin_equal_width(confidence: Tensor, correct: Tensor, num_bins: int) -> CalibrationBins:
    """Bins ((m - 1) / M, m / M] of checked `confidence` [B] in [0, 1] with `correct` [B] as 0.0 or 1.0."""
    index = bin_index(confidence, num_bins)
    return CalibrationBins(
        edges=equal_width_edges(num_bins),
        count=torch.bincount(index, minlength=num_bins),
        confidence_sum=torch.bincount(index, weights=confidence, minlength=num_bins),
        correct_sum=torch.bincount(index, weights=correct, minlength=num_bins),
    )


def bin_equal_mass(confidence: Tensor, correct: Tensor, num_bins: int) -> CalibrationBins:
    """Bins whose sizes differ by at most one, ascending in confidence; with fewer images than bins some are empty."""
    confidence, correct = sort_with_shared_ties(confidence, correct)
    parts = confidence.tensor_split(num_bins)
    ends = torch.tensor([len(part) for part in parts]).cumsum(dim=0)  # [M] images up to and including bin m
    edges = torch.cat([confidence[:1], confidence[(ends - 1).clamp_min(0)]])
    return CalibrationBins(
        edges=edges,
        count=ends.diff(prepend=ends.new_zeros(1)),
        confidence_sum=torch.stack([part.sum() for part in parts]),
        correct_sum=torch.stack([part.sum() for part in correct.tensor_split(num_bins)]),
    )
