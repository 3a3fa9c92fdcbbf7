"""The convex candidate: the exact non-negative equivalent of L2 logistic regression, with a Laplace posterior.

Its optimum is unique and found in seconds (logistic_regression.py). What is left to choose is how features are scaled
before the penalty sees them, how strong it is, and how wide the posterior of the loadings is. Read tuning.py first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer, PerFactorAffine
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.posterior_head import PosteriorHead, signed_power
from bndl_hf.model.warm_start import start_from_dense
from bndl_hf.training.candidates import Candidate, Judged, judge
from bndl_hf.training.logistic_regression import (
    MAX_ROWS_TO_COMPARE,
    STRENGTHS,
    LogisticRegression,
    Split,
    choose_strength,
    fit_logistic_regression,
)

# (power of the features, power of their spread that they are then divided by), the usual best first: another one is
# taken where it is better on the held-out rows by more than a standard error, of the difference row by row.
TRANSFORMS = ((0.7, 0.0), (0.5, 0.0), (1.0, 0.5), (0.7, -1.0))
# Of the others, strengths this many steps around the best one of the first.
_STEPS_AROUND = 2
# What the variance of the Laplace posterior is multiplied by; 0 is a point.
VARIANCE_SCALES = (0.0, 0.003, 0.01, 0.03, 0.1)
# The one tried beside a point where the held-out rows give the scale of all variances anyway.
_SMALL_VARIANCE = 0.01
_BISECTIONS = 40


def why_not_convex(config: BNDLConfig, keep: Sequence[str]) -> str:
    """What the equivalent of a logistic regression cannot have of this configuration; "" where it can have all."""
    assert config.feature_dim is not None
    plain = BNDLConfig(feature_dim=config.feature_dim, num_labels=config.num_labels)
    fields = [
        *("num_factors", "num_projected", "projection", "score_threshold", "loading_threshold", "bias"),
        *("score_concentration", "score_concentration_input", "loading_concentration"),
        *("objective", "feature_noise", "kl_global_weight"),  # of training
    ]
    if config.preset != plain.preset:
        return f"preset={config.preset!r}"
    departs = [name for name in ("kl_local_weight",) if name in keep]  # else measured, and not the preset's
    departs += [name for name in fields if name in keep or getattr(config, name) != getattr(plain, name)]
    if config.loading_density < 1 and ("loading_density" in keep or config.loading_density != plain.loading_density):
        departs.append("loading_density")
    return " and ".join(f"{name}={getattr(config, name)!r}" for name in departs)


def convex_candidate(splits: Sequence[Split], config: BNDLConfig, keep: Sequence[str] = ()) -> Candidate:
    """The best of the equivalents of logistic regression by held-out likelihood.

    Args:
        splits: rows to fit on and rows to choose on.
        config: of the layer wanted; `why_not_convex` says whether it allows any.
        keep: fields of `config` that stay as they are.
    """
    C, D = config.num_labels, splits[0].features.shape[1]
    few = list(splits)
    if len(splits[0].labels) > MAX_ROWS_TO_COMPARE:
        s, n = splits[0], MAX_ROWS_TO_COMPARE
        few = [replace(s, features=s.features[:n], labels=s.labels[:n])]
    transforms: Sequence[tuple[float, float]] = TRANSFORMS
    if config.feature_power != 1 or "feature_power" in keep:
        transforms = ((config.feature_power, 0.0), (config.feature_power, 1.0))
    labels = torch.cat([split.held_labels for split in few])
    multiples: dict[tuple[float, float], float] = {}
    losses: dict[tuple[float, float], Tensor] = {}  # of every held-out row
    strengths: Sequence[float] = STRENGTHS
    for power, spread_power in transforms:
        multiple, _, logits = choose_strength(_powered(few, power), C, spread_power, strengths)
        multiples[power, spread_power] = multiple
        losses[power, spread_power] = F.cross_entropy(logits.double(), labels, reduction="none")
        if strengths is STRENGTHS:
            strengths = _around(multiple)
    gains = {one: losses[transforms[0]] - loss for one, loss in losses.items()}
    clear = [one for one, gain in gains.items() if gain.mean() > gain.std() / len(labels) ** 0.5]
    power, spread_power = max(clear, key=lambda one: gains[one].mean().item(), default=transforms[0])
    multiple = multiples[power, spread_power]
    if len(few[0].labels) < len(splits[0].labels):  # more rows want a weaker penalty, if another
        multiple = choose_strength(_powered(splits, power), C, spread_power, _around(multiple))[0]

    def regression(features: Tensor, labels: Tensor) -> LogisticRegression:
        return fit_logistic_regression(features.float(), labels.long(), C, multiple * D, spread_power, None, power)

    # A diagonal posterior takes what the features share for uncertainty of each of them, so its size is measured, as
    # the variance scale that goes with the temperature. It has to pay for itself (Akaike 1974): a nat over all rows.
    fitted = {id(split.features): regression(split.features, split.labels) for split in splits}
    tried: dict[float, Judged] = {}
    for scale in (0.0, _SMALL_VARIANCE):

        def fit_known(x: Tensor, _: Tensor, scale: float = scale) -> PosteriorHead:
            return layer_from_regression(config, fitted[id(x)], x, scale)

        tried[scale] = judge(splits, fit_known)
    scale = min(tried, key=lambda scale: tried[scale].loss * tried[scale].num_images + (scale > 0))
    return Candidate(
        "logistic regression",
        lambda x, y: layer_from_regression(config, regression(x, y), x.float(), scale),
        tried[scale],
        f"prior precision {multiple:.3g} D, features^{power:g} over spread^{spread_power:g}, loadings "
        + ("with a Laplace posterior" if scale else "as good as certain"),
    )


def _around(multiple: float) -> Sequence[float]:
    place = STRENGTHS.index(multiple)
    return STRENGTHS[max(place - _STEPS_AROUND, 0) : place + _STEPS_AROUND + 1]


def _powered(splits: Sequence[Split], power: float) -> list[Split]:
    return [
        replace(s, features=signed_power(s.features, power), held_features=signed_power(s.held_features, power))
        for s in splits
    ]


@torch.no_grad()
def layer_from_regression(
    config: BNDLConfig, regression: LogisticRegression, features: Tensor, variance_scale: float = 1.0
) -> BNDLDecisionLayer:
    """The exact non-negative equivalent of a regression, its loadings with the spread of a diagonal Laplace posterior.

    The posterior variance of a loading is the inverse curvature of the loss at the optimum, 1 / (precision + sum_n
    theta_nk^2 p_nc (1 - p_nc)) (MacKay 1992; Daxberger et al. 2021, arXiv:2106.14806), turned into the concentration of
    the Weibull that has it; a loading of exactly zero has none. Scores are as good as certain.

    Args:
        config: of the layer wanted; the copy the layer keeps has as many factors as features and no projection, twice
            as many factors where features take both signs; and the regression's power of the features.
        regression: fitted on `features`.
        features: [N, D], float32, those it was fitted on.
        variance_scale: >= 0, what the posterior variance is multiplied by; 0 leaves loadings as good as certain.

    Returns:
        A layer in evaluation mode whose mean logits differ from the regression's by a constant an image.
    """
    D, signed = features.shape[1], bool((features < 0).any())
    config = copy.deepcopy(config)
    config.num_factors, config.projection = (2 * D, "linear") if signed else (D, "none")
    config.num_training_images, config.loading_density = len(features), 1.0
    config.feature_power = regression.feature_power
    layer = BNDLDecisionLayer(config)
    start_from_dense(layer, regression.weight.T, regression.bias, signed)
    lowest, highest = config.min_concentration, config.max_concentration
    constant = raw_concentration(torch.tensor(highest), lowest)
    assert isinstance(layer.score_concentration, PerFactorAffine)
    nn.init.zeros_(layer.score_concentration.weight)
    nn.init.constant_(layer.score_concentration.bias, constant.item())
    scores = layer.score_posterior(features).mean  # [N, K]
    probs = regression.logits(features).softmax(-1)  # [N, C]
    curvature = scores.square().T @ (probs * (1 - probs))  # [K, C]
    precision = regression.precision / regression.scale.square()
    precision = torch.cat([precision, precision]) if signed else precision
    variance = variance_scale / (precision[:, None] + curvature)
    ratio = variance / layer.raw_loadings.square()  # infinite where the loading is zero, and its variance zero
    k = torch.where(layer.raw_loadings > 0, concentration_of(ratio, lowest, highest), highest)
    assert isinstance(layer.loading_concentration, nn.Parameter)
    layer.loading_concentration.copy_(raw_concentration(k, lowest))
    return layer.eval()


def concentration_of(relative: Tensor, lowest: float, highest: float) -> Tensor:
    """The Weibull concentration k in [lowest, highest] whose variance over squared mean is `relative`, by bisection."""
    low, high = relative.new_full(relative.shape, lowest).log(), relative.new_full(relative.shape, highest).log()
    for _ in range(_BISECTIONS):  # the relative variance falls as k grows
        middle = (low + high) / 2
        is_above = relative_variance(middle.exp()) > relative
        low, high = torch.where(is_above, middle, low), torch.where(is_above, high, middle)
    return ((low + high) / 2).exp()


def raw_concentration(k: Tensor, floor: float) -> Tensor:
    """x with softplus(x) + floor = k."""
    above = (k - floor).clamp_min(1e-6)
    return above + torch.log(-torch.expm1(-above))
