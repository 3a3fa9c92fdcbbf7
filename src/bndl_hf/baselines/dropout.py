"""MC dropout in the decision layer (Gal and Ghahramani 2016): a linear head on features that are dropped at random.

The score of feature k is h_k z_k / (1 - p) with z_k ~ Bernoulli(1 - p), so mean and variance of every logit, and of the
gap between two, are exact, and draws are made as they made them. A mask on a feature is a mask on a row of the weights:
that is where their approximate posterior lies, so what the masks leave open is epistemic.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import BNDLPrediction, predict_exactly, predict_from_draws

CITATION = """@inproceedings{gal2016dropout,
  title     = {Dropout as a {Bayesian} Approximation: Representing Model Uncertainty in Deep Learning},
  author    = {Gal, Yarin and Ghahramani, Zoubin},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2016},
  url       = {https://arxiv.org/abs/1506.02142}
}"""


@dataclass(frozen=True)
class DropoutPosterior:
    """Values that are zero with probability p and else divided by 1 - p, each on its own.

    Attributes:
        mean: of either sign, any shape: what is dropped.
        dropout: p, in [0, 1).
    """

    mean: Tensor
    dropout: float

    @cached_property
    def variance(self) -> Tensor:
        """x^2 p / (1 - p)."""
        return self.mean.square() * (self.dropout / (1 - self.dropout))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """x z / (1 - p) with z ~ Bernoulli(1 - p), drawn for every entry."""
        uniform = torch.rand(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean * (uniform >= self.dropout) / (1 - self.dropout)


class MCDropoutDecisionLayer(DenseDecisionLayer):
    """A dense layer on dropped features: one mask an image in training, S of them, or their exact moments, to predict.

    Train it with `objective="sampled"`, as published: cross-entropy of one draw, and weight decay for the prior. With
    `objective="exact"` it is trained on the mean-field predictive of the same masks.

    Args:
        config: `feature_dim` and `num_labels` must be set.
        dropout: p, the share of features that is dropped.

    Raises:
        ValueError: for p outside [0, 1), and as `PointMassHead`.

    Example:
        >>> layer = MCDropoutDecisionLayer(BNDLConfig(feature_dim=8, num_labels=3, projection="none")).eval()
        >>> layer.predict(torch.randn(5, 8), method="monte_carlo").logits_samples.shape
        torch.Size([20, 5, 3])
    """

    def __init__(self, config: BNDLConfig, dropout: float = 0.2) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is the share of features dropped; it must lie in [0, 1).")
        super().__init__(config)
        self.dropout = dropout

    def posterior_of_inputs(self, inputs: Tensor) -> DropoutPosterior:
        """Features with masks of their own, [B, D]."""
        return DropoutPosterior(inputs, self.dropout)

    def prediction_of(
        self,
        random: LogitPosterior,
        method: str,
        num_samples: int,
        recalibration: Recalibration,
        generator: torch.Generator | None,
    ) -> BNDLPrediction:
        """With S masks for every image, or the exact moments of their logits; `epistemic` is of the masks."""
        threshold = self.config.certainty_threshold
        if method == "exact":
            prediction = predict_exactly(random, num_samples, threshold, recalibration)
            information = recalibration.variance_scale * mutual_information_of_scores(
                random, prediction.probs, recalibration
            )
            epistemic = torch.minimum(information, prediction.total)
            return dataclasses.replace(prediction, epistemic=epistemic, aleatoric=prediction.total - epistemic)
        draws = torch.stack([random.sample(generator) for _ in range(num_samples)])  # [S, B, C]
        return predict_from_draws(draws, random.scores.mean.sum(dim=-1), threshold, recalibration)


def mutual_information_of_scores(random: LogitPosterior, probs: Tensor, recalibration: Recalibration) -> Tensor:
    """Mutual information of label and scores to second order, 1/2 tr((diag p - p p^T) Cov[s]), [B], nats.

    s_c is the gap to the top class t over its damping d_c; the loadings W are points. With v_k = Var[theta_k] it is
    1/2 (sum_c p_c Var[l_c - l_t] / d_c^2 - sum_k v_k (sum_c p_c (W_kc - W_kt) / d_c)^2).

    Args:
        random: the random logits of B images.
        probs: p, [B, C].
        recalibration: T and v of the dampings.
    """
    top = random.top_two[0]
    _, gap_variance = random.gaps(top)
    divisor = recalibration.damping(gap_variance)
    w = probs / divisor  # [B, C]
    loadings = random.loadings.mean  # [K, C]
    mean_gap = w @ loadings.T - loadings.T[top] * w.sum(dim=-1, keepdim=True)  # [B, K]
    own = (w * gap_variance / divisor).sum(dim=-1)
    return 0.5 * (own - (random.scores.variance * mean_gap.square()).sum(dim=-1)).clamp_min(0)
