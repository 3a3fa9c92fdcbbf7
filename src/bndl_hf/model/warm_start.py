"""Starting from the head that was taken out: a dense layer has an exact non-negative equivalent (Sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .decision_layer import BNDLDecisionLayer


@torch.no_grad()
def start_from_dense(layer: BNDLDecisionLayer, weight: Tensor, bias: Tensor | None, signed: bool) -> None:
    """Start a decision layer as the exact non-negative equivalent of a dense head: the same softmax for every image.

    Softmax does not see a constant added per feature to all classes, so W^T - min_c W^T is as good as W^T and not
    negative. Features that take both signs are split into relu(h) and relu(-h), two factors a feature.

    Args:
        layer: a `BNDLDecisionLayer`; it is changed in place, and its features are left as they come
            (`normalize_features` off): measuring a new scale later would undo the equivalence.
        weight: [C, D] of the old head (a Conv2d's trailing ones are dropped), on features to the layer's
            `feature_power`.
        bias: [C] or None.
        signed: whether features take negative values; then K must be 2 D and the projection linear.

    Raises:
        ValueError: when the shapes or the projection do not allow an exact equivalent.
    """
    K, C = layer.raw_loadings.shape
    weight = weight.flatten(1).float()  # [C, D]
    D = weight.shape[1]
    needed = 2 * D if signed else D
    if weight.shape[0] != C or needed != K or layer.config.projection == "two_layer":
        raise ValueError(
            f"warm_start turns a [{weight.shape[0]}, {D}] head into {weight.shape[0]} classes over {needed} factors"
            f"{' (its features take both signs)' if signed else ''}, but this layer has num_labels={C}, "
            f"num_factors={K}, projection={layer.config.projection!r}; leave num_labels and num_factors out and use "
            "projection='linear', or pass warm_start=False."
        )
    bias = weight.new_zeros(C) if bias is None else bias.float()
    if layer.raw_bias is None and bias.any():
        raise ValueError("warm_start needs somewhere to put the old head's bias; use bias='free', not 'none'.")
    if isinstance(layer.projection, nn.Linear):
        identity = torch.diag(1 / layer.feature_scale)
        layer.projection.weight.copy_(torch.cat([identity, -identity]) if signed else identity)
        layer.projection.bias.fill_(layer.config.score_threshold)
    elif signed or layer.config.score_threshold > 0:
        raise ValueError(
            f"warm_start with projection='none' needs non-negative features and score_threshold=0, not "
            f"{layer.config.score_threshold}; use projection='linear'."
        )
    dense = torch.cat([weight.T, -weight.T]) if signed else weight.T  # [K, C]
    layer.raw_loadings.copy_(dense - dense.amin(dim=1, keepdim=True) + layer.config.loading_threshold)
    if layer.raw_bias is not None:
        shift = 0.0 if layer.config.bias == "free" else layer.config.loading_threshold - bias.min()
        layer.raw_bias.copy_(bias + shift)
    layer.config.normalize_features = False
