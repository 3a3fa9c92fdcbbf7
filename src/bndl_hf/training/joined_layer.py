"""Two decision layers as one: the factors of both, each layer's logits with a weight of their own.

Averaging logits is averaging log-probabilities, the logarithmic opinion pool (Genest and Zidek 1986). The convex layer
hardly varies with the rows it was given and cannot bend; the trained one bends, and varies. Their pool is better than
either on most tasks, and choosing between them on a few hundred rows is a lottery (docs/defaults.md). Read tuning.py
first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.candidates import Candidate, judge
from bndl_hf.training.logistic_regression import Split

WEIGHT = 0.5


def joined_candidate(splits: Sequence[Split], convex: Candidate, trained: Candidate) -> Candidate | None:
    """The pool of both candidates in equal parts, each at the temperature it needs; None where they cannot be one.

    Args:
        splits: rows to fit on and rows to choose on, those the candidates were judged on.
        convex, trained: of `convex_candidate` and `trained_candidate`.
    """
    first = splits[0]
    if not can_be_joined(*(one.fit(first.features, first.labels) for one in (convex, trained))):
        return None

    def fit(x: Tensor, y: Tensor) -> PosteriorHead:
        layers = [convex.fit(x, y), trained.fit(x, y)]
        temperatures = (convex.judged.mean_temperature, trained.judged.mean_temperature)
        return join_layers(layers, [WEIGHT / temperature for temperature in temperatures])

    return Candidate("both", fit, judge(splits, fit), "the factors of both layers, logits in equal parts")


def can_be_joined(*layers: PosteriorHead) -> bool:
    """Whether layers are of a form that adds up: scores of one power of the features, thresholds at zero."""
    configs = [layer.config for layer in layers]
    return (
        all(isinstance(layer, BNDLDecisionLayer) and layer.selection is None for layer in layers)
        and len({(c.feature_power, c.feature_dim, c.num_labels, c.bias, c.objective) for c in configs}) == 1
        and all(c.score_threshold == c.loading_threshold == 0 and c.projection != "two_layer" for c in configs)
        and all(c.score_concentration_input == "pre_activation" for c in configs)
        and all(c.loading_concentration == "per_entry" and c.bias == "free" for c in configs)
    )


@torch.no_grad()
def join_layers(layers: Sequence[PosteriorHead], weights: Sequence[float]) -> BNDLDecisionLayer:
    """A layer whose random logits are the weighted sum of those of `layers`, which stay as they are.

    Args:
        layers: `can_be_joined` is true of them; the configuration of the last one is taken, its recalibration is not.
        weights: > 0, one a layer.

    Returns:
        A layer of all their factors, in evaluation mode.

    Raises:
        ValueError: they cannot be joined.
    """
    if not can_be_joined(*layers):
        raise ValueError("These layers cannot be joined: they differ in the form of their scores, loadings or bias.")
    config = copy.deepcopy(layers[-1].config)
    config.projection, config.num_factors = "linear", sum(len(layer.raw_loadings) for layer in layers)
    config.temperature = config.variance_scale = 1.0
    joined = BNDLDecisionLayer(config)
    joined.set_feature_scale(layers[-1].feature_scale)
    parts = [_parts(layer, weight, joined.feature_scale) for layer, weight in zip(layers, weights, strict=True)]
    for name, parameter in joined.named_parameters():
        found = [part[name] for part in parts]
        parameter.copy_(torch.stack(found).sum(0) if name == "raw_bias" else torch.cat(found))
    return joined.eval()


def _parts(layer: PosteriorHead, weight: float, scale: Tensor) -> dict[str, Tensor]:
    """The parameters of a layer as they are part of another one with this feature scale."""
    own = dict(layer.named_parameters())
    matrix = own.get("projection.weight", torch.eye(len(scale)))
    return {
        "projection.bias": torch.zeros(len(scale)),
        **own,
        "projection.weight": matrix * (layer.feature_scale / scale),
        "raw_loadings": weight * own["raw_loadings"],
        "raw_bias": weight * own["raw_bias"],
    }
