"""How much of an explanation its first lines hold: the share of the largest parts in an answer and in a choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bndl_hf.interpretability.checks import check_matrix, check_non_negative, decision_layer_of
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD

_BATCH_SIZE = 1024  # rows at a time: bounds the memory, [rows, K] a handful of times


@dataclass(frozen=True)
class ExplanationLength:
    """How short the explanations of a layer are.

    Attributes:
        weights_per_class: loadings above 1e-5 of a class, the mean over classes.
        evidence_share: of what all factors together add to the top class's logit, the part that the `top_k` largest
            add; mean over images, a fraction in [0, 1].
        gap_share: the same of the gap between the two top classes, of absolute values: parts for and against count
            alike.
        top_k: how many parts.
        num_images: whose mean it is.
    """

    weights_per_class: float
    evidence_share: float
    gap_share: float
    top_k: int
    num_images: int


@torch.no_grad()
def explanation_length(model: nn.Module, features: Tensor, top_k: int = 5) -> ExplanationLength:
    """Shares of the largest parts in the evidence for the answer and in its gap to the runner-up.

    The bias is not part of it. An image without any evidence counts as a share of zero: nothing explains it.

    Args:
        model: a BNDL model or its decision layer.
        features: [B, D] what the layer reads: `model.extract_features(pixel_values)`.
        top_k: how many parts a person would read, 1 .. K.

    Raises:
        ValueError: no decision layer, or one with negative weights; features that do not fit it; top_k out of range.

    Example:
        >>> length = explanation_length(model, features)
    """
    layer = decision_layer_of(model)
    check_non_negative(layer.factor_loadings, "factor_loadings")  # shares of parts of either sign mean nothing
    check_matrix(features, "features", "B, D", len(layer.feature_scale))
    K = layer.raw_loadings.shape[0]
    if not 1 <= top_k <= K:
        raise ValueError(f"top_k={top_k} must lie between 1 and the number of factors, {K}.")
    evidence_share = gap_share = 0.0
    for rows in features.split(_BATCH_SIZE):
        evidence = layer.explain(rows, top_k=K, against="runner_up")  # every part, largest first
        assert evidence.contrast is not None
        evidence_share += evidence.share[:, :top_k].sum().item()
        sizes = evidence.contrast.contributions.abs()
        whole = sizes.sum(dim=-1).clamp_min(torch.finfo(sizes.dtype).tiny)
        gap_share += (sizes[:, :top_k].sum(dim=-1) / whole).sum().item()
    is_there = layer.factor_loadings > SPARSITY_THRESHOLD
    B = len(features)
    return ExplanationLength(
        is_there.sum(dim=0).double().mean().item(), evidence_share / B, gap_share / B, int(top_k), B
    )
