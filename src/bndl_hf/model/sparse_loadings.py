"""How many loadings a decision layer has above zero, and how it loses them for good (Sec. 5.1.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from .weibull import WeibullPosterior

# A loading above this counts as non-zero in the paper's 1-sparsity (Sec. 5.1.2).
SPARSITY_THRESHOLD = 1e-5
# A pruned raw loading is put this far below the threshold. There it gets no gradient, and what momentum an optimizer
# still has moves it by some ten learning rates, so it stays pruned and nothing about it has to be remembered.
_OUT_OF_REACH = 1.0


class SparseLoadings:
    """The half of a decision layer that knows which of its loadings are zero."""

    config: PretrainedConfig
    raw_loadings: nn.Parameter
    score_posterior: Callable[[Tensor], WeibullPosterior]  # q(theta | h), [B, K]
    loading_posterior: Callable[[], WeibullPosterior]  # q(Phi), [K, C]

    @property
    def factor_loadings(self) -> Tensor:
        """E[Phi], [K, C], >= 0."""
        return self.loading_posterior().mean

    @torch.no_grad()
    def sparsity(self) -> float:
        """Share of loadings above 1e-5, a fraction in [0, 1]; the paper's 1-sparsity, Sec. 5.1.2."""
        return (self.factor_loadings > SPARSITY_THRESHOLD).float().mean().item()

    @torch.no_grad()
    def zero_loadings(self, is_zero: Tensor) -> None:
        """Set the loadings where `is_zero` [K, C] to zero for good: training does not bring them back."""
        self.raw_loadings.masked_fill_(is_zero, self.config.loading_threshold - _OUT_OF_REACH)

    @torch.no_grad()
    def prune_smallest(self, density: float) -> None:
        """Keep the share `density` of the loadings, the largest posterior means; the others are zero for good.

        Args:
            density: a fraction in (0, 1]. Every class keeps its largest loading whatever the density.
        """
        means = self.factor_loadings  # [K, C]
        is_largest = torch.zeros_like(means, dtype=torch.bool).scatter_(0, means.argmax(dim=0, keepdim=True), True)
        ranked = torch.where(is_largest, torch.inf, means).flatten()
        kept = ranked.topk(max(round(density * means.numel()), means.shape[1])).indices
        self.zero_loadings((ranked > 0).index_fill_(0, kept, False).view_as(means))

    @torch.no_grad()
    def check_active(self, features: Tensor) -> None:
        """Raise ValueError when the thresholds leave no factor to learn with on `features` [B, D]."""
        if not (self.factor_loadings > 0).any():
            raise ValueError(
                f"loading_threshold={self.config.loading_threshold} leaves no active factor: the largest raw loading "
                f"is {self.raw_loadings.max().item():.3g}. Lower it, or use loading_init='alive'."
            )
        if not (self.score_posterior(features).mean > 0).any():
            raise ValueError(
                f"score_threshold={self.config.score_threshold} leaves no active factor on {len(features)} images: "
                "every score is zero. Lower it."
            )
