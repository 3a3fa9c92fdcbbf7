"""Decision layers by name, each with its training recipe: this library's, the released one, NMF, and a dense layer.

NMF and the dense layer have point masses for posteriors (the limit k -> infinity of Sec. 3.3), so one Trainer and one
prediction path serve all of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
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

    def posterior_of_inputs(self, inputs: Tensor) -> WeibullPosterior:
        """A point mass on E[theta], [B, D]."""
        return _point_mass(self.means(inputs, self.config.score_threshold))

    def loading_posterior(self) -> WeibullPosterior:
        """A point mass on E[Phi], [D, C]."""
        return _point_mass(self.means(self.raw_loadings, self.config.loading_threshold))

    def kl_local(self, scores: WeibullPosterior) -> Tensor:
        """Zero: there is no prior."""
        return scores.mean.new_zeros(())

    def kl_global(self, loadings: WeibullPosterior) -> Tensor:
        """Zero: there is no prior."""
        return loadings.mean.new_zeros(())


class NMFDecisionLayer(PointMassHead):
    """Non-negative matrix factorisation: relu(h) @ relu(W) + b, BNDL's limit of infinite concentration (Sec. 3.3)."""

    def means(self, values: Tensor, threshold: float) -> Tensor:
        """relu(x - c), as in Eqs. 9 and 11."""
        return F.relu(values - threshold)


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

    make: Callable[[BNDLConfig], PosteriorHead]
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
        {**_POINT, "normalize_features": False},
        {"num_train_epochs": 20},
        about="relu(h) @ relu(W) + b, deterministic",
    ),
    "dense": Head(
        DenseDecisionLayer, dict(_POINT), {"num_train_epochs": 30}, about="the usual linear head, retrained, 30 epochs"
    ),
}


def make_head(name: str, feature_dim: int, num_labels: int, **config: Any) -> tuple[PosteriorHead, dict[str, Any]]:
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
