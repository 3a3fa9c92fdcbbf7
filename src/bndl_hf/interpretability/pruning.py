"""A smaller model with the same answers: factors without a loading go, loadings of zero stay zero for good."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from bndl_hf.interpretability.checks import decision_layer_of
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.factor_names import names_of_kept
from bndl_hf.model.presets import KL_LOCAL_BUDGET

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@torch.no_grad()
def prune(model: ModuleT) -> ModuleT:
    """A copy of `model` without the factors that no class has a loading for, and with the same answers.

    Logits, their variances, probabilities, p-values and explanations are those of `model` up to rounding, and what was
    fitted on them (temperature, abstention, prediction sets) stays valid. Factors are numbered anew, in the same
    order, and keep the names they were given. `BNDLPrediction.evidence`, the sum of all
    scores, now counts only factors that matter to some class; out-of-distribution scores made of it change with it.

    What goes depends on what reads a factor's z. With projection "linear" or "two_layer" and concentrations made of the
    features or of each factor's own z (the default preset), the factor's row of the projection goes too. Without a
    projection there is no row to take out, and with concentrations made of all scores ("released") every one of them
    still sets the k of every factor: then all of z = g(h) is computed as before, `config.num_projected` values, and the
    layer's `selection` names the factors among them.

    Training may go on. The weights of the loss are written down so that what is left is pulled as before:
    `kl_local_weight` is the one used until now (not measured again, and no longer 0.03/K of a smaller K),
    `kl_global_weight` is scaled where it is divided by the number of factors, and `loading_density` so that as many
    loadings may stay. The loss itself is smaller by the KL of the factors that went.

    Args:
        model: a BNDL model or its decision layer; it is left as it is. `save_pretrained` and `from_pretrained` work as
            ever on what comes back.

    Returns:
        A model of the same class, mode and device. One factor stays where none has a loading.

    Raises:
        ValueError: no decision layer of its own, or one without factors.

    Example:
        >>> smaller = prune(model)
        >>> smaller.config.num_factors <= model.config.num_factors
        True
    """
    if not isinstance(decision_layer_of(model), BNDLDecisionLayer):
        raise ValueError(f"A {type(decision_layer_of(model)).__name__} makes no factors, so there is none to drop.")
    if not isinstance(model, BNDLDecisionLayer) and "decision_layer" not in dict(model.named_children()):
        raise ValueError(
            f"A {type(model).__name__} only hands on the decision layer of the model inside it; pass that model (of a "
            "model with adapters: merge_and_unload() first)."
        )
    smaller = copy.deepcopy(model)
    layer = decision_layer_of(smaller)
    assert isinstance(layer, BNDLDecisionLayer)  # as the one above
    layer.zero_loadings(layer.factor_loadings == 0)
    kept = (layer.factor_loadings > 0).any(dim=1).nonzero().squeeze(1)  # [K']
    pruned = _with_factors(layer, kept if len(kept) else kept.new_zeros(1))
    if isinstance(smaller, BNDLDecisionLayer):
        return pruned  # type: ignore[return-value]  # of the class of `model`
    smaller.decision_layer = pruned
    return smaller


def _with_factors(layer: BNDLDecisionLayer, kept: Tensor) -> BNDLDecisionLayer:
    """A layer of the same class with the factors `kept` [K'] of `layer`, whose configuration is changed in place."""
    config, state = layer.config, layer.state_dict()
    K = len(layer.raw_loadings)
    rows = ["raw_loadings"]
    if config.score_concentration == "per_factor":
        rows += ["score_concentration.weight", "score_concentration.bias"]
    if config.loading_concentration == "per_entry":
        rows.append("loading_concentration")
    if config.projection == "two_layer":
        config.projection_dim = config.projection_dim or K  # the hidden layer stays as wide as it was
    if layer.selection is not None:
        rows.append("selection")
    elif config.projection == "none" or config.score_concentration_input == "score_mean":
        if len(kept) < K:
            config.num_projected, state["selection"] = K, kept
    else:
        last = "projection" if config.projection == "linear" else "projection.2"
        rows += [f"{last}.weight", f"{last}.bias"]
    state.update({name: state[name][kept] for name in rows})

    config.kl_local_weight = KL_LOCAL_BUDGET / K if config.kl_local_weight is None else config.kl_local_weight
    config.kl_local_weight_is_measured = False
    config.num_factors = len(kept)
    config.factor_names = names_of_kept(config.factor_names, kept.tolist())
    if config.kl_global_scaling == "per_factor":
        config.kl_global_weight *= len(kept) / K
    config.loading_density = min(1.0, config.loading_density * K / len(kept))

    with torch.device("meta"):  # no random numbers are drawn for weights that are there
        pruned = type(layer)(config).train(layer.training)
    pruned.load_state_dict(state, assign=True)
    learns = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(learns[name])
    return pruned
