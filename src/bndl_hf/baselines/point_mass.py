"""Heads of point masses: the limit k -> infinity of Sec. 3.3, so one Trainer and one prediction path serve them too.

`DenseDecisionLayer` is the usual linear head; nmf.py has the non-negative one, and the other files of this room what
others make of a linear head by masks, Dirichlets or members.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.logit_posterior import Posterior
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.weibull import WeibullPosterior


class PointMassHead(PosteriorHead):
    """A head that is certain of its scores and weights: softmax cross-entropy, no prior, every p-value 0 (1 for a tie).

    It reads the features themselves, one factor a feature, and starts as `torch.nn.Linear` does.

    Raises:
        ValueError: the configuration names no feature width, or asks for a projection.
    """

    def __init__(self, config: BNDLConfig) -> None:
        if config.projection != "none":
            raise ValueError(
                f"projection={config.projection!r}, but a {type(self).__name__} reads the features themselves; pass "
                "projection='none'."
            )
        super().__init__(config, config.feature_dim)
        linear = nn.Linear(*self.raw_loadings.shape)
        with torch.no_grad():
            self.raw_loadings.copy_(linear.weight.T)
            if self.raw_bias is not None:
                self.raw_bias.copy_(linear.bias)
        self.float()  # whatever the default dtype

    @abstractmethod
    def means(self, values: Tensor, threshold: float) -> Tensor:
        """What scores are of scaled features, and loadings of raw ones."""

    def posterior_of_inputs(self, inputs: Tensor) -> Posterior:
        """A point mass on E[theta], [B, D]."""
        return _point_mass(self.means(inputs, self.config.score_threshold))

    def loading_posterior(self) -> Posterior:
        """A point mass on E[Phi], [D, C]."""
        return _point_mass(self.means(self.raw_loadings, self.config.loading_threshold))

    def kl_local(self, scores: Posterior) -> Tensor:
        """Zero: there is no prior."""
        return scores.mean.new_zeros(())

    def kl_global(self, loadings: Posterior) -> Tensor:
        """Zero: there is no prior."""
        return loadings.mean.new_zeros(())


class DenseDecisionLayer(PointMassHead):
    """The usual linear head, weights of either sign."""

    def means(self, values: Tensor, threshold: float) -> Tensor:
        """x itself."""
        return values

    def zero_loadings(self, is_zero: Tensor) -> None:
        """A weight of a dense layer cannot be zeroed for good: its gradient would bring it back.

        Raises:
            ValueError: always.
        """
        raise ValueError("A dense layer is not pruned: nothing keeps a weight at zero. Pass loading_density=1.0.")


def _point_mass(mean: Tensor) -> WeibullPosterior:
    return WeibullPosterior(mean, mean.new_full((1, 1), math.inf))
