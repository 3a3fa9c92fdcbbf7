"""Decision layers by name, each with its training recipe: this library's, the released one, and the paper's baselines.

All of them are a `PosteriorHead`, so one Trainer and one prediction path serve them. registry.py has heads of other
kinds beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

from bndl_hf.baselines import belief_matching, dropout, ensemble, nmf, nmf_gelu
from bndl_hf.baselines.belief_matching import BeliefMatchingDecisionLayer
from bndl_hf.baselines.dropout import MCDropoutDecisionLayer
from bndl_hf.baselines.ensemble import EnsembleDecisionLayer
from bndl_hf.baselines.nmf import NMFDecisionLayer
from bndl_hf.baselines.nmf_gelu import NMFGELUDecisionLayer
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead


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
        citation: BibTeX of a head that is others'.
    """

    make: Callable[[BNDLConfig], PosteriorHead]
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[TrainerCallback, ...] = ()
    predict: str = "exact"
    about: str = ""
    citation: str = ""


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
        citation=nmf.CITATION,
    ),
    "nmf_gelu": Head(
        NMFGELUDecisionLayer,
        {**_POINT, "normalize_features": False},
        {"num_train_epochs": 20},
        about="nmf, learning through the gradient of a GELU",
        citation=nmf_gelu.CITATION,
    ),
    "dense": Head(
        DenseDecisionLayer, dict(_POINT), {"num_train_epochs": 30}, about="the usual linear head, retrained, 30 epochs"
    ),
    "mc_dropout": Head(
        MCDropoutDecisionLayer,
        {**_POINT, "objective": "sampled"},
        {"num_train_epochs": 30, "weight_decay": 1e-4},
        predict="monte_carlo",
        about="dense on features dropped with p = .2, 20 masks to predict",
        citation=dropout.CITATION,
    ),
    **{
        name: Head(
            BeliefMatchingDecisionLayer,
            {**_POINT, "kl_local_weight": weight},
            {"num_train_epochs": 30},
            about=f"dense log-concentrations of a Dirichlet, lambda = {weight}",
            citation=belief_matching.CITATION,
        )
        for name, weight in (("belief_matching", 0.01), ("belief_matching_0.003", 0.003))
    },
    "ensemble": Head(
        EnsembleDecisionLayer,
        dict(_POINT),
        {"num_train_epochs": 30},
        about="5 dense heads, the mean of their probabilities",
        citation=ensemble.CITATION,
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
