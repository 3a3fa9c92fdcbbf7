"""What the two posteriors say of the logits: exact moments, gaps between classes, and joint draws (Sec. 3.3, Sec. 5).

Scores and loadings are independent under q, so mean and variance of every logit, and of the gap between two logits,
are exact sums over factors. Scores are shared between the classes, so gaps, not logits, carry the uncertainty of the
decision. Read mean_field.py next: it makes probabilities of the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .mean_field import Recalibration
from .weibull import WeibullPosterior


@dataclass(frozen=True)
class LogitPosterior:
    """The random logits theta Phi + b of B images, with theta ~ q(theta | h) and Phi ~ q(Phi).

    Attributes:
        scores: posterior of [B, K].
        loadings: posterior of [K, C].
        bias: [C].
    """

    scores: WeibullPosterior
    loadings: WeibullPosterior
    bias: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """E[l_c], [B, C]."""
        return self.scores.mean @ self.loadings.mean + self.bias  # [B, K] @ [K, C] -> [B, C]

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
        sum_k Var[theta_k] E[Phi_kc] E[Phi_kr]: a third product.

        Args:
            reference: class index r of each image, [B].

        Returns:
            (mean, variance), each [B, C]; both exactly zero at c = r, the variance never negative.
        """
        covariance = (self.scores.variance * self.loadings.mean.T[reference]) @ self.loadings.mean
        variance = (self.variance + pick(self.variance, reference)[:, None] - 2 * covariance).clamp_min(0)
        # At c = r the loadings are one and the same random variable, not two independent ones: the gap is zero.
        is_reference = torch.arange(self.mean.shape[1], device=self.mean.device) == reference[:, None]
        return self.mean - pick(self.mean, reference)[:, None], variance.masked_fill(is_reference, 0.0)

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


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[..., b, index[b]]: one class per image, [..., B, C] -> [..., B]."""
    return values.gather(-1, index.expand(values.shape[:-1])[..., None]).squeeze(-1)
