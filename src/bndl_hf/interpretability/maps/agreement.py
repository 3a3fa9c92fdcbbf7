"""Whether two maps of the same images say the same: their order of the pixels, and what they mark most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor


@dataclass(frozen=True)
class MapAgreement:
    """How alike two maps of each image are.

    Attributes:
        rank_correlation: [B] Spearman's, in [-1, 1]; 0 where a map is constant and so orders nothing.
        overlap: [B] intersection over union of the pixels marked most, in [0, 1].
        chance_overlap: overlap, roughly, of two maps that have nothing to do with each other.
        top_share: fraction of the pixels that counts as marked most.
    """

    rank_correlation: Tensor
    overlap: Tensor
    chance_overlap: float
    top_share: float


def map_agreement(map_a: Tensor, map_b: Tensor, top_share: float = 0.1) -> MapAgreement:
    """Rank correlation of two maps of each image, and the overlap of the pixels they mark most.

    Pixels tied at the limit of the most marked share what is left to fill: with a tenth to mark and a map that is zero
    but for a twentieth of the pixels, those are marked and each of the others to 1/19. So no answer depends on an
    order among equals; a constant map marks everything to a tenth. The overlap is sum of minima over sum of maxima.

    Args:
        map_a: [B, H, W].
        map_b: [B, H, W] of the same images.
        top_share: in (0, 1).

    Raises:
        ValueError: maps of different shapes, empty or with NaN, or a share out of range.

    Example:
        >>> ramp = torch.arange(16.0).view(1, 4, 4)
        >>> same = map_agreement(ramp, 2 * ramp + 1, top_share=0.25)
        >>> same.rank_correlation.item(), same.overlap.item()
        (1.0, 1.0)
    """
    if map_a.ndim != 3 or map_a.shape != map_b.shape or 0 in map_a.shape:
        raise ValueError(
            f"map_a has shape {list(map_a.shape)}, map_b {list(map_b.shape)}; two maps of one shape [B, H, W], not "
            "empty, fit."
        )
    if not 0 < top_share < 1:
        raise ValueError(f"top_share={top_share} is a share of the pixels in (0, 1). Pass 0.1, say.")
    flat = [maps.detach().flatten(1).cpu().double().numpy() for maps in (map_a, map_b)]  # [B, H W]
    for name, values in zip(("map_a", "map_b"), flat, strict=True):
        if count := int(np.isnan(values).sum()):
            raise ValueError(f"{name} holds {count} NaN, which has no place in an order.")
    ranks = [rankdata(values, axis=1) for values in flat]
    centred = [values - values.mean(axis=1, keepdims=True) for values in ranks]
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    products = (centred[0] * centred[1]).sum(axis=1)
    correlation = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0).clip(-1, 1)
    marked = [_marked(values, top_share) for values in flat]
    overlap = np.minimum(*marked).sum(axis=1) / np.maximum(*marked).sum(axis=1)
    # Of independent sets of share s: s^2 of the pixels are in both, 2 s - s^2 in one or both.
    chance = top_share / (2 - top_share)
    return MapAgreement(torch.from_numpy(correlation), torch.from_numpy(overlap), chance, top_share)


def _marked(values: np.ndarray, top_share: float) -> np.ndarray:
    """To what degree each pixel of [B, P] is among the `top_share` P largest, in [0, 1]: ties share what is left."""
    count = top_share * values.shape[1]
    limit = -np.sort(-values, axis=1)[:, [int(np.ceil(count)) - 1]]  # [B, 1]
    above, at = values > limit, values == limit
    left = (count - above.sum(axis=1, keepdims=True)) / at.sum(axis=1, keepdims=True)
    return above + left * at
