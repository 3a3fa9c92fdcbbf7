"""How familiar the features of an image are, beside how sure the answer is: statistics that travel with the layer.

Logits see little of the features: whatever all classes weigh alike, and whatever none of them reads, is lost in them,
so an image unlike any other can have one sure answer. The Mahalanobis distance to the nearest class mean (Lee et al.
2018, arXiv:1807.03888) sees all of it, and the entropy of the tempered logits sees images between two classes. Each
becomes a p-value among held-out images, and Fisher's method (1932) makes one number of both.

bndl_hf.uncertainty.familiarity fits the numbers that are kept here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

# What E[l] is divided by before the entropy; chosen on the choosing rows of docs/uncertainty.md's features and the same
# for every model since.
ENTROPY_TEMPERATURE = 2.0
# Points of the quantile function of the entropy, from the smallest to the largest held-out one.
NUM_QUANTILES = 101
# Share of the level of the two-sided test of the distance that is spent on images nearer than usual: faint ones lie
# near the mean of their class and are rare, far ones are the rule.
_NEAR_SHARE = 0.01
# log erfcx(y) - log w with w = 1/(1 + y/2), y >= 0: a minimax polynomial of w, lowest power first; 1e-7, absolute
# fmt: off
_LOG_ERFCX = (
    -1.2655122201, 1.00002265, 0.37412503629, 0.096388151788, -0.18396627702, 0.27135191844, -1.1211005785,
    1.4732562425, -0.8133261736, 0.16876116954,
)
# fmt: on


class Familiarity(nn.Module):
    """Class means, one covariance within the classes, and what is usual among held-out images; nothing is trained.

    The covariance is that of probabilistic PCA (Tipping and Bishop 1999): `rank` directions have a variance of their
    own, all others share one, so that D (C + rank) numbers are kept instead of D (C + D).

    Args:
        num_labels: C.
        feature_dim: D.
        rank: r, in 1 .. D - 1.
    """

    class_means: Tensor  # [C, D]
    directions: Tensor  # [D, r], orthonormal
    shrinkage: Tensor  # [r], 1 - noise_std / standard deviation along each direction, in [0, 1)
    noise_std: Tensor  # [], standard deviation along all other directions, > 0
    log_distance: Tensor  # [2], mean and standard deviation of the logarithm of held-out distances
    entropy_quantiles: Tensor  # [NUM_QUANTILES] of held-out images, nats, ascending
    num_held_out: Tensor  # [], images the last two are of

    def __init__(self, num_labels: int, feature_dim: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("class_means", torch.empty(num_labels, feature_dim))
        self.register_buffer("directions", torch.empty(feature_dim, rank))
        self.register_buffer("shrinkage", torch.empty(rank))
        self.register_buffer("noise_std", torch.empty(()))
        self.register_buffer("log_distance", torch.empty(2))
        self.register_buffer("entropy_quantiles", torch.empty(NUM_QUANTILES))
        self.register_buffer("num_held_out", torch.empty(()))
        self.reset_parameters()

    @property
    def rank(self) -> int:
        """r, the directions with a variance of their own."""
        return len(self.shrinkage)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """NaN everywhere: until it is fitted or loaded, it has nothing to say."""
        for buffer in self.buffers():
            init.constant_(buffer, math.nan)

    def mahalanobis_distance(self, features: Tensor) -> Tensor:
        """Distance of features [B, D] to the nearest class mean, in standard deviations within the classes, [B], >= 0.

        min_c |A (h - m_c)|, where A^T A is the inverse covariance: A = (I - V diag(shrinkage) V^T) / noise_std.
        """
        centre = self.class_means.mean(dim=0)  # so that squares of what all features share do not cancel
        h, means = self._whiten(features.float() - centre), self._whiten(self.class_means - centre)
        if not torch.compiler.is_compiling():
            return torch.cdist(h, means).amin(dim=-1)  # [B, C] -> [B]
        # cdist takes one formula or another by how many rows there are, which an exported graph does not know
        squares = h.square().sum(dim=-1, keepdim=True) + means.square().sum(dim=-1) - 2 * h @ means.T
        return squares.amin(dim=-1).clamp_min(0).sqrt()

    def _whiten(self, rows: Tensor) -> Tensor:
        """A times rows [N, D], whose directions then all have unit variance within the classes."""
        return (rows - ((rows @ self.directions) * self.shrinkage) @ self.directions.T) / self.noise_std

    def p_values(self, features: Tensor, logits_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance, and the logarithms of the two p-values, each [B].

        Args:
            features: h, [B, D].
            logits_mean: E[l] of the same images, [B, C].

        Returns:
            (Mahalanobis distance; log p of the distance, two-sided, of a log-normal fitted to held-out distances, so
            that it goes on where they end; log p of the entropy, the share of held-out images that have as much).
        """
        distance = self.mahalanobis_distance(features)
        mean, std = self.log_distance
        z = (distance.clamp_min(torch.finfo(torch.float32).tiny).log() - mean) / std
        far = log_ndtr(-z) - math.log1p(-_NEAR_SHARE)
        near = log_ndtr(z) - math.log(_NEAR_SHARE)
        log_p_distance = torch.minimum(far, near).clamp_max(0)
        share_below = _share_below(self.entropy_quantiles, tempered_entropy(logits_mean))
        n = self.num_held_out
        return distance, log_p_distance, (((1 - share_below) * n + 1) / (n + 1)).log()

    def forward(self, features: Tensor, logits_mean: Tensor) -> tuple[Tensor, Tensor]:
        """(Mahalanobis distance [B], Fisher's statistic -2 (log p + log p) [B], >= 0, larger for less familiar)."""
        distance, log_p_distance, log_p_entropy = self.p_values(features, logits_mean)
        return distance, -2 * (log_p_distance + log_p_entropy)


def log_ndtr(z: Tensor) -> Tensor:
    """Logarithm of the standard normal distribution function, as `torch.special.log_ndtr`, for exported graphs too.

    ONNX makes it of erf and exp, which is infinite below z = -6. Within 3e-7 of max(1, |log|) in float32.
    """
    y = z.abs() / math.sqrt(2)
    w = 1 / (1 + y / 2)
    series = torch.full_like(w, _LOG_ERFCX[-1])
    for coefficient in _LOG_ERFCX[-2::-1]:
        series = series * w + coefficient
    log_tail = series + w.log() - y.square() - math.log(2)  # log Phi(-|z|)
    return torch.where(z < 0, log_tail, torch.log1p(-log_tail.exp()))


def tempered_entropy(logits_mean: Tensor) -> Tensor:
    """H(softmax(E[l] / 2)) of logits [B, C], [B], nats in [0, log C]."""
    log_probs = (logits_mean / ENTROPY_TEMPERATURE).log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def _share_below(quantiles: Tensor, values: Tensor) -> Tensor:
    """Share of the sample below each value [B], by its equally spaced quantiles [Q], linear between them."""
    last = len(quantiles) - 1
    above = (quantiles < values[:, None]).sum(dim=-1).clamp(1, last)  # searchsorted has no ONNX operator
    low, high = quantiles[above - 1], quantiles[above]
    within = ((values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
    return (above - 1 + within) / last


__all__ = ["ENTROPY_TEMPERATURE", "NUM_QUANTILES", "Familiarity", "log_ndtr", "tempered_entropy"]
