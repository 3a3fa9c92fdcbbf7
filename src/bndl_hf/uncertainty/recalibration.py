"""Recalibration on held-out images: one or two numbers that make the probabilities say what they mean.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) of a predictive that also knows its variance: the logits l get
the mean E[l] / T and the variance v Var[l] / T^2 (`bndl_hf.model.mean_field`). The temperature softens every image
alike, the variance scale softens those more whose logits are uncertain. Read conformal.py for sets, abstention.py for
silence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import BNDLPrediction

from .scoring import log_loss_per_image
from .validation import as_float64, check_finite, check_probs

logger = logging.getLogger(__name__)

# Where the search stays: beyond it nothing changes, and a perfect held-out set, whose likelihood rises for ever as T
# falls, gets a defined answer.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_VARIANCE_SCALE = 100.0
# Numbers held at once in float64 by one step of the search: 32 MB for each of a handful of arrays.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class FittedTemperature:
    """What `fit_temperature` found and what it bought; `model.set_temperature` takes it as it is.

    Attributes:
        temperature: T, in [0.05, 20]; above 1 the model was too sure of itself.
        variance_scale: v, in [0, 100]; 0 leaves the softmax of the mean logits, divided by T.
        negative_log_likelihood_before: of the images, with the probabilities as they came, nats per image.
        negative_log_likelihood_after: the same with T and v, of smoothed labels where they were.
        num_images: how many images it was fitted on.
    """

    temperature: float
    variance_scale: float
    negative_log_likelihood_before: float
    negative_log_likelihood_after: float
    num_images: int


def fit_temperature(
    prediction: BNDLPrediction, labels: Tensor, *, variance_scale: float | None = 1.0, label_smoothing: float = 0.0
) -> FittedTemperature:
    """Temperature, and a variance scale where asked for, of least negative log-likelihood on held-out images.

    Values are absolute: they do not depend on a temperature the model has already. Exact predictions are fitted with
    the exact (mean-field) predictive, Monte-Carlo ones with the mean over their draws; use the one you predict with.
    Do not fit on training images: the model is more certain of them than of new ones.

    Args:
        prediction: of held-out images: what `predict` returned, or `collect_predictions` for a whole dataset.
        labels: true classes [N].
        variance_scale: v is held at this; None fits it too. A head without variance (dense, NMF) has none to fit: v
            stays 1. Where the variance hardly differs between images T and v do the same, and only both together mean
            anything.
        label_smoothing: share of each target, in [0, 1), spread evenly over the classes; `smoothing_of_few` keeps a few
            images that are all right from asking for T = 0.

    Returns:
        FittedTemperature. Where the predictions are constant every value is as good, and it is 1; where every image is
        right with room to spare, and labels are not smoothed, T is at its lower bound, 0.05, and a warning says so.

    Raises:
        TypeError: `prediction` is not a `BNDLPrediction`: probabilities alone do not tell the variance of the logits.
        ValueError: labels of another length or out of range; logits not finite; variance_scale or label_smoothing out
            of range.

    Example:
        >>> from bndl_hf import BNDLConfig
        >>> from bndl_hf.model.decision_layer import BNDLDecisionLayer
        >>> layer = BNDLDecisionLayer(BNDLConfig(feature_dim=8, num_labels=3))
        >>> features, labels = torch.rand(60, 8), torch.arange(60) % 3
        >>> fitted = fit_temperature(layer.predict(features), labels)
        >>> fitted.negative_log_likelihood_after <= fitted.negative_log_likelihood_before, fitted.num_images
        (True, 60)
        >>> layer.set_temperature(fitted)
    """
    if not isinstance(prediction, BNDLPrediction):
        raise TypeError(
            f"prediction is a {type(prediction).__name__}; a temperature is fitted on a BNDLPrediction. Pass "
            "model.predict(pixel_values), or prediction, labels = collect_predictions(model, held_out)."
        )
    if variance_scale is not None and not 0 <= variance_scale <= MAX_VARIANCE_SCALE:
        raise ValueError(f"variance_scale={variance_scale} is not in [0, {MAX_VARIANCE_SCALE:g}]; None fits it.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1).")
    probs, truth = check_probs(prediction.probs, labels)
    check_finite(prediction.logits_mean, "logits_mean", "Find the image that made them.")
    check_finite(prediction.gap_variance, "gap_variance", "Find the image that made them.")
    if variance_scale is None and not prediction.gap_variance.any():
        variance_scale = 1.0
    objective = _negative_log_likelihood(prediction, truth, label_smoothing)
    temperature, variance_scale = _minimise(objective, variance_scale)
    if temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE) and not label_smoothing:
        logger.warning(
            "The fitted temperature, %g, is the end of the range searched. Either the %d images do not determine it "
            "(all are right, say), or the variance is of the wrong size: pass more held-out images, or "
            "variance_scale=None.",
            temperature,
            len(truth),
        )
    before = log_loss_per_image(probs, truth).mean().item()
    after, _ = objective(np.array([math.log(temperature), math.sqrt(variance_scale)]))
    return FittedTemperature(temperature, variance_scale, before, after, len(truth))


def smoothing_of_few(num_images: int) -> float:
    """The label smoothing that adds half an image of unknown class: a few that are all right do not ask for T = 0.

    Half an image is what Krichevsky and Trofimov (1981) add of each outcome; a whole one made layers on a few hundred
    images, nearly all of them right, less sure than they were right.

    Example:
        >>> round(smoothing_of_few(199), 6)
        0.002506
    """
    return 0.5 / (num_images + 0.5)


# A point of the search, (log T, sqrt v), to the negative log-likelihood and its gradient.
_Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _negative_log_likelihood(prediction: BNDLPrediction, labels: Tensor, smoothing: float = 0.0) -> _Objective:
    B, C = prediction.logits_mean.shape
    draws = prediction.logits_samples
    rows = max(1, _CHUNK // (C * (1 if draws is None else len(draws))))

    def log_probs(part: slice, temperature: Tensor, scale: Tensor) -> Tensor:
        # Not quite zero: the square root of v has an infinite gradient there, where that of the likelihood vanishes.
        recalibration = Recalibration(temperature, scale.square().clamp_min(1e-30))
        if draws is not None:
            recalibrated = recalibration.samples(as_float64(draws[:, part]))
            return recalibrated.log_softmax(-1).logsumexp(0) - math.log(len(draws))
        mean = as_float64(prediction.logits_mean[part])
        return recalibration.log_probs(mean - mean.amax(-1, keepdim=True), as_float64(prediction.gap_variance[part]))

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(point, dtype=torch.float64, device=labels.device, requires_grad=True)
        total = 0.0
        for start in range(0, B, rows):
            part = slice(start, start + rows)
            every = log_probs(part, x[0].exp(), x[1])
            chosen = every.gather(1, labels[part, None])
            loss = -((1 - smoothing) * chosen.sum() + smoothing * every.sum() / C) / B
            loss.backward()
            total += loss.item()
        assert x.grad is not None
        return total, x.grad.cpu().numpy()

    return objective


def _minimise(objective: _Objective, variance_scale: float | None) -> tuple[float, float]:
    """T and v: the best point of a coarse grid, then a quasi-Newton descent that stays within the bounds."""
    temperatures = np.linspace(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE), 9)  # 1 is the middle one
    # sqrt v: at v = 0 the gradient with respect to it vanishes, so that end has a start of its own; 1 wins a tie.
    scales = [1.0, 0.0, 3.0] if variance_scale is None else [math.sqrt(variance_scale)]
    lowest, highest = min(scales), math.sqrt(MAX_VARIANCE_SCALE) if variance_scale is None else max(scales)
    bounds = [(temperatures[0], temperatures[-1]), (lowest, highest)]
    best = (math.inf, 0.0, 1.0)  # negative log-likelihood, log T, sqrt v
    for scale in scales:
        values = [objective(np.array([t, scale]))[0] for t in temperatures]
        flat = max(values) - min(values) < 1e-12
        start = np.array([0.0 if flat else temperatures[int(np.argmin(values))], scale])
        found = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options=_PRECISE)
        if found.fun < best[0] - 1e-12:
            best = (float(found.fun), float(found.x[0]), float(found.x[1]))
    temperature = min(max(math.exp(best[1]), MIN_TEMPERATURE), MAX_TEMPERATURE)
    for end in (MIN_TEMPERATURE, MAX_TEMPERATURE):  # exp(log(end)) may be off by a rounding
        temperature = end if math.isclose(temperature, end) else temperature
    return temperature, best[2] ** 2 if variance_scale is None else variance_scale


_PRECISE = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 200}
