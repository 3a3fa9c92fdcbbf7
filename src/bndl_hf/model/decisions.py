"""From probabilities to decisions: what was fitted on held-out images, kept in the configuration, applied by `predict`.

Four fields of the configuration: `temperature` and `variance_scale` (mean_field.py), `abstain_below`, the largest
probability below which the model declines to answer, and `conformal`, the prediction sets (prediction_sets.py). The
last two were fitted on probabilities, so a change of the first two drops them. bndl_hf.uncertainty fits all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import logging

from .prediction_sets import ConformalPredictor, in_float64
from .predictive import BNDLPrediction

logger = logging.get_logger(__name__)


def decide(prediction: BNDLPrediction, config: PretrainedConfig, abstain_below: float | None) -> BNDLPrediction:
    """`prediction` with `is_answered` and `prediction_sets` as the configuration, or `abstain_below`, says."""
    threshold = config.abstain_below if abstain_below is None else abstain_below
    check_abstain_below(threshold)
    decided: dict[str, Any] = {}
    if threshold is not None:
        # float64: the threshold may lie between two neighbouring float32 numbers.
        confidence = in_float64(prediction.probs).amax(dim=-1)
        decided["is_answered"] = (confidence >= threshold).to(prediction.probs.device)
    if config.conformal is not None:
        decided["prediction_sets"] = ConformalPredictor.from_dict(config.conformal).predict_sets(prediction.probs)
    return dataclasses.replace(prediction, **decided)


class Decisions:
    """The setters, for a decision layer and for a model that has one."""

    config: PretrainedConfig

    def set_temperature(self, temperature: Any, variance_scale: float | None = None) -> None:
        """Recalibrate: `predict` and the evaluation loss use T and v from now on; saved with the model.

        The training objective does not change. Stored prediction sets and abstention thresholds were fitted on other
        probabilities: they are dropped, with a warning.

        Args:
            temperature: what `bndl_hf.uncertainty.fit_temperature` returned, or a number T > 0; 1 changes nothing.
            variance_scale: v >= 0 beside a number T; None is 1, which changes nothing.

        Raises:
            ValueError: for values out of range.

        Example:
            >>> model.set_temperature(fit_temperature(prediction, labels))
        """
        if variance_scale is None:
            variance_scale = getattr(temperature, "variance_scale", 1.0)
        temperature = getattr(temperature, "temperature", temperature)
        check_recalibration(temperature, variance_scale)
        for config in self._configurations():
            values = (float(temperature), float(variance_scale))
            if values != (config.temperature, config.variance_scale):
                if config.abstain_below is not None or config.conformal is not None:
                    logger.warning(
                        "The stored abstention threshold and prediction sets were fitted on probabilities of another "
                        "temperature and are dropped; fit them again."
                    )
                config.abstain_below = config.conformal = None
            config.temperature, config.variance_scale = values

    def set_abstention(self, threshold: Any) -> None:
        """Decline to answer below this largest probability; saved with the model.

        Args:
            threshold: what `bndl_hf.uncertainty.fit_abstention` returned for the largest probability, a number in
                [0, 1], or None to answer always.

        Raises:
            ValueError: for a threshold that is no probability.
        """
        threshold = getattr(threshold, "threshold", threshold)
        threshold = 0.0 if threshold == -math.inf else threshold  # a fit that answers every image
        check_abstain_below(threshold)
        for config in self._configurations():
            config.abstain_below = threshold

    def set_conformal(self, predictor: ConformalPredictor | Mapping[str, Any] | None) -> None:
        """Answer with prediction sets too (`BNDLPrediction.prediction_sets`); saved with the model.

        Args:
            predictor: what `bndl_hf.uncertainty.fit_conformal` returned, its `to_dict()`, or None to stop.

        Raises:
            ValueError: it is randomised (a model answers the same image the same way twice), or was fitted on another
                number of classes.
        """
        values = predictor.to_dict() if isinstance(predictor, ConformalPredictor) else predictor
        for config in self._configurations():
            check_conformal(values, config.num_labels)
            config.conformal = None if values is None else dict(values)

    def _configurations(self) -> Iterator[Any]:
        """The configuration, and the decision layer's where that is another object."""
        layer = getattr(self, "decision_layer", self)
        yield from {id(config): config for config in (self.config, layer.config)}.values()


def check_decisions(config: Any) -> None:
    """ValueError unless the four fields of `config` fit together and with its number of classes."""
    check_recalibration(config.temperature, config.variance_scale)
    check_abstain_below(config.abstain_below)
    check_conformal(config.conformal, config.num_labels)


def check_recalibration(temperature: Any, variance_scale: Any) -> None:
    """ValueError unless 0 < T and 0 <= v, both finite numbers."""
    if not (_is_number(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature!r} must be a finite number above zero; 1 changes nothing.")
    if not (_is_number(variance_scale) and variance_scale >= 0):
        raise ValueError(
            f"variance_scale={variance_scale!r} must be a finite number, zero or above; 1 changes nothing."
        )


def check_abstain_below(threshold: Any) -> None:
    """ValueError unless the threshold is None or a probability."""
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(
            f"abstain_below={threshold!r} must lie in [0, 1]: it is compared with the largest probability. Apply a "
            "threshold on another confidence yourself, or pass None to answer always."
        )


def check_conformal(values: Mapping[str, Any] | None, num_labels: int) -> None:
    """ValueError unless `values` is None or describes prediction sets a model of `num_labels` classes can store."""
    if values is None:
        return
    predictor = ConformalPredictor.from_dict(values)
    if predictor.num_classes != num_labels:
        raise ValueError(
            f"The prediction sets were fitted on {predictor.num_classes} classes; this model has {num_labels}. Fit "
            "them on its own probabilities."
        )
    if predictor.randomized:
        raise ValueError(
            "Randomised prediction sets are not stored: a model answers the same image the same way twice. Fit them "
            "with randomized=False, or call predictor.predict_sets(probs, generator) yourself."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["Decisions", "check_decisions", "decide"]
