"""Ranking images by a score when scores tie: shared by the risk-coverage curve, the deciles, the equal-mass bins and
the AUROCs.

A confident model gives thousands of images the very same score (p = 0, probability 1.0). A metric that sorts such
images as they come changes with the order of the rows. Here tied images share what they have in common: each counts
with the mean of its tied group, which is its expectation when ties are broken at random. So no number depends on how
the data set was shuffled.
"""

from __future__ import annotations

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor


def sort_with_shared_ties(key: Tensor, values: Tensor, descending: bool = False) -> tuple[Tensor, Tensor]:
    """`key` [B] sorted, and `values` [B] in that order, each replaced by the mean over all images with its key."""
    order = key.argsort(descending=descending, stable=True)
    key = key[order]
    _, group, count = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(count)).index_add_(0, group, values[order])  # [number of distinct keys]
    return key, (sums / count)[group]


def probability_of_superiority(low: Tensor, high: Tensor) -> float:
    """AUROC as Mann and Whitney count it: P(high > low) + P(high = low) / 2 for a random pair."""
    pairs_won = mannwhitneyu(high.numpy(), low.numpy(), method="asymptotic").statistic
    return float(pairs_won) / (len(low) * len(high))
