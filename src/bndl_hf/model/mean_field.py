"""The mean-field predictive and its recalibration: from gaps between logits, each with a variance, to probabilities.

Recalibration (bndl_hf.uncertainty.fit_temperature) puts l' = (E[l] + sqrt(v) (l - E[l])) / T in the place of the random
logits l: T is the temperature, v the variance scale, both 1 unless fitted on held-out images. Read predictive.py next.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mean_field_log_probs(
    gap_mean: Tensor,
    gap_variance: Tensor,
    temperature: float | Tensor = 1.0,
    variance_scale: float | Tensor = 1.0,
) -> Tensor:
    """log_softmax of gaps, each damped by its own variance: the probit approximation of MacKay (1992).

        log_softmax_c of E[l_c - l_r] / sqrt(T^2 + pi/8 v Var[l_c - l_r])

    Args:
        gap_mean, gap_variance: of l_c - l_r for one reference class r per image, [..., C].
        temperature: T > 0; 1 changes nothing.
        variance_scale: v >= 0; 1 changes nothing, 0 leaves the softmax of the mean logits.
    """
    return torch.log_softmax(gap_mean / damping(gap_variance, temperature, variance_scale), dim=-1)


def damping(gap_variance: Tensor, temperature: float | Tensor, variance_scale: float | Tensor) -> Tensor:
    """What a gap between logits is divided by: sqrt(T^2 + pi/8 v Var)."""
    return torch.sqrt(temperature**2 + variance_scale * (math.pi / 8 * gap_variance))


def recalibrated_samples(samples: Tensor, temperature: float | Tensor = 1.0, spread: float | Tensor = 1.0) -> Tensor:
    """Draws of l' for draws of the logits l [S, B, C]: their distance to their mean times sqrt(v), all divided by T.

    `spread` is sqrt(v), so that there is a gradient at zero.
    """
    if not isinstance(temperature, Tensor) and temperature == spread == 1:
        return samples
    mean = samples.mean(dim=0)
    return (mean + spread * (samples - mean)) / temperature


def mutual_information(probs: Tensor, divisor: Tensor, top: Tensor, from_loadings: Tensor) -> Tensor:
    """Mutual information of label and loadings to second order: 1/2 tr((diag p - p p^T) Cov_Phi[s]), [B], nats.

    s_c is the gap to the top class t over its divisor (`damping`). Given theta, the loadings of two classes are
    independent, so with v_c = Var_Phi(E[l_c | Phi]) the covariance of s_a and s_b is
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
