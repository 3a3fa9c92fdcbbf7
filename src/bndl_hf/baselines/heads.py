"""Decision layers by name, each with the recipe it is trained with: ours, the released one, NMF, and a dense layer.

NMF and the dense layer are BNDL with point masses for posteriors (the limit k -> infinity of Sec. 3.3), so one Trainer
and one prediction path serve all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from bndl_hf.baselines.sparsity import GradientsThroughZeroLayer, ProximalPenalty
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.loading_moments import LoadingsMemo
from bndl_hf.model.sparse_loadings import SPARSITY_THRESHOLD
from bndl_hf.model.weibull import WeibullPosterior


class DenseDecisionLayer(BNDLDecisionLayer):
    """The usual linear head, weights of either sign: softmax cross-entropy, no variance, every p-value settled."""

    def __init__(self, config: BNDLConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.register_buffer("feature_scale", torch.ones(config.feature_dim))
        linear = nn.Linear(config.feature_dim, config.num_labels)
        self.raw_loadings = nn.Parameter(linear.weight.detach().T.clone())  # [D, C]
        self.raw_bias = nn.Parameter(linear.bias.detach().clone())
        self._loadings_memo = LoadingsMemo()

    def score_posterior(self, features: Tensor) -> WeibullPosterior:
        """A point mass on the features [B, D], whatever their sign."""
        return _point_mass(features.float() * self.feature_scale)

    def loading_posterior(self) -> WeibullPosterior:
        """A point mass on the weights [D, C], whatever their sign."""
        return _point_mass(self.raw_loadings)

    def kl_local(self, scores: WeibullPosterior) -> Tensor:
        """Zero: there is no prior."""
        return scores.mean.new_zeros(())

    def kl_global(self, loadings: WeibullPosterior) -> Tensor:
        """Zero: there is no prior."""
        return loadings.mean.new_zeros(())

    @torch.no_grad()
    def sparsity(self) -> float:
        """Share of weights farther than 1e-5 from zero, a fraction in [0, 1]."""
        return (self.raw_loadings.abs() > SPARSITY_THRESHOLD).float().mean().item()


class NMFDecisionLayer(BNDLDecisionLayer):
    """Non-negative matrix factorisation: relu(h) @ relu(W) + b, BNDL's limit of infinite concentration (Sec. 3.3)."""

    def score_posterior(self, features: Tensor) -> WeibullPosterior:
        """A point mass on E[theta], [B, K]."""
        return _point_mass(super().score_posterior(features).mean)

    def loading_posterior(self) -> WeibullPosterior:
        """A point mass on E[Phi], [K, C]."""
        return _point_mass(super().loading_posterior().mean)

    kl_local = DenseDecisionLayer.kl_local
    kl_global = DenseDecisionLayer.kl_global


def _point_mass(mean: Tensor) -> WeibullPosterior:
    return WeibullPosterior(mean, mean.new_full((1, 1), math.inf))


@dataclass(frozen=True)
class Head:
    """A decision layer and how it is trained.

    Attributes:
        make: layer for a configuration.
        config: fields of `BNDLConfig`.
        training: fields of `BNDLTrainingArguments`, over the defaults of `fit_decision_layer`.
        callbacks: of the Trainer.
        predict: how it answers: "exact", or "monte_carlo" for heads trained by sampling, as their authors do.
        about: one line for tables.
    """

    make: Callable[[BNDLConfig], BNDLDecisionLayer]
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[TrainerCallback, ...] = ()
    predict: str = "exact"
    about: str = ""


_RELEASED_RECIPE = {"num_train_epochs": 20, "per_device_train_batch_size": 128, "lr_scheduler_type": "constant"}
_POINT = {"projection": "none", "kl_local_weight": 0.0, "kl_global_weight": 0.0, "loading_density": 1.0}
HEADS: dict[str, Head] = {
    "bndl": Head(BNDLDecisionLayer, about="this library's default"),
    "released": Head(
        BNDLDecisionLayer,
        {"preset": "released"},
        {**_RELEASED_RECIPE, "decision_layer_learning_rate": 5e-5},
        predict="monte_carlo",
        about="the authors' head and recipe: AdamW 5e-5, batch 128, 20 epochs",
    ),
    "released_1e-3": Head(
        BNDLDecisionLayer,
        {"preset": "released"},
        {**_RELEASED_RECIPE, "decision_layer_learning_rate": 1e-3},
        predict="monte_carlo",
        about="the authors' head at AdamW 1e-3, which suits it better",
    ),
    "nmf": Head(
        NMFDecisionLayer,
        {**_POINT, "loading_init": "linear", "normalize_features": False},
        {"num_train_epochs": 20},
        about="relu(h) @ relu(W) + b, deterministic",
    ),
    "dense": Head(
        DenseDecisionLayer, dict(_POINT), {"num_train_epochs": 30}, about="the usual linear head, retrained, 30 epochs"
    ),
    "bndl_through_zero": Head(
        GradientsThroughZeroLayer,
        training={"pruning_end": 1.0},
        about="BNDL, pruned until the end; loadings at zero get the gradient of a GELU",
    ),
    "bndl_lasso": Head(
        BNDLDecisionLayer,
        {"loading_density": 1.0},
        callbacks=(ProximalPenalty(1.0),),
        about="BNDL with a proximal penalty on each loading instead of pruning",
    ),
    "bndl_group_lasso": Head(
        BNDLDecisionLayer,
        {"loading_density": 1.0},
        callbacks=(ProximalPenalty(1.0, group=True),),
        about="BNDL with a proximal penalty on each factor instead of pruning",
    ),
}


def make_head(name: str, feature_dim: int, num_labels: int, **config: Any) -> tuple[BNDLDecisionLayer, dict[str, Any]]:
    """A fresh layer of the head `name` and the training arguments of its recipe.

    Args:
        name: a key of `HEADS`.
        feature_dim: D.
        num_labels: C.
        **config: fields of `BNDLConfig` that depart from the head's own.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in HEADS:
        raise ValueError(f"head {name!r} is unknown; heads are {', '.join(HEADS)}.")
    head = HEADS[name]
    fields = {**head.config, **config}
    return head.make(BNDLConfig(feature_dim=feature_dim, num_labels=num_labels, **fields)), dict(head.training)
