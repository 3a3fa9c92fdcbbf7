"""A decision layer whose strength comes from the data: candidates, judged on held-out rows, and the best one kept.

Few photographs want a strong prior, many a free projection, and no one setting serves both (docs/defaults.md). So two
layers are compared: the one that training makes, and the exact non-negative equivalent of L2 logistic regression, the
convex rival, with a Laplace posterior of its loadings. Whatever is kept is therefore never worse than that rival on the
held-out rows. Read logistic_regression.py for the convex part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import logging

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer, PerFactorAffine
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.warm_start import start_from_dense
from bndl_hf.training.feature_statistics import FeatureStatistics
from bndl_hf.training.logistic_regression import (
    MAX_ROWS_TO_COMPARE,
    SPREAD_POWERS,
    LogisticRegression,
    Split,
    choose_strength,
    fit_logistic_regression,
    folds,
)
from bndl_hf.training.tuning_report import TuningReport
from bndl_hf.uncertainty.collecting import collect_predictions, join_predictions
from bndl_hf.uncertainty.recalibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature

logger = logging.get_logger(__name__)

NUM_FOLDS = 5
# Above this many rows one fold held out says enough, and five fits take long.
MAX_ROWS_TO_CROSS_VALIDATE = 5000
# Classes of training images that lie further apart than this have been learned by heart (feature_statistics.py).
MEMORISED_SEPARATION = 1.0
# What the variance of the Laplace posterior is multiplied by; 0 is a point.
VARIANCE_SCALES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BISECTIONS = 40


@dataclass(frozen=True)
class Candidate:
    """A kind of decision layer and what held-out rows say of it.

    Attributes:
        name: "trained" or "logistic regression".
        fit: rows [N, D] and labels [N] to a layer.
        negative_log_likelihood: a held-out row, nats, with the temperature below.
        temperature: fitted on the held-out rows.
        settings: what was chosen inside it, in words.
    """

    name: str
    fit: Callable[[Tensor, Tensor], PosteriorHead]
    negative_log_likelihood: float
    temperature: float
    settings: str


def tune_decision_layer(
    features: Tensor,
    labels: Tensor,
    config: BNDLConfig,
    train: Callable[[Tensor, Tensor], PosteriorHead],
    held_out: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    report: TuningReport | None = None,
    then: Callable[[PosteriorHead, Candidate, Sequence[Split]], PosteriorHead] | None = None,
) -> PosteriorHead:
    """The best of the candidates by held-out likelihood, with a temperature from the same rows.

    Args:
        features: [N, D], float32; or [V, N, D], V views of each image (feature_views.py). Layers are fitted to all
            views of their images; an image is held out with all its views and judged on the first, the plain one.
        labels: [N], in 0 .. C - 1.
        config: of the layer wanted. Where it departs from the default preset in what the convex candidate is made of
            (projection, number of factors, thresholds, concentrations), that candidate is left out, and it is said.
        train: makes the trained candidate from features and labels; with views from V n rows, view by view.
        held_out: rows (features, labels) to choose on. None chooses by five-fold cross-validation, above 5,000 rows on
            a fifth of them, and fits again on all rows.
        seed: of the folds.
        keep: fields of `config` that stay as they are whatever is chosen, as if they departed from the preset.
        report: is told what is tried and chosen; it is logged all the same.
        then: makes the layer that is returned of the best one, its candidate and the splits (density.py does).

    Returns:
        A fitted layer. Its temperature is that of the held-out rows.

    Raises:
        ValueError: fewer rows than two of some class, without `held_out`.
    """
    views, labels = features.float(), labels.long()
    views = views if views.ndim == 3 else views[None]  # [V, N, D]
    x, y = views.flatten(0, 1), labels.repeat(len(views))
    report = TuningReport() if report is None else report
    if held_out is None and _is_memorised(views[0], labels, config.num_labels):
        report.is_memorised, report.chosen = True, "trained"
        report.note(
            "The classes of the training images lie so far apart that the backbone must have learned these images by "
            "heart: nothing can be tuned on them, and the default is used. Pass held-out images it has not seen as "
            "eval_features and eval_labels.",
            warns=True,
        )
        return train(x, y)
    splits = _splits(views, labels, held_out, seed)
    report.num_held_out = sum(len(split.held_labels) for split in splits)
    report.num_folds = 0 if held_out is not None else len(splits)
    candidates = []
    if reason := _not_convex(config, keep):
        report.note(f"Logistic regression is not tried, because its equivalent cannot have {reason}.")
    else:
        candidates.append(_convex(splits, config))
    if _is_worth_training(candidates, splits, train, report):
        candidates.append(_trained(splits, train))
    for candidate in candidates:
        shown = ("name", "negative_log_likelihood", "temperature", "settings")
        report.candidates.append({name: getattr(candidate, name) for name in shown})
        report.candidates[-1]["settings"] = candidate.settings.strip(" ()")
        logger.info(
            "%s: negative log-likelihood %.4f on held-out images with temperature %.2f%s",
            *(candidate.name, candidate.negative_log_likelihood, candidate.temperature, candidate.settings),
        )
    best = min(candidates, key=lambda candidate: candidate.negative_log_likelihood)
    logger.info("Chosen: %s", best.name)
    report.chosen, report.temperature = best.name, best.temperature
    if best.temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        report.note(
            f"Its temperature, {best.temperature:g}, is the end of the range searched: {report.num_held_out} held-out "
            "images do not determine it (all are right, say).",
            warns=True,
        )
    layer = best.fit(x, y)
    layer.config.num_training_images = len(labels)
    layer.set_temperature(best.temperature)
    return layer if then is None else then(layer, best, splits)


def _splits(views: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor] | None, seed: int) -> list[Split]:
    """Rows of all views [V, N, D] to fit on, plain ones to choose on: no image is on both sides."""
    V = len(views)
    if held_out is not None:
        return [Split(views.flatten(0, 1), y.repeat(V), held_out[0].float(), held_out[1].long())]
    if (rarest := y.bincount()[y.unique()].min().item()) < 2:
        raise ValueError(
            f"A class has {rarest} image, so none can be held out to tune on; pass two or more images of every class, "
            "eval_features and eval_labels, or tune=False."
        )
    every = folds(torch.arange(len(y)), y, NUM_FOLDS, seed)  # of images
    every = every if len(y) <= MAX_ROWS_TO_CROSS_VALIDATE else every[:1]
    return [
        Split(views[:, s.features].flatten(0, 1), s.labels.repeat(V), views[0, s.held_features], s.held_labels)
        for s in every
    ]


def _is_memorised(x: Tensor, y: Tensor, num_labels: int) -> bool:
    separation = FeatureStatistics(x, y, num_labels).class_separation
    return separation is not None and separation > MEMORISED_SEPARATION


def _trained(splits: Sequence[Split], train: Callable[[Tensor, Tensor], PosteriorHead]) -> Candidate:
    fitted = fit_temperature(*_held_out_predictions(splits, train), warn=False)
    return Candidate("trained", train, fitted.negative_log_likelihood_after, fitted.temperature, "")


def _is_worth_training(
    candidates: Sequence[Candidate],
    splits: Sequence[Split],
    train: Callable[[Tensor, Tensor], PosteriorHead],
    report: TuningReport,
) -> bool:
    """Successive halving: trained layers meet all folds only where they win on the first one."""
    if not candidates or len(splits) == 1:
        return True
    rival, trained = (
        fit_temperature(*_held_out_predictions(splits[:1], fit), warn=False).negative_log_likelihood_after
        for fit in (candidates[0].fit, train)
    )
    if trained >= rival:
        report.note(
            f"trained: negative log-likelihood {trained:.4f} on the first of {len(splits)} folds, {candidates[0].name} "
            f"{rival:.4f}; it is left out."
        )
    return trained < rival


def _held_out_predictions(
    splits: Sequence[Split], fit: Callable[[Tensor, Tensor], PosteriorHead]
) -> tuple[BNDLPrediction, Tensor]:
    """Predictions for the held-out rows of every split by the layer of its other rows, and the labels."""
    found = [
        collect_predictions(fit(s.features, s.labels), s.held_features, s.held_labels, progress=False) for s in splits
    ]
    return join_predictions([prediction for prediction, _ in found]), torch.cat([labels for _, labels in found])


# ---- the convex candidate ----


def _not_convex(config: BNDLConfig, keep: Sequence[str]) -> str:
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


def _convex(splits: Sequence[Split], config: BNDLConfig) -> Candidate:
    C, D = config.num_labels, splits[0].features.shape[1]
    few = splits
    if len(splits[0].labels) > MAX_ROWS_TO_COMPARE:
        s, n = splits[0], MAX_ROWS_TO_COMPARE
        few = [Split(s.features[:n], s.labels[:n], s.held_features, s.held_labels)]
    found = {power: choose_strength(few, C, power) for power in SPREAD_POWERS}
    power = min(found, key=lambda power: found[power][1])
    multiple = found[power][0] if few is splits else choose_strength(splits, C, power)[0]

    def regression(features: Tensor, labels: Tensor) -> LogisticRegression:
        return fit_logistic_regression(features.float(), labels.long(), C, multiple * D, power)

    # A diagonal posterior takes what the features share for uncertainty of each of them, so its size is measured. It is
    # one more number than a temperature, and has to pay for itself (Akaike 1974): one nat over all held-out rows.
    fitted = {id(split.features): regression(split.features, split.labels) for split in splits}
    tried = {}
    for scale in VARIANCE_SCALES:

        def fit_known(x: Tensor, _: Tensor, scale: float = scale) -> PosteriorHead:
            return layer_from_regression(config, fitted[id(x)], x, scale)

        tried[scale] = fit_temperature(*_held_out_predictions(splits, fit_known), warn=False)
    scale = min(
        tried, key=lambda scale: tried[scale].negative_log_likelihood_after * tried[scale].num_images + (scale > 0)
    )
    settings = (
        f" (prior precision {multiple:.3g} D, features over spread^{power:g}, variance of loadings times {scale:g})"
    )
    return Candidate(
        "logistic regression",
        lambda x, y: layer_from_regression(config, regression(x, y), x.float(), scale),
        tried[scale].negative_log_likelihood_after,
        tried[scale].temperature,
        settings,
    )


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
            as many factors where features take both signs.
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
