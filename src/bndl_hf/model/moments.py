"""Gamma functions of the Weibull's moments, as short series: exportable, fusable, and accurate where lgamma is not.

torch's lgamma and digamma cannot be exported or fused, cost 40 % of a training step, and differences of them cancel at
large concentrations. With x = 1/k the moments need log Gamma(1 + x), the relative variance Gamma(1 + 2x) /
Gamma(1 + x)^2 - 1, and their derivatives. Each is a closed form times a minimax polynomial, lowest power first, fitted
on k >= 0.05; the errors stated are the polynomial's own. The derivatives are closed forms too, not those of the series.
Read weibull.py next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# log Gamma(1 + x) = (x + 1/2) log(1 + x) - x - 0.0810614668 + S(w), w = 1/(1 + x): Stirling; 4.9e-8, absolute
_STIRLING = (4.213070e-07, 0.0833210344, 0.000114476276, -0.00324977029, 0.000958603315, -8.32492284e-05)
# digamma(1 + x) = log(1 + x) - w/2 - D(w); 1.3e-8, absolute
# fmt: off
_DIGAMMA = (
    -2.36066e-07, 8.838817e-06, 0.083215892, 0.000751755490, -0.0109521570, 0.00510236442, -0.000910780323,
)
# With Legendre's duplication and u = 1/(1 + k): 1 + r = 4^x / sqrt(1 + x q(u)); 3.4e-7, relative
_RATIO = (2.7725896672, 0.5536951228, -0.2065825759, 0.0134286412, 0.0084620992)
# Below x = 0.5, where that is a small difference: r = x u s(u); 7.9e-7, relative
_SMALL_RATIO = (
    1.6449353611, -0.7595300290, 1.9932374254, -0.5748739234, 4.4826839293, -6.7267986565, 14.4623524570,
)
# digamma(1 + 2x) - digamma(1 + x) = u d(u); 4e-8, relative
_SLOPE = (
    1.6449339997, -1.9612227140, 2.0083674285, -1.9919187013, 1.9504065665, -1.7852033407, 1.3920461800, -0.8157453489,
    0.3039654402, -0.0524835622,
)
# fmt: on


def log_gamma(concentration: Tensor) -> Tensor:
    """log Gamma(1 + 1/k), the logarithm of mean / scale of a Weibull with concentration k > 0."""
    return _LogGamma.apply(concentration)


def relative_variance(concentration: Tensor) -> Tensor:
    """Squared coefficient of variation, Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1: the variance of a Weibull with mean one.

    Args:
        concentration: k > 0, any shape. 1.0 at k = 1, 0.27 at 2, 0.052 at 5, pi^2 / (6 k^2) for large k.

    Returns:
        Tensor of the same shape, > 0; zero for an infinite k, a point mass.
    """
    return _RelativeVariance.apply(concentration)


def stirling(x: Tensor) -> Tensor:
    """log Gamma(1 + x) for x = 1/k >= 0, without a gradient of its own: for functions that bring theirs."""
    value = _polynomial(_STIRLING, (1 + x).reciprocal_())
    return value.addcmul_(x + 0.5, torch.log1p(x)).sub_(x).sub_(0.0810614668)


def digamma(x: Tensor) -> Tensor:
    """psi(1 + x), the derivative of `stirling`."""
    w = (1 + x).reciprocal_()
    return torch.log1p(x).sub_(w, alpha=0.5).sub_(_polynomial(_DIGAMMA, w))


class _LogGamma(torch.autograd.Function):
    """`log_gamma` with its derivative -psi(1 + x) x^2."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        ctx.save_for_backward(concentration)
        return stirling(concentration.reciprocal())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x = ctx.saved_tensors[0].reciprocal()
        return digamma(x).mul_(x).mul_(x).mul_(gradient).neg_()


class _RelativeVariance(torch.autograd.Function):
    """`relative_variance` with its derivative -2 (1 + r) (psi(1 + 2x) - psi(1 + x)) x^2."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        x, u = concentration.reciprocal(), (1 + concentration).reciprocal_()
        value = _polynomial(_SMALL_RATIO, u).mul_(u).mul_(x)
        if _may_be_below_two(concentration):
            root = _polynomial(_RATIO, u).mul_(x).add_(1).sqrt_()
            value = torch.where(x < 0.5, value, (2 * x).exp2_().div_(root).sub_(1))
        ctx.save_for_backward(x, u, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, u, value = ctx.saved_tensors
        slope = _polynomial(_SLOPE, u).mul_(u)
        return slope.mul_(1 + value).mul_(x).mul_(x).mul_(gradient).mul_(-2)


def _may_be_below_two(concentration: Tensor) -> bool:
    """Whether the formula of x > 0.5 may be needed; on a CPU a look at the numbers costs less than the formula."""
    is_seen = concentration.device.type == "cpu" and not torch.compiler.is_compiling() and concentration.numel() > 0
    return not (is_seen and bool(concentration.amin() > 2))


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., by Horner's rule, in one new tensor: allocating is what takes time here."""
    value = (coefficients[-1] * x).add_(coefficients[-2])
    for coefficient in coefficients[-3::-1]:
        value.mul_(x).add_(coefficient)
    return value
