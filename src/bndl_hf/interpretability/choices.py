"""Which factors or which class of which image: what the explainers accept, checked where it enters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bndl_hf.model.evidence import Evidence, explain_logit
from bndl_hf.model.logit_posterior import LogitPosterior, Posterior
from bndl_hf.model.posterior_head import PosteriorHead


def check_sees_images(model: object, pixel_values: Tensor) -> None:
    """Refuse a model that has no backbone, and so no image to point into, and images that are not a grid of pixels.

    Raises:
        TypeError: for a decision layer alone, or an image that is not a tensor.
        ValueError: for patches cut out beforehand (SigLIP 2).
    """
    if isinstance(model, PosteriorHead):
        raise TypeError(
            f"A {type(model).__name__} reads features, which have no place in an image; pass the "
            "BNDLForImageClassification it belongs to, or ask the layer itself for explain(features)."
        )
    if not hasattr(model, "extract_features"):
        raise TypeError(f"A {type(model).__name__} has no BNDL decision layer; pass a BNDLForImageClassification.")
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"The image is a {type(pixel_values).__name__}; pass what the model's processor makes of it: "
            "processor(image, return_tensors='pt')['pixel_values']."
        )
    if pixel_values.ndim != 4 or len(pixel_values) == 0:
        raise ValueError(
            f"pixel_values have shape {list(pixel_values.shape)}; places in an image need [B, channels, height, "
            "width]. A backbone that reads patches cut out beforehand (SigLIP 2) has none; explain() needs no places."
        )


def chosen_factors(factors: Tensor | Sequence[int] | int, batch_size: int, layer: PosteriorHead) -> Tensor:
    """`factors` as [B, k]: one, k for all images, or k for each.

    Raises:
        ValueError: for another shape, or a factor the layer does not have.
    """
    K, loadings = layer.raw_loadings.shape[0], layer.raw_loadings
    try:
        chosen = torch.as_tensor(factors, device=loadings.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{factors!r} is not a choice of factors: {error}.") from error
    if chosen.is_floating_point() or chosen.dtype == torch.bool or not chosen.numel() or chosen.ndim > 2:
        raise ValueError(
            f"{factors!r} is not a choice of factors; pass one number, several for all images, or [B, k] of them."
        )
    if chosen.ndim == 2 and len(chosen) != batch_size:
        raise ValueError(f"factors have shape {list(chosen.shape)}; {batch_size} images need [{batch_size}, k].")
    outside = chosen[(chosen < 0) | (chosen >= K)]
    if len(outside):
        raise ValueError(f"Factor {outside[0]} is out of range; this decision layer has {K} factors, 0 to {K - 1}.")
    chosen = chosen.long()
    return chosen.reshape(1, -1).expand(batch_size, -1) if chosen.ndim < 2 else chosen


def largest_parts(scores: Posterior, layer: PosteriorHead, target: Tensor | int | None, top_k: int | None) -> Evidence:
    """The `top_k` largest parts of each image's logit of `target` (None: its top class); checks both."""
    with torch.autocast(device_type=layer.raw_loadings.device.type, enabled=False):
        return explain_logit(LogitPosterior(scores, layer.loading_posterior(), layer.bias), target, top_k)
