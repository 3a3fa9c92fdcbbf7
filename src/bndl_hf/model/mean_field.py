"""The mean-field predictive and its recalibration: from gaps between logits, each with a variance, to probabilities.

The gap of class c to one reference class r per image is divided by sqrt(T^2 + pi/8 v Var[l_c - l_r]): the probit
approximation of MacKay (1992). The softmax of these damped gaps is the predictive. Read predictive.py next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recalibration:
    """Two numbers fitted on held-out images (`bndl_hf.uncertainty.fit_temperature`); 1 and 1 change nothing.

    The random logits l are replaced by l' = (E[l] + sqrt(v) (l - E[l])) / T.

    Attributes:
        temperature: T > 0; above 1 every probability is softened.
        variance_scale: v >= 0; 0 leaves the softmax of the mean logits, divided by T.
    """

    temperature: float | Tensor = 1.0
    variance_scale: float | Tensor = 1.0

    @property
    def spread(self) -> float | Tensor:
        """sqrt(v): what the distance of a draw to its mean is multiplied by."""
        return self.variance_scale**0.5

    def damping(self, gap_variance: Tensor) -> Tensor:
        """What a gap between logits is divided by: sqrt(T^2 + pi/8 v Var)."""
        return torch.sqrt(self.temperature**2 + self.variance_scale * (math.pi / 8 * gap_variance))

    def log_probs(self, gap_mean: Tensor, gap_variance: Tensor) -> Tensor:
        """Log of the mean-field predictive: log_softmax of the damped gaps.

        Args:
            gap_mean, gap_variance: of l_c - l_r for one reference class r per image, [..., C].
        """
        return torch.log_softmax(gap_mean / self.damping(gap_variance), dim=-1)

    def samples(self, logits: Tensor) -> Tensor:
        """Draws of l' for draws of the logits l [S, B, C]."""
        if not isinstance(self.temperature, Tensor) and self.temperature == self.variance_scale == 1:
            return logits
        mean = logits.mean(dim=0)
        return (mean + self.spread * (logits - mean)) / self.temperature


def mutual_information(probs: Tensor, divisor: Tensor, top: Tensor, from_loadings: Tensor) -> Tensor:
    """Mutual information of label and loadings to second order: 1/2 tr((diag p - p p^T) Cov_Phi[s]), [B], nats.

    s_c is the gap to the top class t over its divisor (`Recalibration.damping`). Given theta, the loadings of two
    classes are independent, so with v_c = Var_Phi(E[l_c | Phi]) the covariance of s_a and s_b is
    (v_t + [a = b] v_a) / (divisor_a divisor_b).

    Args:
        probs, divisor: [B, C].
        top: t, [B].
        from_loadings: v, [B, C].
    """
    v_top = from_loadings.gather(1, top[:, None])
    is_top = torch.arange(probs.shape[1], device=probs.device) == top[:, None]
    p = probs.masked_fill(is_top, 0.0)  # s_t is zero whatever the loadings
    w = p / divisor
    own = (p * (from_loadings + v_top) / divisor.square()).sum(-1)
    shared = v_top.squeeze(-1) * w.sum(-1).square() + (w.square() * from_loadings).sum(-1)
    return 0.5 * (own - shared).clamp_min(0)
