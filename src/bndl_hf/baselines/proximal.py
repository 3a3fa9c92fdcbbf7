"""Multinomial regression with an elastic-net penalty, by accelerated proximal gradients.

FISTA (Beck and Teboulle 2009) with the restart of O'Donoghue and Candes (2015): all rows at once, a matrix product a
step, where SAGA goes through the rows one by one. At 1,280 features of 101 classes that is minutes instead of an hour.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_POWER_STEPS = 30
_STEPS_BETWEEN_CHECKS = 10


@torch.no_grad()
def fit_elastic_net(
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    strength: float,
    l1_ratio: float,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, bool]:
    """The minimum of mean cross-entropy + strength (l1_ratio |W|_1 + (1 - l1_ratio) / 2 |W|_2^2), from a start.

    Args:
        x: [N, D], centred, or the steps are needlessly small.
        labels: [N], in 0 .. C - 1.
        weight, bias: where to start, [D, C] and [C]. Of two classes the first one's weights stay zero, as in
            scikit-learn: the other's say all.
        strength, l1_ratio: of the penalty; the bias has none.
        max_iterations: gradients at most.
        tolerance: it ends where no entry violates the conditions of the optimum (`violation`) by more than this
            multiple of the strength.

    Returns:
        (weight, bias, whether it has converged).
    """
    truth = F.one_hot(labels, len(bias)).to(x)
    learns = torch.ones_like(bias)
    if len(bias) == 2:
        learns[0] = 0
    l1, l2 = strength * l1_ratio, strength * (1 - l1_ratio)
    smoothness = (
        _largest_eigenvalue(x) / 2 + l2
    )  # of the mean cross-entropy in W: half that of x^T x / N (Bohning 1992)
    ahead, ahead_bias, momentum = weight, bias, 1.0
    for iteration in range(max_iterations):
        gradient, bias_gradient = _gradient(x, truth, ahead, ahead_bias, l2, learns)
        new = F.softshrink(ahead - gradient / smoothness, l1 / smoothness)
        new_bias = ahead_bias - 2 * bias_gradient
        moved, bias_moved = new - weight, new_bias - bias
        if ((ahead - new) * moved).sum() + ((ahead_bias - new_bias) * bias_moved).sum() > 0:
            momentum = 1.0  # it went uphill
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * moved
        ahead_bias = new_bias + (momentum - 1) / following * bias_moved
        weight, bias, momentum = new, new_bias, following
        if iteration % _STEPS_BETWEEN_CHECKS == 0:
            gradients = _gradient(x, truth, weight, bias, l2, learns)
            if violation(weight, *gradients, l1) <= tolerance * strength:
                return weight, bias, True
    return weight, bias, False


def violation(weight: Tensor, gradient: Tensor, bias_gradient: Tensor, l1: float) -> float:
    """How far W is from the optimum: the largest entry of its distance to the subgradients' zero.

    At the optimum the gradient is -l1 sign(W) where a weight is not zero, within [-l1, l1] where it is, and zero for
    the bias (Karush, Kuhn and Tucker).
    """
    of_zeros = (gradient.abs() - l1).clamp_min(0)
    of_others = (gradient + l1 * weight.sign()).abs()
    return max(torch.where(weight == 0, of_zeros, of_others).max().item(), bias_gradient.abs().max().item())


def _gradient(
    x: Tensor, truth: Tensor, weight: Tensor, bias: Tensor, l2: float, learns: Tensor
) -> tuple[Tensor, Tensor]:
    """Of all but the L1 term."""
    excess = ((x @ weight + bias).softmax(-1) - truth) * learns / len(x)
    return x.T @ excess + l2 * weight, excess.sum(0)


def _largest_eigenvalue(x: Tensor) -> float:
    """Of x^T x / N, a little above it."""
    vector = torch.randn(x.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(x)
    for _ in range(_POWER_STEPS):
        vector = x.T @ (x @ (vector / vector.norm()))
    return 1.05 * vector.norm().item() / len(x)
