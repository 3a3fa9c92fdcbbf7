"""Weibull distribution: moments, reparameterised draws and the KL to a Gamma prior (Eqs. 6-7, Sec. 3.3).

Everything is written in logarithms (`lgamma`), so that nothing overflows at small concentrations: Gamma(1 + 1/k) leaves
float32 below k = 0.029. The decision layer states every posterior by its *mean*, which may be exactly zero (a sparse
factor); the scale follows from it. Read decision_layer.py next: it says where mean and concentration come from.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EULER_GAMMA = 0.5772156649015329
# torch.rand returns multiples of 2^-24, zero among them; half a step keeps the logarithms of Eq. 6 finite.
_HALF_STEP = 2.0**-25
# log Gamma(1 + 2x) - 2 log Gamma(1 + x) = sum_{n >= 2} zeta(n) (2^n - 2)/n (-x)^n: the factors for n = 2 .. 8.
_ZETA = (math.pi**2 / 6, 1.2020569031595943, math.pi**4 / 90, 1.0369277551433699, math.pi**6 / 945, 1.0083492773819228)
_SERIES = tuple(zeta * (2**n - 2) / n for n, zeta in enumerate((*_ZETA, math.pi**8 / 9450), start=2))


def relative_variance(concentration: Tensor) -> Tensor:
    """Squared coefficient of variation, Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1: the variance of a Weibull with mean one.

    Args:
        concentration: k > 0, any shape. 1.0 at k = 1, 0.27 at 2, 0.052 at 5, pi^2 / (6 k^2) for large k.

    Returns:
        Tensor of the same shape, > 0.
    """
    return _RelativeVariance.apply(concentration)


class _RelativeVariance(torch.autograd.Function):
    """`relative_variance` with its derivative in closed form: autograd through the series takes three times as long."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        inverse = concentration.reciprocal()
        exact = torch.lgamma(1 + 2 * inverse) - 2 * torch.lgamma(1 + inverse)
        # A large k subtracts two nearly equal logarithms, so below 1/k = 0.05 their Taylor series takes over.
        series = torch.zeros_like(inverse)
        for coefficient in reversed(_SERIES):
            series = (coefficient - series) * inverse
        value = torch.expm1(torch.where(inverse < 0.05, series * inverse, exact))
        ctx.save_for_backward(inverse, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # d/dk = -2 (1 + r) (psi(1 + 2/k) - psi(1 + 1/k)) / k^2
        inverse, value = ctx.saved_tensors
        slope = torch.digamma(1 + 2 * inverse) - torch.digamma(1 + inverse)
        return -2 * gradient * (1 + value) * slope * inverse.square()


def kl_weibull_gamma(
    scale: Tensor,
    concentration: Tensor,
    prior_concentration: Tensor | float,
    prior_rate: Tensor | float,
    scale_floor: float = 1e-10,
) -> Tensor:
    """KL(Weibull(scale, concentration) || Gamma(prior_concentration, prior_rate)), element-wise, all constants (Eq. 7).

    Args:
        scale: lambda >= 0, any shape. The divergence is infinite at zero; its logarithm is taken of
            max(scale, scale_floor), so that an exact zero costs a finite constant and receives the gradient of the
            other terms only.
        concentration: k > 0, broadcastable.
        prior_concentration: alpha > 0 of the Gamma prior, a number or broadcastable.
        prior_rate: beta > 0 of the Gamma prior.
        scale_floor: smallest scale the logarithm sees. 1e-10: the value in the released code.

    Returns:
        Tensor of the broadcast shape in nats, >= 0 up to rounding wherever scale >= scale_floor.

    Example:
        >>> kl_weibull_gamma(torch.tensor(1.0), torch.tensor(1.0), 1.0, 1.0)  # both are the unit exponential
        tensor(0.)
    """
    log_scale = torch.log(scale.clamp_min(scale_floor))
    mean = scale * torch.exp(torch.lgamma(1 + concentration.reciprocal()))
    return _kl(log_scale, mean, concentration, prior_concentration, prior_rate)


def _kl(
    log_scale: Tensor,
    mean: Tensor,
    concentration: Tensor,
    prior_concentration: Tensor | float,
    prior_rate: Tensor | float,
) -> Tensor:
    """Eq. 7 from the mean and the logarithm of the scale."""
    # Eq. 7: KL(Weibull(k, lam) || Gamma(alpha, beta)), in nats
    alpha = torch.as_tensor(prior_concentration, dtype=mean.dtype, device=mean.device)
    beta = torch.as_tensor(prior_rate, dtype=mean.dtype, device=mean.device)
    gamma_over_k = EULER_GAMMA / concentration
    entropy = EULER_GAMMA - gamma_over_k + log_scale - torch.log(concentration) + 1
    expected_log = log_scale - gamma_over_k  # E_q[log x]
    cross_entropy = torch.lgamma(alpha) - alpha * torch.log(beta) - (alpha - 1) * expected_log + beta * mean
    return cross_entropy - entropy


@dataclass(frozen=True)
class WeibullPosterior:
    """A field of independent Weibulls, stated by mean and concentration (Sec. 3.3).

    Attributes:
        mean: E[x] >= 0, any shape; exactly zero is a legal, sparse value.
        concentration: k > 0, broadcastable against `mean`.
    """

    mean: Tensor
    concentration: Tensor

    @cached_property
    def log_gamma(self) -> Tensor:
        """log Gamma(1 + 1/k), the logarithm of mean / scale, in the shape of the concentration."""
        return torch.lgamma(1 + self.concentration.reciprocal())

    @cached_property
    def scale(self) -> Tensor:
        """Weibull scale lambda (Eqs. 9, 11)."""
        return self.mean * torch.exp(-self.log_gamma)

    @cached_property
    def variance(self) -> Tensor:
        """Var[x], zero where the mean is zero."""
        return self.mean.square() * relative_variance(self.concentration)

    def quantile(self, uniform: Tensor) -> Tensor:
        """Reparameterised draw lambda * (-log(1 - u))^(1/k) of every entry (Eq. 6), differentiable; exact zeros stay.

        Args:
            uniform: u in [0, 1), broadcastable; zero is moved in by half a float32 step.
        """
        exponential = -torch.log1p(-uniform.clamp(_HALF_STEP, 1 - _HALF_STEP))
        # Eq. 6 times mean/scale: below k = 0.029 scale and (-log(1-u))^(1/k) leave float32, their product does not.
        return self.mean * torch.exp(torch.log(exponential) / self.concentration - self.log_gamma)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of every entry (Eq. 6)."""
        return self.quantile(
            torch.rand(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        )

    def kl(self, prior_concentration: float, prior_rate: float, scale_floor: float) -> Tensor:
        """KL to Gamma(prior_concentration, prior_rate) of every entry, in nats (Eq. 7)."""
        log_scale = torch.log(self.scale.clamp_min(scale_floor))
        return _kl(log_scale, self.mean, self.concentration, prior_concentration, prior_rate)
