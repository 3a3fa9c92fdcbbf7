"""Where in the image a sum of factor scores comes from: exactly where the features are an average over positions.

A factor is active where z_k = w_k h + b_k - c_theta is above zero, and its score is then z_k (Eq. 9). If h is the mean
over P positions of A_ij, or that mean normalised at fixed statistics, then z_k = sum_ij e_k,ij with

    e_k,ij = (z_k + w_k scale (A_ij - mean A)) / P

because the deviations from the mean add up to zero. What does not depend on the position (b_k, c_theta, the shift of a
normalisation) is thereby spread evenly. Of features to a power (`feature_power`) the same holds at the slope
|h|^(p - 1) of the image. A class is the sum of its active factors, weighted by their loadings (Eq. 5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bndl_hf.interpretability.maps.feature_trace import FeatureTrace
from bndl_hf.interpretability.maps.gradcam import gradcam_on_grid
from bndl_hf.interpretability.maps.position_features import PositionFeatures, position_features
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.model.posterior_head import power_slope

POOLED_AVERAGE, POSITION_WISE, GRAD_CAM = "pooled_average", "position_wise", "grad_cam"


def evidence_on_grid(
    model: BNDLPreTrainedModel, trace: FeatureTrace, scores: Tensor, coefficients: Tensor
) -> tuple[Tensor, str]:
    """Evidence per position for sums of factor scores, by the best method the backbone allows.

    Args:
        model: the BNDL model.
        trace: what its backbone pass left behind.
        scores: E[theta], [B, K].
        coefficients: [B, k, K] >= 0, the k sums of scores of each image: one-hot for a factor, loadings for a class.

    Returns:
        (evidence [B, k, h, w] in the unit of the sums, name of the method).
    """
    layer, found = model.decision_layer, position_features(trace)
    totals = torch.einsum("bkf,bf->bk", coefficients, scores)
    if found is None:
        with torch.inference_mode(False):  # a tensor made in inference mode cannot be part of a gradient
            sums = coefficients.clone()
        cam = gradcam_on_grid(model, lambda _: sums, trace.pixel_values, **trace.backbone_inputs)  # [B, k, h, w]
        share = cam / cam.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)
        return totals[..., None, None] * share, GRAD_CAM
    if isinstance(layer.projection, nn.Sequential):  # not linear
        evidence, method = _position_wise(layer, found, coefficients), POSITION_WISE
    else:
        evidence, method = pooled_average(layer, found, scores, coefficients), POOLED_AVERAGE
    return evidence.unflatten(-1, (found.grid.height, found.grid.width)), method


def pooled_average(layer: BNDLDecisionLayer, found: PositionFeatures, scores: Tensor, coefficients: Tensor) -> Tensor:
    """e_ij of the formula above, [B, k, P]; columns of h that are not an average (a CLS token) add to no position."""
    active = coefficients * (scores > 0)[:, None]
    weights = active
    if layer.selection is not None:  # the factors are some of z
        assert layer.config.num_projected is not None
        weights = active.new_zeros(*active.shape[:-1], layer.config.num_projected)
        weights[..., layer.selection.long()] = active
    if isinstance(layer.projection, nn.Linear):
        projection = layer.projection.weight
        if not torch.compiler.is_compiling():  # how many are used depends on the images
            used = weights.any(dim=0).any(dim=0)  # a few factors of many
            weights, projection = weights[..., used], projection[used]
        weights = weights @ projection  # [B, k, K] @ [K, D] -> [B, k, D]
    # h^p = h |h|^(p - 1): at the slope of its own image a power is a sum over positions too.
    weights = weights * (power_slope(found.features, layer.config.feature_power) * layer.feature_scale)[:, None]
    elsewhere = weights.clone()
    elsewhere[..., found.columns] = 0
    placed = torch.einsum("bkf,bf->bk", active, scores) - torch.einsum("bkd,bd->bk", elsewhere, found.features)
    deviations = weights[..., found.columns] @ found.deviations.transpose(1, 2)  # [B, k, D'] @ [B, D', P]
    return (placed[..., None] + deviations) / found.grid.num_positions


def _position_wise(layer: BNDLDecisionLayer, found: PositionFeatures, coefficients: Tensor) -> Tensor:
    """What the decision layer says of an image that looks everywhere as it does at one position, over P; [B, k, P]."""
    features = found.at_positions()  # [B, P, D]
    scores = layer.score_posterior(features.flatten(0, 1)).mean.unflatten(0, features.shape[:2])  # [B, P, K]
    return coefficients @ scores.transpose(1, 2) / found.grid.num_positions
