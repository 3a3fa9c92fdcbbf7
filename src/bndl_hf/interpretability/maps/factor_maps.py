"""Where in the image a factor or a class finds its evidence, in the unit of its score and, for most backbones, exactly.

The decision layer is linear in its scores and piecewise linear in the features, so where features are an average over
positions every position has its own part of a score, and the parts add up to it. evidence_maps.py has the formula,
position_features.py finds out whether the backbone is of that kind. Exact is how a score is made of the positions of
the last map; which pixels a position has seen is another question, for lime.py: its receptive field is wider than its
place, and the fewer the positions, the coarser the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bndl_hf.interpretability.choices import check_sees_images, chosen_factors, largest_parts
from bndl_hf.interpretability.maps.evidence_maps import POOLED_AVERAGE, evidence_on_grid
from bndl_hf.interpretability.maps.feature_trace import trace_features
from bndl_hf.interpretability.maps.token_grid import spread_over_image
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel


@dataclass
class FactorMaps:
    """Evidence for k factors of each image, by position.

    Attributes:
        maps: [B, k, height, width], score per pixel of the image; each sums to what `evidence` sums to.
        evidence: [B, k, h, w], score per position of the backbone's last map; of either sign.
        unplaced: [B, k], what no position accounts for: `evidence` and it add up to `scores`. Zero for averaged
            features; the part of the CLS token where that stands beside the average (DINOv2); the error of
            "position_wise".
        scores: E[theta_k], [B, k], >= 0.
        factors: which factors, [B, k].
        exact: every part is what that position adds to the score: not an approximation.
        method: "pooled_average" (exact), "position_wise" (an average before a projection of two layers: the decision
            layer on each position's own features) or "grad_cam" (no average, as where a classifier reads its CLS token:
            the score shared out in proportion to Grad-CAM).
    """

    maps: Tensor
    evidence: Tensor
    unplaced: Tensor
    scores: Tensor
    factors: Tensor
    exact: bool
    method: str


@dataclass
class ClassMaps:
    """Evidence for one class of each image, by position: that of all its active factors.

    Attributes:
        maps: [B, height, width], logit per pixel of the image; each sums to what `evidence` sums to.
        evidence: [B, h, w], logit per position of the backbone's last map; of either sign.
        unplaced: [B], as in `FactorMaps`.
        bias: b_c, [B], which no image changes.
        total: [B], the mean logit: the sum of `evidence`, `unplaced` and `bias`.
        target: the class c, [B].
        exact, method: as in `FactorMaps`.
    """

    maps: Tensor
    evidence: Tensor
    unplaced: Tensor
    bias: Tensor
    total: Tensor
    target: Tensor
    exact: bool
    method: str


@torch.no_grad()
def factor_maps(
    model: BNDLPreTrainedModel,
    pixel_values: Tensor,
    factors: Tensor | Sequence[int] | int | None = None,
    target: Tensor | int | None = None,
    top_k: int | None = None,
    **backbone_inputs: Tensor | bool | None,
) -> FactorMaps:
    """Where in the image each factor finds its evidence; one backbone pass, three where it takes Grad-CAM.

    The parts of a factor whose score is zero are zero: nothing in the image reaches a logit through it. A projection of
    two layers is not linear, so its maps are "position_wise".

    Args:
        model: a `BNDLForImageClassification` or a `BNDLModel`.
        pixel_values: [B, channels, height, width].
        factors: one factor, k for all images or [B, k]; None takes the `top_k` largest parts theta_k Phi_kc of the
            logit of `target`, largest first.
        target: class per image [B], one class for all, or None for each image's top class; without `factors` only.
        top_k: how many factors; None: five, or all of fewer, as in `explain`.
        **backbone_inputs: what else the backbone reads, see `extract_features`.

    Raises:
        TypeError: for a decision layer alone.
        ValueError: for images of another shape; a factor, class or `top_k` out of range; `factors` and `target` at
            once; a backbone without a map of two positions or more.

    Example:
        >>> maps = factor_maps(model, pixel_values)
        >>> maps.maps.shape, maps.exact
        (torch.Size([8, 5, 64, 64]), True)
    """
    check_sees_images(model, pixel_values)
    if factors is not None and target is not None:
        raise ValueError(f"factors={factors} and target={target}: a target only chooses among factors; pass one.")
    model = evaluation_view(model)
    layer = model.decision_layer
    if factors is not None:
        factors = chosen_factors(factors, len(pixel_values), layer)
    trace = trace_features(model, pixel_values, **backbone_inputs)
    with torch.autocast(device_type=pixel_values.device.type, enabled=False):
        posterior = layer.score_posterior(trace.features)
        if factors is None:
            factors = largest_parts(posterior, layer, target, top_k).factors
        coefficients = F.one_hot(factors, posterior.mean.shape[1]).float()  # [B, k, K]
        evidence, method = evidence_on_grid(model, trace, posterior.mean, coefficients)
    scores = posterior.mean.gather(1, factors)
    return FactorMaps(
        maps=spread_over_image(evidence, trace.image_size),
        evidence=evidence,
        unplaced=scores - evidence.sum(dim=(-2, -1)),
        scores=scores,
        factors=factors,
        exact=method == POOLED_AVERAGE,
        method=method,
    )


@torch.no_grad()
def class_maps(
    model: BNDLPreTrainedModel,
    pixel_values: Tensor,
    target: Tensor | int | None = None,
    **backbone_inputs: Tensor | bool | None,
) -> ClassMaps:
    """Where in the image a class finds its evidence; one backbone pass.

    Args:
        model: a `BNDLForImageClassification` or a `BNDLModel`.
        pixel_values: [B, channels, height, width].
        target: class per image [B], one class for all, or None for each image's top class.
        **backbone_inputs: what else the backbone reads, see `extract_features`.

    Raises:
        TypeError: for a decision layer alone.
        ValueError: for images of another shape, a class out of range, or a backbone without a map of two positions
            or more.

    Example:
        >>> maps = class_maps(model, pixel_values)
        >>> torch.allclose(maps.evidence.sum((1, 2)) + maps.unplaced + maps.bias, maps.total)
        True
    """
    check_sees_images(model, pixel_values)
    model = evaluation_view(model)
    layer = model.decision_layer
    trace = trace_features(model, pixel_values, **backbone_inputs)
    with torch.autocast(device_type=pixel_values.device.type, enabled=False):
        posterior = layer.score_posterior(trace.features)
        explained = largest_parts(posterior, layer, target, top_k=1)
        coefficients = layer.factor_loadings.T[explained.target][:, None]  # [B, 1, K]
        evidence, method = evidence_on_grid(model, trace, posterior.mean, coefficients)
    evidence = evidence[:, 0]
    return ClassMaps(
        maps=spread_over_image(evidence, trace.image_size),
        evidence=evidence,
        unplaced=explained.total - explained.bias - evidence.sum(dim=(-2, -1)),
        bias=explained.bias,
        total=explained.total,
        target=explained.target,
        exact=method == POOLED_AVERAGE,
        method=method,
    )
