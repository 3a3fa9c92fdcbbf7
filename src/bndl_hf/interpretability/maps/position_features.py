"""Which positions of the image the features are made of: found by comparing numbers, never by a model's name.

For most convolutional and hierarchical backbones the features are the average of a map over its positions, h = mean_ij
A_ij; some normalise it afterwards (ConvNeXt, BEiT), some put the CLS token beside it (DINOv2). For a plain ViT h is the
CLS token, which is not an average of anything. `position_features` tells them apart. Read evidence_maps.py next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bndl_hf.interpretability.maps.feature_trace import FeatureTrace
from bndl_hf.interpretability.maps.token_grid import TokenGrid

# What counts as equal: this much of a channel's largest activation, and two roundings of the features in their dtype.
TOLERANCE = 1e-5


@dataclass
class PositionFeatures:
    """The features of a batch of images, taken apart by position.

    Attributes:
        features: h, [B, D], float32.
        values: A_ij, [B, P, D'], float32, what was averaged: h[columns] = scale * mean of A_ij + a constant.
        grid: where the P positions lie.
        columns: the D' of the D features that belong to `values`.
        scale: [B, D'], what the averages were multiplied by: 1, or gamma / sigma of the normalisation after the pooling
            at the statistics of each image.
        module: whose output the map is.
        norm: the normalisation after the pooling, or None.
    """

    features: Tensor
    values: Tensor
    grid: TokenGrid
    columns: slice
    scale: Tensor
    module: nn.Module
    norm: nn.Module | None

    @property
    def deviations(self) -> Tensor:
        """scale * (A_ij - their mean), [B, P, D']: what a position adds to the features beyond the average position."""
        return self.scale[:, None] * (self.values - self.values.mean(dim=1, keepdim=True))

    def at_positions(self) -> Tensor:
        """The features of an image that looked everywhere as it does at one position, [B, P, D]."""
        features = self.features[:, None].repeat(1, self.grid.num_positions, 1)
        features[..., self.columns] += self.deviations
        return features


def position_features(trace: FeatureTrace) -> PositionFeatures | None:
    """Of which positions the features are an average; None where they are none.

    Of several maps with the same average the finest is taken, the last of equally fine ones.
    """
    found: PositionFeatures | None = None
    for hidden_state, grid, module in reversed(trace.maps):
        if found is None or grid.num_positions > found.grid.num_positions:
            values = grid.positions(hidden_state).float()
            if (average := _average(trace, values)) is not None:
                columns, scale, norm = average
                found = PositionFeatures(trace.features.float(), values, grid, columns, scale, module, norm)
    return found


def _average(trace: FeatureTrace, values: Tensor) -> tuple[slice, Tensor, nn.Module | None] | None:
    """Which columns of the features are the average of `values` [B, P, D'], how it was scaled, and by what norm.

    None where no columns are.
    """
    mean = values.mean(dim=1)  # [B, D']
    D, width = trace.features.shape[1], mean.shape[1]
    for start in range(0, D - width + 1, width):
        if _equal(trace.features[:, start : start + width], mean, values):
            return slice(start, start + width), torch.ones_like(mean), None
    for norm, given, returned in trace.norms:
        if _equal(given, mean, values) and _equal(returned, trace.features.float(), returned):
            return slice(0, D), norm_scale(norm, mean), norm
    return None


def _equal(one: Tensor, other: Tensor, values: Tensor) -> bool:
    """Whether `one`, in a dtype of its own, is `other` up to rounding; `values` say how large activations are."""
    if one.shape != other.shape:
        return False
    rounding = 2 * torch.finfo(one.dtype).eps * one.float().abs().max()
    largest = values.abs().flatten(0, -2).amax(dim=0)  # of each channel: a strong one does not excuse the weak
    return bool(((one.float() - other).abs() <= TOLERANCE * largest + rounding).all())


def norm_scale(norm: Any, mean: Tensor) -> Tensor:
    """gamma / sigma of a norm that read `mean` [B, D]: sigma of each image (LayerNorm) or the running one, [B, D]."""
    if isinstance(norm, nn.LayerNorm):
        variance = mean.var(dim=1, correction=0, keepdim=True)
    else:
        variance = norm.running_var.float().expand_as(mean)
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.float()
    return gamma * torch.rsqrt(variance + norm.eps)
