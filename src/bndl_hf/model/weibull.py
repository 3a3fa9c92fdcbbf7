"""Weibull distribution: moments, reparameterised draws and the KL to a Gamma prior (Eqs. 6-7, Sec. 3.3).

Everything is written in logarithms, so that nothing overflows at small concentrations: Gamma(1 + 1/k) leaves
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

from .moments import digamma, log_gamma, relative_variance, stirling

EULER_GAMMA = 0.5772156649015329
# torch.rand returns multiples of 2^-24, zero among them; half a step keeps the logarithms of Eq. 6 finite.
_HALF_STEP = 2.0**-25


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
        >>> kl_weibull_gamma(torch.tensor(1.0), torch.tensor(1.0), 1.0, 2.0)  # exponentials of rate 1 and 2: 1 - log 2
        tensor(0.3069)
    """
    log_scale = torch.log(scale.clamp_min(scale_floor))
    mean = scale * torch.exp(log_gamma(concentration))
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
    alpha, beta = prior_concentration, prior_rate
    gamma_over_k = EULER_GAMMA / concentration
    entropy = EULER_GAMMA - gamma_over_k + log_scale - torch.log(concentration) + 1
    expected_log = log_scale - gamma_over_k  # E_q[log x]
    log_gamma_alpha = log_gamma(1 / alpha) - torch.log(alpha) if isinstance(alpha, Tensor) else math.lgamma(alpha)
    log_beta = torch.log(beta) if isinstance(beta, Tensor) else math.log(beta)
    cross_entropy = log_gamma_alpha - alpha * log_beta - (alpha - 1) * expected_log + beta * mean
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
        return log_gamma(self.concentration)

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
        return _KLToGamma.apply(self.mean, self.concentration, prior_concentration, prior_rate, scale_floor)


class _KLToGamma(torch.autograd.Function):
    """`WeibullPosterior.kl` in one step, with its derivatives in closed form: a third of the passes over the entries.

    Eq. 7 with its terms collected, x = 1/k and the logarithm of the scale, log m - log Gamma(1 + x), held above the
    floor's: x alpha gamma + beta m + log k - alpha log(scale) + log Gamma(alpha) - alpha log(beta) - gamma - 1.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, concentration: Tensor, alpha: float, beta: float, floor: float) -> Tensor:
        x = concentration.reciprocal()
        constant = math.lgamma(alpha) - alpha * math.log(beta) - EULER_GAMMA - 1
        of_concentration = torch.log(concentration).add_(x, alpha=alpha * EULER_GAMMA).add_(constant)
        log_scale, lowest = torch.log(mean).sub(stirling(x)), math.log(floor)
        ctx.save_for_backward(mean, x, (log_scale >= lowest).to(log_scale.dtype))  # one where the scale is its own
        ctx.prior = alpha, beta
        return log_scale.clamp_min_(lowest).mul_(-alpha).add_(mean, alpha=beta).add_(of_concentration)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mean, x, is_free = ctx.saved_tensors
        alpha, beta = ctx.prior
        of_mean = of_concentration = None
        if ctx.needs_input_grad[0]:  # beta - alpha / m, without the second term where the floor holds the scale
            lowest = torch.finfo(mean.dtype).tiny  # a mean of zero is not free
            of_mean = mean.clamp_min(lowest).reciprocal_().mul(is_free).mul_(-alpha).add_(beta).mul_(gradient)
            of_mean = of_mean.sum_to_size(mean.shape)
        if ctx.needs_input_grad[1]:  # x - alpha x^2 (gamma + psi(1 + x)), without psi where the floor holds the scale
            psi = digamma(x).mul(is_free)
            of_concentration = psi.add_(EULER_GAMMA).mul_(x).mul_(-alpha).add_(1).mul_(x).mul_(gradient)
            of_concentration = of_concentration.sum_to_size(x.shape)
        return of_mean, of_concentration, None, None, None
