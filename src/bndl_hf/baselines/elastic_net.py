"""The sparse linear head of Debuggable Networks: an elastic-net path, what the paper's sparsity is compared with.

The objective is glm_saga's (Wong et al. 2021, arXiv:2105.04857), cross-entropy + strength (l1_ratio |W|_1 +
(1 - l1_ratio)/2 |W|_2^2) on standardised features; proximal.py solves it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers.utils import logging

from bndl_hf.baselines.heads import HEADS
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.baselines.proximal import fit_elastic_net
from bndl_hf.model.configuration_bndl import BNDLConfig

CITATION = """@inproceedings{wong2021leveraging,
  title     = {Leveraging Sparse Linear Layers for Debuggable Deep Networks},
  author    = {Wong, Eric and Santurkar, Shibani and Madry, Aleksander},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021},
  url       = {https://arxiv.org/abs/2105.04857}
}"""

logger = logging.get_logger(__name__)

# From nothing but the bias to half of the weights on CIFAR-10 features.
STRENGTHS = (0.3, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0001, 0.00003, 0.00001)
# `elastic_net_at` ends where the density is this close to the one asked for, relatively, or after so many halvings.
_CLOSE, _MAX_HALVINGS = 0.03, 8


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
    path = _Path(features, labels, l1_ratio, max_iterations, tolerance)
    found = path.start
    for strength in strengths:
        found = path.fit(strength, found)
        yield strength, path.layer(*found)


def elastic_net_at(
    features: Tensor,
    labels: Tensor,
    density: float,
    l1_ratio: float = 0.99,
    max_iterations: int = 1000,
    tolerance: float = 0.02,
) -> DenseDecisionLayer:
    """The head of the path whose share of weights is nearest to `density`: a point of the curves of Wong et al. (2021).

    The strength is sought between two of `STRENGTHS` by halving the step between their logarithms.

    Args:
        features: h = f(x), [N, D].
        labels: [N], in 0 .. C - 1.
        density: share of weights that are not zero, a fraction in (0, 1).
        l1_ratio, max_iterations, tolerance: of `elastic_net_path`.

    Returns:
        The head; where the whole path is sparser than `density`, its densest.

    Raises:
        ValueError: for a density outside (0, 1).
    """
    if not 0 < density < 1:
        raise ValueError(f"density={density} is a share of the weights; it must lie in (0, 1).")
    path = _Path(features, labels, l1_ratio, max_iterations, tolerance)
    found, high, low = path.start, math.inf, STRENGTHS[0]
    for strength in STRENGTHS:
        following = path.fit(strength, found)
        low = strength
        if path.layer(*following).sparsity() >= density:
            break
        found, high = following, strength
    sparser, denser = path.layer(*found), path.layer(*following)
    is_between = math.isfinite(high) and denser.sparsity() >= density
    for _ in range(_MAX_HALVINGS if is_between else 0):
        if min(_distance(sparser, density), _distance(denser, density)) <= _CLOSE:
            break
        middle = math.sqrt(high * low)
        following = path.fit(middle, found)  # from the nearest sparser one, as along the path
        layer = path.layer(*following)
        if layer.sparsity() < density:
            found, sparser, high = following, layer, middle
        else:
            denser, low = layer, middle
    return min((sparser, denser), key=lambda layer: _distance(layer, density))


def _distance(layer: DenseDecisionLayer, density: float) -> float:
    """Of the layer's density from the one asked for, relatively."""
    return abs(layer.sparsity() / density - 1)


class _Path:
    """Standardised rows and what is fitted to them; weights [D, C] and biases [C] are those of standardised features.

    Attributes:
        start: no weight, and the biases of the classes' shares.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, l1_ratio: float, max_iterations: int, tolerance: float
    ) -> None:
        C = int(labels.max()) + 1
        self._labels, self._l1_ratio = labels, l1_ratio
        self._max_iterations, self._tolerance = max_iterations, tolerance
        self._mean, self._std = features.double().mean(0), features.double().std(0).clamp_min(1e-8)
        self._x = ((features.double() - self._mean) / self._std).float()
        shares = labels.bincount(minlength=C).clamp_min(1).to(self._x)
        self.start = self._x.new_zeros(features.shape[1], C), shares.log().log_softmax(0)

    def fit(self, strength: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight and bias of this strength, sought from `start`."""
        weight, bias, has_converged = fit_elastic_net(
            self._x, self._labels, *start, strength, self._l1_ratio, self._max_iterations, self._tolerance
        )
        if not has_converged:
            logger.info("Strength %g has not converged in %d iterations.", strength, self._max_iterations)
        return weight, bias

    def layer(self, weight: Tensor, bias: Tensor) -> DenseDecisionLayer:
        """The head of these weights, of features as they come, in evaluation mode."""
        D, C = weight.shape
        layer = DenseDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, **HEADS["dense"].config))
        unscaled = weight.double() / self._std[:, None]  # [D, C]
        with torch.no_grad():
            layer.raw_loadings.copy_(unscaled)
            layer.bias.copy_(bias - self._mean @ unscaled)
        return layer.eval()
