"""A deep ensemble of decision layers (Lakshminarayanan et al. 2017): M dense heads, their probabilities averaged.

Departure: the members are one layer on one backbone and see the same batches; only their starts differ. On features
that do not change the loss is convex, so members agree more the longer they are trained.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bndl_hf.baselines.own_losses import expected_loss
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decisions import Decisions
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import BNDLPrediction, paired_p_value, predict_from_draws

CITATION = """@inproceedings{lakshminarayanan2017simple,
  title     = {Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles},
  author    = {Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2017},
  url       = {https://arxiv.org/abs/1612.01474}
}"""


@dataclass(frozen=True)
class MemberLoadings:
    """Weights that are one of M members', each as likely.

    Attributes:
        members: [M, D, C].
    """

    members: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """Over the members, [D, C]."""
        return self.members.mean(dim=0)

    @cached_property
    def variance(self) -> Tensor:
        """Over the members, [D, C]; the entries vary together."""
        return self.members.var(dim=0, correction=0)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A member drawn at random, [D, C]."""
        member = torch.randint(len(self.members), (1,), generator=generator, device=self.members.device)
        return self.members[member].squeeze(0)


class EnsembleDecisionLayer(DenseDecisionLayer):
    """M dense layers, each with its own start and its own cross-entropy; the answer is the mean of their probabilities.

    The draws of a Monte-Carlo prediction are the members. An exact prediction has the same probabilities and entropies;
    its p-value is that of S draws with the members' mean and variance. Parts of an explanation are those of the mean of
    the members' weights.

    Args:
        config: `feature_dim` and `num_labels` must be set.
        num_members: M >= 2.

    Raises:
        ValueError: for fewer than two members, and as `PointMassHead`.

    Example:
        >>> config = BNDLConfig(feature_dim=8, num_labels=3, projection="none")
        >>> layer = EnsembleDecisionLayer(config, num_members=4).eval()
        >>> layer.predict(torch.randn(5, 8), method="monte_carlo").logits_samples.shape
        torch.Size([4, 5, 3])
    """

    def __init__(self, config: BNDLConfig, num_members: int = 5) -> None:
        if num_members < 2:
            raise ValueError(f"num_members={num_members}; an ensemble has two members or more.")
        super().__init__(config)
        self.num_members = num_members
        (D, C), M = self.raw_loadings.shape, num_members
        starts = [nn.Linear(D, C) for _ in range(M)]
        self.raw_loadings = nn.Parameter(torch.cat([linear.weight.detach().T for linear in starts]))  # [M D, C]
        if self.raw_bias is not None:
            self.raw_bias = nn.Parameter(torch.stack([linear.bias.detach() for linear in starts]))  # [M, C]
        self.float()  # whatever the default dtype

    @property
    def member_bias(self) -> Tensor:
        """b of every member, [M, C]."""
        return super().bias.expand(self.num_members, -1)

    @property
    def bias(self) -> Tensor:
        """Mean over the members, [C]."""
        return self.member_bias.mean(dim=0)

    def loading_posterior(self) -> MemberLoadings:
        """The members' weights, [D, C] each."""
        return MemberLoadings(self.raw_loadings.unflatten(0, (self.num_members, -1)))

    def member_logits(self, random: LogitPosterior) -> Tensor:
        """Logits of every member, [M, B, C]."""
        loadings: Any = random.loadings
        return random.scores.mean @ loadings.members + self.member_bias[:, None]  # [B, D] @ [M, D, C] -> [M, B, C]

    def logits_of(self, random: LogitPosterior, labels: Tensor | None) -> Tensor:
        """Log of the mean probabilities; while training the members' mean log-probabilities, [B, C]."""
        logits = self.member_logits(random)
        if self.training:
            return logits.log_softmax(dim=-1).mean(dim=0)
        recalibrated = Decisions.of(self.config).recalibration.samples(logits)
        return recalibrated.log_softmax(dim=-1).logsumexp(dim=0) - math.log(self.num_members)

    def likelihood_loss(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """While training the mean of the members' cross-entropies; in evaluation mode that of their mean."""
        if not self.training:
            return super().likelihood_loss(logits, labels, class_weights, label_smoothing)
        return expected_loss(logits, labels, class_weights, label_smoothing)

    def predict(
        self,
        features: Tensor,
        method: str = "exact",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        abstain_below: float | None = None,
    ) -> BNDLPrediction:
        """As `PosteriorHead.predict`; nothing is drawn.

        Raises:
            ValueError: for another number of Monte-Carlo samples than there are members.
        """
        if method == "monte_carlo" and num_samples not in (None, self.num_members):
            raise ValueError(
                f"num_samples={num_samples}, but the draws of an ensemble are its {self.num_members} members; leave it "
                "out, or pass method='exact' for the p-value of that many draws."
            )
        return super().predict(features, method, num_samples, generator, abstain_below)

    def prediction_of(
        self,
        random: LogitPosterior,
        method: str,
        num_samples: int,
        recalibration: Recalibration,
        generator: torch.Generator | None,
    ) -> BNDLPrediction:
        """The members as draws; `epistemic` is the mutual information of label and member."""
        threshold, evidence = self.config.certainty_threshold, random.scores.mean.sum(dim=-1)
        prediction = predict_from_draws(self.member_logits(random), evidence, threshold, recalibration)
        if method != "exact":
            return prediction
        p_value = paired_p_value(prediction.gap_ratio, num_samples)
        return dataclasses.replace(prediction, p_value=p_value, is_certain=p_value < threshold, logits_samples=None)
