"""`fit_posterior`: the posterior of a warm-started layer, from a few images: how far its loadings may be off.

A head that was trained on a million images is not moved by a few hundred more; what it lacks is a posterior. Two
numbers make one: a concentration shared by all loadings, so that the standard deviation of each is the same share of
its mean, and a temperature. Images of much evidence are then softened more than others, which no temperature does. On
the way the smallest loadings go to zero, as long as the likelihood does not notice. Read model/warm_start.py first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import logging

from bndl_hf.model.decision_layer import BNDLDecisionLayer, PerFactorAffine
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import predict_exactly
from bndl_hf.model.weibull import WeibullPosterior
from bndl_hf.training.convex_layer import concentration_of, raw_concentration
from bndl_hf.training.features import FeatureDataset
from bndl_hf.uncertainty.recalibration import fit_temperature

logger = logging.get_logger(__name__)

# Shares of the loadings that are tried, densest first.
DENSITIES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# A factor that hardly changes between the images says little about how much it matters elsewhere: its spread counts as
# this share of the mean spread at least, or all of its loadings would go first.
_SMALLEST_SPREAD = 0.1
# The variance of a loading with concentration 1 is its squared mean, so the variance scale that is fitted against it is
# the relative variance itself.
_UNIT_CONCENTRATION = 1.0
# The decision layer clamps concentrations here, where a configuration sets no higher floor.
_LOWEST_CONCENTRATION = 0.05


@dataclass(frozen=True)
class FittedPosterior:
    """What `fit_posterior` found and what it bought.

    Attributes:
        loading_concentration: k of every loading; the ceiling (`max_concentration`) where the images ask for no spread.
        temperature: T, stored in the layer.
        density: share of the loadings above zero now, in [0, 1].
        negative_log_likelihood_before: of the images, with the layer as it came, nats per image.
        negative_log_likelihood_after: of the same images now; two numbers were fitted on them.
        num_images: how many images it was fitted on.
        path: (share of the loadings, negative log-likelihood) of every density that was tried, densest first.
    """

    loading_concentration: float
    temperature: float
    density: float
    negative_log_likelihood_before: float
    negative_log_likelihood_after: float
    num_images: int
    path: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Step:
    """Loadings [K, C] and bias [C] of one density, with the relative variance and temperature that suit them."""

    loadings: Tensor
    bias: Tensor
    relative_variance: float
    temperature: float
    losses: Tensor  # [N], nats

    @property
    def density(self) -> float:
        return (self.loadings > 0).float().mean().item()


@torch.no_grad()
def fit_posterior(
    layer: BNDLDecisionLayer, features: Tensor, labels: Tensor, *, density: float | None = None
) -> FittedPosterior:
    """Give a decision layer the posterior and temperature that its head lacked, and the zeros that cost nothing.

    Means stay where they are, but for loadings that go to zero. Every loading gets the same Weibull concentration k,
    scores become as good as certain, and k and the temperature are those of least negative log-likelihood (the
    mean-field predictive). k has to pay for itself with one nat over all images (Akaike 1974), or loadings stay as good
    as certain. Posterior and temperature the layer had before are overwritten.

    Loadings are shrunk as in Eq. 11, E[Phi] = relu(W - c), with a threshold c per factor that is inversely
    proportional to the factor's spread over the images. What a loading that ends at zero would have given the mean
    image goes into the bias; what all others of the factor lose, they lose alike, and softmax does not see it.

    Args:
        layer: one that was warm-started, `model.decision_layer`; changed in place.
        features: h = f(x), [N, D]; images the head was not trained on, a few hundred do.
        labels: [N], in 0 .. C - 1.
        density: share of the loadings to keep at most, in (0, 1]. None keeps the fewest whose likelihood on these
            images lies within one standard error (of the paired difference) of the best.

    Returns:
        FittedPosterior. The layer, in the mode it came in, answers accordingly.

    Raises:
        TypeError: `layer` is another kind of head.
        ValueError: for features or labels that do not fit the layer, or a density out of range.

    Example:
        >>> from bndl_hf import BNDLConfig
        >>> from bndl_hf.model.warm_start import start_from_dense
        >>> features, labels = torch.rand(60, 8), torch.arange(60) % 3
        >>> layer = BNDLDecisionLayer(BNDLConfig(feature_dim=8, num_labels=3, num_factors=8))
        >>> start_from_dense(layer, torch.randn(3, 8), torch.zeros(3), signed=False)
        >>> fitted = fit_posterior(layer, features, labels, density=0.5)
        >>> fitted.density <= 0.5, layer.config.temperature == fitted.temperature
        (True, True)
    """
    if not isinstance(layer, BNDLDecisionLayer):
        raise TypeError(
            f"layer is a {type(layer).__name__}; fit_posterior needs a BNDLDecisionLayer, whose loadings have "
            "concentrations: pass model.decision_layer."
        )
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"density={density} is not in (0, 1]; None takes it from the data.")
    rows = FeatureDataset(features, labels)
    layer.check_inputs(rows.features, rows.labels)
    was_training, device = layer.training, layer.raw_loadings.device
    layer.eval()
    x, y = rows.features.to(device), rows.labels.to(device)
    before = layer(x, y).nll.item()
    scores = layer.scores(x).mean
    path: list[_Step] = []
    for share in DENSITIES if density is None else (density,):
        if path and share >= path[-1].density:
            continue  # some loadings are zero from the start
        path.append(_fit_step(layer, scores, y, share))
        logger.info("%.1f %% of the loadings: %.4f", 100 * path[-1].density, path[-1].losses.mean().item())
        if not _is_as_good(path[-1], path):
            break
    chosen = [step for step in path if _is_as_good(step, path)][-1]
    k = _store(layer, chosen)
    layer.train(was_training)
    return FittedPosterior(
        loading_concentration=k,
        temperature=chosen.temperature,
        density=chosen.density,
        negative_log_likelihood_before=before,
        negative_log_likelihood_after=chosen.losses.mean().item(),
        num_images=len(y),
        path=tuple((step.density, step.losses.mean().item()) for step in path),
    )


def _is_as_good(step: _Step, path: Sequence[_Step]) -> bool:
    """Whether its mean loss lies within one standard error of the best, by the differences of the same images."""
    best = min(path, key=lambda one: one.losses.mean().item())
    differences = step.losses - best.losses
    if len(differences) < 2:
        return bool(differences.mean() <= 0)
    return bool(differences.mean() <= differences.std() / math.sqrt(len(differences)))


def _fit_step(layer: BNDLDecisionLayer, scores: Tensor, labels: Tensor, density: float) -> _Step:
    """Relative variance and temperature of least negative log-likelihood, once the loadings are shrunk to a density.

    Args:
        layer: whose loadings they are; not changed.
        scores: E[theta], [N, K].
        labels: [N].
        density: share of the loadings to keep at most.
    """
    means = layer.factor_loadings
    threshold, loadings = _shrunk(means, scores, density)  # [K, 1], [K, C]
    bias = layer.bias
    if layer.raw_bias is not None:
        bias = bias - scores.mean(0) @ F.relu(threshold - means)
        if layer.config.bias == "non_negative":
            bias = bias - bias.min()
    certain = torch.full_like(scores, layer.config.max_concentration)
    random = LogitPosterior(
        WeibullPosterior(scores, certain),
        WeibullPosterior(loadings, torch.full_like(loadings, _UNIT_CONCENTRATION)),
        bias,
    )
    prediction = predict_exactly(random, layer.config.num_samples, layer.config.certainty_threshold, Recalibration())
    with torch.enable_grad():
        point = fit_temperature(prediction, labels, variance_scale=0.0)
        spread = fit_temperature(prediction, labels, variance_scale=None)
    gain = point.negative_log_likelihood_after - spread.negative_log_likelihood_after
    fitted = spread if gain * len(labels) > 1 else point
    recalibration = Recalibration(fitted.temperature, fitted.variance_scale)
    gaps = prediction.logits_mean - prediction.logits_mean.amax(-1, keepdim=True)
    log_probs = recalibration.log_probs(gaps.double(), prediction.gap_variance.double())
    losses = F.nll_loss(log_probs, labels, reduction="none")
    return _Step(loadings, bias, fitted.variance_scale, fitted.temperature, losses)


def _shrunk(means: Tensor, scores: Tensor, density: float) -> tuple[Tensor, Tensor]:
    """What loadings are lowered by, factor by factor, so that at most a share stays above zero; and what is left.

    The first, [K, 1], is the smallest multiple of 1 / spread that does it; the second is [K, C]. An entry clamped at t
    moves its logit by (t - mean) theta, so an equal threshold times spread is an equal change at most of how the logit
    differs between images.
    """
    spread = scores.std(0, correction=0)
    weight = spread.clamp_min(_SMALLEST_SPREAD * spread.mean().clamp_min(1e-12))[:, None]  # [K, 1]
    size = means * weight
    kept = round(density * means.numel())
    if (size > 0).sum() <= kept:
        return torch.zeros_like(weight), means
    limit = size.flatten().sort(descending=True).values[kept]  # the largest that has to go
    return limit / weight, torch.where(size > limit, F.relu(means - limit / weight), 0.0)


def _store(layer: BNDLDecisionLayer, step: _Step) -> float:
    """Write loadings, bias, concentrations and temperature; the concentration of the loadings."""
    config = layer.config
    is_zero = step.loadings <= 0
    layer.raw_loadings.copy_(step.loadings + config.loading_threshold)
    layer.zero_loadings(is_zero)
    if layer.raw_bias is not None:
        layer.raw_bias.copy_(step.bias + (0.0 if config.bias == "free" else config.loading_threshold))
    lowest, highest = config.min_concentration, config.max_concentration
    k = concentration_of(torch.tensor(step.relative_variance), max(lowest, _LOWEST_CONCENTRATION), highest)
    _set_constant(layer.loading_concentration, raw_concentration(k, lowest))
    _set_constant(layer.score_concentration, raw_concentration(torch.tensor(highest), lowest))
    layer.set_temperature(step.temperature, 1.0)
    return k.item()


def _set_constant(concentration: nn.Linear | nn.Parameter | PerFactorAffine, raw: Tensor) -> None:
    """The same concentration whatever the input."""
    if isinstance(concentration, nn.Parameter):
        nn.init.constant_(concentration, raw.item())
        return
    nn.init.zeros_(concentration.weight)
    nn.init.constant_(concentration.bias, raw.item())
