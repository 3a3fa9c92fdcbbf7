"""The exact additive explanation: every logit is a sum of non-negative parts theta_k Phi_kc plus a bias (Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .weibull import WeibullPosterior


@dataclass
class Evidence:
    """The largest parts of one logit per image, at the posterior mean.

    Attributes:
        factors: indices of the k largest parts, [B, k], largest first.
        contributions: E[theta_k] E[Phi_kc] of those factors, [B, k], >= 0, logit units.
        rest: sum of all other factors' contributions, [B], >= 0.
        bias: b_c, [B].
        logit: contributions + rest + bias, [B].
        target: the class c explained, [B].
    """

    factors: Tensor
    contributions: Tensor
    rest: Tensor
    bias: Tensor
    logit: Tensor
    target: Tensor


def explain_logit(
    scores: WeibullPosterior, loadings: WeibullPosterior, bias: Tensor, target: Tensor | int | None, top_k: int
) -> Evidence:
    """Split the target class's mean logit into its largest non-negative parts, the rest and the bias.

    Args:
        scores: posterior of [B, K].
        loadings: posterior of [K, C].
        bias: [C].
        target: class per image [B], one class for all, or None for each image's top class.
        top_k: how many parts to name, 1 .. K.

    Raises:
        ValueError: for a class or a `top_k` out of range.
    """
    B = scores.mean.shape[0]
    K, C = loadings.mean.shape
    if not 1 <= top_k <= K:
        raise ValueError(f"top_k={top_k} must lie between 1 and the number of factors, {K}.")
    if target is None:
        target = (scores.mean @ loadings.mean + bias).argmax(dim=-1)
    target = torch.as_tensor(target, device=bias.device)
    if target.shape not in ((), (B,)):
        raise ValueError(f"target has shape {list(target.shape)}; pass one class, or one for each of {B} images.")
    target = target.expand(B)
    if not ((target >= 0) & (target < C)).all():
        raise ValueError(f"target={target.tolist()} must hold classes between 0 and {C - 1}.")
    parts = scores.mean * loadings.mean.T[target]  # [B, K]
    contributions, factors = parts.topk(top_k, dim=-1)
    rest = parts.scatter(1, factors, 0.0).sum(dim=-1)
    target_bias = bias[target]
    logit = contributions.sum(dim=-1) + rest + target_bias
    return Evidence(factors, contributions, rest, target_bias, logit, target)
