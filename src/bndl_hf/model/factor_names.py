"""A factor is never a bare number: the name a user gave it, else the classes it feeds.

Names are a field of the configuration, `factor_names`, so they travel with the checkpoint; `set_factor_names` writes
them, pruning renumbers them. `factor_names` gives every factor a label, whether it was named or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

# Classes a label names; of the others it says how many.
CLASSES_NAMED = 3
MAX_NAME_LENGTH = 80  # characters


def checked_factor_names(names: Any, num_factors: int | None) -> dict[str, str] | None:
    """`names` as the configuration keeps them: {"423": "fins"}, by the factor's number; None where nothing is named.

    Args:
        names: {423: "fins"}, the number as a whole number or its decimal text, or None.
        num_factors: K; None leaves the largest number unchecked.

    Raises:
        ValueError: a key that is not a factor, a name that is not one line of text, or one factor named twice.
    """
    if names is None:
        return None
    if not isinstance(names, Mapping):
        raise ValueError(f"factor_names={names!r} must map factors to their names, as in {{423: 'fins'}}.")
    found: dict[int, str] = {}
    for key, name in names.items():
        factor = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else key
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 0:
            raise ValueError(f"factor_names names {key!r}, which is not the number of a factor; write {{423: 'fins'}}.")
        if num_factors is not None and factor >= num_factors:
            raise ValueError(
                f"factor_names names factor {factor}; this model has {num_factors} factors, 0 to {num_factors - 1}."
            )
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"factor_names calls factor {factor} {name!r}; a name is one line of text, 1 to {MAX_NAME_LENGTH} "
                "characters."
            )
        if factor in found:
            raise ValueError(f"factor_names names factor {factor} twice: {found[factor]!r} and {name.strip()!r}.")
        found[factor] = name.strip()
    return {str(factor): found[factor] for factor in sorted(found)} or None


def store_factor_names(configs: Sequence[PretrainedConfig], names: Any) -> None:
    """`set_factor_names`, on the configurations of a model and of its decision layer (one object, or two)."""
    checked = [checked_factor_names(names, config.num_factors) for config in configs]
    for config, values in zip(configs, checked, strict=True):
        config.factor_names = values


def names_of_kept(names: Mapping[str, str] | None, kept: Sequence[int]) -> dict[str, str] | None:
    """`factor_names` of a layer that keeps the factors `kept`, which are 0, 1, ... there."""
    found = {str(new): names[str(old)] for new, old in enumerate(kept) if str(old) in names} if names else {}
    return found or None


def factor_names(model: Any, factors: Sequence[int] | Tensor | None = None) -> list[str]:
    """A label for every factor: the user's name, else the classes it feeds, largest loading first.

    Args:
        model: a BNDL model, or its decision layer (which knows class names where its configuration does).
        factors: which ones, [k]; None labels all K.

    Returns:
        One line of text for each, such as "fins", "feeds bass, crocodile +12 more" or "feeds no class".

    Raises:
        ValueError: a factor the model does not have.

    Example:
        >>> model.set_factor_names({0: "fins"})
        >>> factor_names(model, [0, 1])
        ['fins', 'feeds ...']
    """
    layer = getattr(model, "decision_layer", model)
    config, K = model.config, len(layer.raw_loadings)
    chosen = torch.arange(K) if factors is None else torch.as_tensor(factors).reshape(-1).cpu().long()
    outside = chosen[(chosen < 0) | (chosen >= K)]
    if len(outside):
        raise ValueError(f"Factor {outside[0]} is out of range; this model has {K} factors, 0 to {K - 1}.")
    given = config.factor_names or {}
    with torch.no_grad():
        loadings = layer.factor_loadings[chosen.to(layer.raw_loadings.device)].float().cpu()  # [k, C]
    return [
        given.get(str(factor)) or _feeds(row, config.id2label)
        for factor, row in zip(chosen.tolist(), loadings, strict=True)
    ]


def _feeds(loadings: Tensor, id2label: Mapping[int, Any]) -> str:
    """ "feeds bass, crocodile +12 more" of the loadings [C] of one factor."""
    num_fed = int((loadings > 0).sum())
    if not num_fed:
        return "feeds no class"
    largest = loadings.topk(min(CLASSES_NAMED, num_fed)).indices.tolist()
    more = f" +{num_fed - len(largest)} more" if num_fed > len(largest) else ""
    return f"feeds {', '.join(str(id2label[c]) for c in largest)}{more}"


__all__ = [
    "CLASSES_NAMED",
    "MAX_NAME_LENGTH",
    "checked_factor_names",
    "factor_names",
    "names_of_kept",
    "store_factor_names",
]
