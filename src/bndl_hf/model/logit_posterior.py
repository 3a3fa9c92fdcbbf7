"""What the two posteriors say of the logits: exact moments, gaps between classes, and joint draws (Sec. 3.3, Sec. 5).

Scores and loadings are independent under q, so mean and variance of every logit, and of the gap between two logits,
are exact sums over factors. Scores are shared between the classes, so gaps, not logits, carry the uncertainty of the
decision. Read mean_field.py next: it makes probabilities of the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .mean_field import Recalibration


class Posterior(Protocol):
    """Random numbers known by their exact moments and by draws: a `WeibullPosterior`, or that of another head."""

    @property
    def mean(self) -> Tensor:
        """E[x], any shape."""

    @property
    def variance(self) -> Tensor:
        """Var[x], of the shape of the mean."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of every entry."""


@dataclass(frozen=True)
class LogitPosterior:
    """The random logits theta Phi + b of B images, with theta ~ q(theta | h) and Phi ~ q(Phi).

    Attributes:
        scores: posterior of [B, K].
        loadings: posterior of [K, C].
        bias: [C].
    """

    scores: Posterior
    loadings: Posterior
    bias: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """E[l_c], [B, C]."""
        # [B, K] @ [K, C] -> [B, C]; the few loadings turned round: where C is small, that halves the time of a product
        return F.linear(self.scores.mean, self.loadings.mean.T.contiguous(), self.bias)

    @cached_property
    def variance(self) -> Tensor:
        """Var[l_c] = sum_k E[theta_k]^2 Var[Phi_kc] + Var[theta_k] E[Phi_kc^2], [B, C]."""
        return self.variance_from_loadings + self.scores.variance @ self._second_moment

    @cached_property
    def variance_from_loadings(self) -> Tensor:
        """Var_Phi(E[l_c | Phi]), [B, C]: the part of the variance that only the loadings leave open."""
        return self.scores.mean.square() @ self.loadings.variance

    @cached_property
    def top_two(self) -> tuple[Tensor, Tensor]:
        """Classes of the largest and second largest mean logit, each [B]."""
        first, second = self.mean.topk(2, dim=-1).indices.unbind(dim=-1)
        return first, second

    def gaps(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of l_c - l_r for every class c and each image's reference class r.

        The classes share theta, so Var[l_c - l_r] = Var[l_c] + Var[l_r] - 2 Cov[l_c, l_r] with the covariance
        sum_k Var[theta_k] E[Phi_kc] E[Phi_kr].

        Args:
            reference: class index r of each image, [B].

        Returns:
            (mean, variance), each [B, C]; both exactly zero at c = r, the variance never negative.
        """
        variance = _GapVariance.apply(
            self.scores.mean, self.scores.variance, self.loadings.mean, self.loadings.variance, reference
        )
        return self.mean - pick(self.mean, reference)[:, None], variance

    def damped(self, reference: Tensor, recalibration: Recalibration = Recalibration()) -> Tensor:  # noqa: B008 - frozen
        """Logits whose softmax is the mean-field predictive: the gaps to r, each over its damping, [B, C].

        For one reference r that is a proper distribution. Departure: predicting takes the top class for r, training
        each image's label, so that nothing has to be ranked; the two differ by a few thousandths of probability.
        """
        mean, variance = self.gaps(reference)
        return mean / recalibration.damping(variance)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One joint draw, [B, C]: theta of each image, Phi once for all of them (Sec. 3.4)."""
        return self.scores.sample(generator) @ self.loadings.sample(generator) + self.bias

    @cached_property
    def _second_moment(self) -> Tensor:
        """E[Phi^2], [K, C]."""
        return torch.addcmul(self.loadings.variance, self.loadings.mean, self.loadings.mean)


class _GapVariance(torch.autograd.Function):
    """Var[l_c - l_r] of `LogitPosterior.gaps`, [B, C], with its derivatives in closed form.

    With e = E[theta^2] and v = Var[theta] it is o_c + o_r - 2 sum_k v_k E[Phi_kc] E[Phi_kr], where
    o_c = sum_k e_k Var[Phi_kc] + v_k E[Phi_kc]^2. Loadings are kept as [C, K]: with few classes such products, and
    those of the gradients, take half the time.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, v: Tensor, loadings: Tensor, spread: Tensor, reference: Tensor) -> Tensor:
        phi, spread, r = loadings.T.contiguous(), spread.T.contiguous(), reference[:, None]  # [C, K], [C, K], [B, 1]
        e = torch.addcmul(v, mean, mean)  # [B, K]
        phi_r = phi.index_select(0, reference)  # [B, K]
        own = torch.addmm(e @ spread.T, v, phi.square().T)
        shared = v * phi_r
        variance = torch.addmm(own + own.gather(1, r), shared, phi.T, alpha=-2)
        # Rounding may leave it below zero. At c = r the loadings are one and the same random variable, not two
        # independent ones: the gap is zero.
        is_zero = (variance < 0).scatter_(1, r, True)
        ctx.save_for_backward(mean, v, phi, spread, r, e, phi_r, shared, is_zero)
        return variance.masked_fill_(is_zero, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mean, v, phi, spread, r, e, phi_r, shared, is_zero = ctx.saved_tensors
        of_gap = gradient.masked_fill(is_zero, 0.0)  # [B, C], zero at r
        of_own = of_gap.scatter(1, r, of_gap.sum(dim=1, keepdim=True))  # [B, C]
        of_shared = (of_gap @ phi).mul_(-2)  # [B, K]
        of_mean = (of_own @ spread).mul_(mean).mul_(2)
        of_v = (of_own @ torch.addcmul(spread, phi, phi)).addcmul_(of_shared, phi_r)
        of_phi = (of_own.T @ v).mul_(phi).sub_(of_gap.T @ shared).mul_(2)  # [C, K]
        of_phi.index_add_(0, r.squeeze(1), of_shared.mul_(v))
        return of_mean, of_v, of_phi.T, (of_own.T @ e).T, None


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[..., b, index[b]]: one class per image, [..., B, C] -> [..., B]."""
    return values.gather(-1, index.expand(values.shape[:-1])[..., None]).squeeze(-1)
