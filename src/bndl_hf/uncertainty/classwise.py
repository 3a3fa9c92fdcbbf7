"""Every class's probability binned by equal width: what the class-wise calibration error and the Brier score's
decomposition are sums of. Bins of different images add up, so both stream in 3 C M numbers whatever the size of the
test set. calibration.py and scoring.py have the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Probabilities binned at a time: their bin indices take 8 bytes each, 32 MB in all however many rows there are.
CHUNK_ENTRIES = 4_000_000


@dataclass(frozen=True, eq=False)
class ClasswiseBins:
    """Probability and frequency of each of C classes in M bins of [0, 1]; on the CPU. Bins of one M add up with `+`."""

    count: Tensor  # [C, M] images whose probability of class c lies in bin m
    prob_sum: Tensor  # [C, M] sum of those probabilities
    true_sum: Tensor  # [C, M] how many of those images are of class c
    num_images: int

    @property
    def calibration_error(self) -> float:
        """(1 / C) sum_c sum_m |true_cm - prob_cm| / n, a fraction in [0, 1]."""
        gaps = (self.true_sum - self.prob_sum).abs()  # [C, M]
        return (gaps.sum(dim=1) / self.num_images).mean().item()

    @property
    def reliability(self) -> float:
        """sum_c sum_m (n_cm / n) (mean probability - frequency)^2, >= 0 (Murphy 1973)."""
        gap = (self.mean_prob - self.frequency).square()
        return (self.share * gap).sum().item()

    @property
    def resolution(self) -> float:
        """sum_c sum_m (n_cm / n) (frequency - base rate)^2, >= 0 (Murphy 1973)."""
        return (self.share * (self.frequency - self.base_rate[:, None]).square()).sum().item()

    @property
    def uncertainty(self) -> float:
        """sum_c base rate (1 - base rate), >= 0 (Murphy 1973)."""
        return (self.base_rate * (1 - self.base_rate)).sum().item()

    @property
    def share(self) -> Tensor:
        """n_cm / n, [C, M] float64."""
        return self.count.double() / self.num_images

    @property
    def mean_prob(self) -> Tensor:
        """Mean probability of each bin, [C, M]; 0 where a bin is empty and weighs nothing."""
        return (self.prob_sum / self.count).nan_to_num(0.0)

    @property
    def frequency(self) -> Tensor:
        """How often class c was the true one in each bin, [C, M]; 0 where a bin is empty and weighs nothing."""
        return (self.true_sum / self.count).nan_to_num(0.0)

    @property
    def base_rate(self) -> Tensor:
        """Share of images of each class, [C]."""
        return self.true_sum.sum(dim=1) / self.num_images

    def __add__(self, other: ClasswiseBins) -> ClasswiseBins:
        if self.count.shape != other.count.shape:
            raise ValueError(
                f"bins of [C, M] = {list(self.count.shape)} and {list(other.count.shape)} do not add up. "
                "Use one num_bins and one model."
            )
        return replace(
            self,
            count=self.count + other.count,
            prob_sum=self.prob_sum + other.prob_sum,
            true_sum=self.true_sum + other.true_sum,
            num_images=self.num_images + other.num_images,
        )


def bin_every_class(probs: Tensor, labels: Tensor, num_bins: int) -> ClasswiseBins:
    """Bins ((m - 1) / M, m / M] of every class's probability; arguments checked."""
    first, *rest = (_bin_chunk(p, y, num_bins) for p, y in row_chunks(probs, labels))
    for part in rest:
        first = first + part
    return first


def within_bin_variance(bins: ClasswiseBins, probs: Tensor, labels: Tensor) -> float:
    """Stephenson et al.'s remainder (2008): mean over images of sum_c dp^2 - 2 dp dy, where dp and dy are how far
    probability and truth lie from the means of their bin; arguments checked, `bins` are theirs.
    """
    total = 0.0
    classes = torch.arange(probs.shape[1])
    for p, y in row_chunks(probs, labels):
        cell = (classes, bin_index(p, bins.count.shape[1]))  # [C] with [b, C]
        dp = p - bins.mean_prob[cell]  # [b, C]
        dy = (y[:, None] == classes).double() - bins.frequency[cell]
        total += (dp.square() - 2 * dp * dy).sum().item()
    return total / bins.num_images


def row_chunks(probs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of both, on the CPU, of at most CHUNK_ENTRIES probabilities."""
    rows = max(1, CHUNK_ENTRIES // probs.shape[1])
    for p, y in zip(probs.split(rows), labels.split(rows), strict=True):
        yield p.cpu(), y.cpu()


def equal_width_edges(num_bins: int) -> Tensor:
    """0, 1/M, ..., 1: [M + 1] float64."""
    return torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)


def bin_index(probs: Tensor, num_bins: int) -> Tensor:
    """Bin of each probability, int64; right-closed bins, 0 falls in the first, anything above 1 in the last."""
    return torch.bucketize(probs, equal_width_edges(num_bins)[1:-1])


def _bin_chunk(probs: Tensor, labels: Tensor, num_bins: int) -> ClasswiseBins:
    num_images, num_classes = probs.shape
    shape = (num_classes, num_bins)
    cell = bin_index(probs, num_bins).add_(torch.arange(num_classes) * num_bins)  # [B, C] index into [C, M]
    flat, size = cell.flatten(), num_classes * num_bins
    return ClasswiseBins(
        count=torch.bincount(flat, minlength=size).view(shape),
        prob_sum=torch.bincount(flat, weights=probs.flatten(), minlength=size).view(shape),
        true_sum=torch.bincount(cell.gather(1, labels[:, None]).flatten(), minlength=size).view(shape).double(),
        num_images=num_images,
    )
