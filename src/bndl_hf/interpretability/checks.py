"""Checks on what a user hands to the functions of this room, done once, where a value enters."""

from __future__ import annotations

from torch import Tensor, nn

from bndl_hf.model.posterior_head import PosteriorHead


def decision_layer_of(model: nn.Module) -> PosteriorHead:
    """The decision layer of a BNDL model, or the layer itself.

    Raises:
        ValueError: there is none.
    """
    layer = model if isinstance(model, PosteriorHead) else getattr(model, "decision_layer", None)
    if not isinstance(layer, PosteriorHead):
        raise ValueError(
            f"A {type(model).__name__} has no BNDL decision layer; pass a BNDLForImageClassification or a "
            "BNDLDecisionLayer (of a model with adapters: merge_and_unload() first)."
        )
    return layer


def check_matrix(values: Tensor, name: str, axes: str, num_columns: int | None = None) -> None:
    """Raise ValueError unless `values` is a matrix of finite numbers with at least one row and one column.

    Args:
        values: what arrived.
        name: of the argument.
        axes: of the matrix that fits, such as "N, K".
        num_columns: how many columns fit; None fits any.
    """
    if values.ndim != 2 or 0 in values.shape or num_columns not in (None, values.shape[1]):
        columns = "" if num_columns is None else f" with {axes[-1]} = {num_columns}"
        raise ValueError(f"{name} has shape {list(values.shape)}; [{axes}]{columns}, not empty, fits.")
    if (count := int((~values.isfinite()).sum())) > 0:
        raise ValueError(
            f"{name} holds {count} values of {values.numel()} that are NaN or infinite; find the image or weight that "
            "made them, or leave it out."
        )


def check_non_negative(values: Tensor, name: str) -> None:
    """Raise ValueError where a value is below zero."""
    if (lowest := values.min().item()) < 0:
        raise ValueError(
            f"{name} holds {lowest:.3g}; scores and loadings of factors are never negative. Pass factor_scores of a "
            "model's output, and decision_layer.factor_loadings."
        )


def check_labels(labels: Tensor, num_images: int, num_classes: int | None = None) -> None:
    """Raise ValueError unless `labels` is one class index for each of `num_images` images."""
    if labels.ndim != 1 or len(labels) != num_images:
        raise ValueError(f"labels have shape {list(labels.shape)}; one class for each of {num_images} images fits.")
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ValueError(f"labels have dtype {labels.dtype}; classes are whole numbers. Pass labels.long().")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "0 and above" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(f"labels run from {lowest} to {highest}; classes are {allowed}. Leave ignored images out.")
