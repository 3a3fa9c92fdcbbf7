"""The sparse linear head of Debuggable Networks: an elastic-net path, what the paper's sparsity is compared with.

The objective is glm_saga's (Wong et al. 2021, arXiv:2105.04857), cross-entropy + strength (l1_ratio |W|_1 +
(1 - l1_ratio)/2 |W|_2^2) on standardised features; proximal.py solves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers.utils import logging

from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer
from bndl_hf.baselines.proximal import fit_elastic_net
from bndl_hf.model.configuration_bndl import BNDLConfig

logger = logging.get_logger(__name__)

# From nothing but the bias to half of the weights on CIFAR-10 features.
STRENGTHS = (0.3, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0001, 0.00003, 0.00001)


def elastic_net_path(
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    l1_ratio: float = 0.99,
    max_iterations: int = 1000,
    tolerance: float = 0.02,
) -> Iterator[tuple[float, DenseDecisionLayer]]:
    """Heads from the sparsest to the densest, each started from the one before.

    Args:
        features: h = f(x), [N, D].
        labels: [N], in 0 .. C - 1.
        strengths: lambda > 0, in falling order.
        l1_ratio: 0.99: glm_saga's value.
        max_iterations, tolerance: of `fit_elastic_net`, for each strength; where it has not converged, it is logged.

    Yields:
        (strength, a dense decision layer of these weights), ready to predict.
    """
    D, C = features.shape[1], int(labels.max()) + 1
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-8)
    x = ((features.double() - mean) / std).float()
    weight, bias = x.new_zeros(D, C), labels.bincount(minlength=C).clamp_min(1).to(x).log().log_softmax(0)
    for strength in strengths:
        weight, bias, has_converged = fit_elastic_net(
            x, labels, weight, bias, strength, l1_ratio, max_iterations, tolerance
        )
        if not has_converged:
            logger.info("Strength %g has not converged in %d iterations.", strength, max_iterations)
        layer = DenseDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, **HEADS["dense"].config))
        unscaled = weight.double() / std[:, None]  # [D, C], of features as they come
        with torch.no_grad():
            layer.raw_loadings.copy_(unscaled)
            layer.bias.copy_(bias - mean @ unscaled)
        yield strength, layer.eval()
