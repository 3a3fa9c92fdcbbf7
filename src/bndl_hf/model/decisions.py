"""From probabilities to decisions: what was fitted on held-out images, kept in the configuration, applied by `predict`.

Five fields of the configuration: `temperature` and `variance_scale` (mean_field.py), `abstain_below`, the largest
probability below which the model declines to answer, `conformal`, the prediction sets (prediction_sets.py), and
`verdict` (verdicts.py). The last three were fitted on probabilities, so a change of the first two drops them.
bndl_hf.uncertainty fits all of them. A prediction reads all five at once and a setter writes at once: no answer mixes
old values with new ones, whatever other threads do.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.utils import logging

from .configuration_checks import check_abstain_below, check_conformal, check_recalibration, check_verdict
from .mean_field import Recalibration
from .prediction_sets import ConformalPredictor, in_float64
from .predictive import BNDLPrediction
from .verdicts import SURE, VerdictRule

logger = logging.get_logger(__name__)

_ONE_AT_A_TIME = threading.Lock()
# Fields that mean nothing once the probabilities are others.
_OF_PROBABILITIES = ("abstain_below", "conformal", "verdict")


@dataclass(frozen=True)
class Decisions:
    """What a configuration says about decisions at one moment.

    Attributes:
        recalibration: T and v.
        abstain_below: largest probability from which on an image is answered; None answers all.
        conformal: the prediction sets as `ConformalPredictor.to_dict` writes them; None makes none.
        verdict: what is sure, torn and unfamiliar, as `VerdictRule.to_dict` writes it; None gives no verdict.
    """

    recalibration: Recalibration
    abstain_below: float | None
    conformal: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None

    @classmethod
    def of(cls, config: PretrainedConfig) -> Decisions:
        """The five fields of `config`, read together."""
        if torch.compiler.is_compiling():  # values become constants of the graph, and a lock has no place in one
            return cls._read(config)
        with _ONE_AT_A_TIME:
            return cls._read(config)

    @classmethod
    def _read(cls, config: PretrainedConfig) -> Decisions:
        recalibration = Recalibration(config.temperature, config.variance_scale)
        return cls(recalibration, config.abstain_below, config.conformal, config.verdict)

    def apply(self, prediction: BNDLPrediction, abstain_below: float | None = None) -> BNDLPrediction:
        """`prediction` with verdict, `is_answered` and `prediction_sets` filled in.

        A given `abstain_below` overrides the stored one; without either, what is answered is what the verdict calls
        sure.

        Raises:
            ValueError: abstain_below is outside [0, 1].
        """
        threshold = self.abstain_below if abstain_below is None else abstain_below
        check_abstain_below(threshold)
        decided: dict[str, Any] = {}
        if self.verdict is not None:
            rule = VerdictRule.from_dict(self.verdict)
            is_familiar = rule.is_familiar(prediction.fisher_statistic)
            verdict = rule.verdicts(prediction.probs, is_familiar)
            decided |= {"rule": rule, "is_familiar": is_familiar, "verdict": verdict, "is_answered": verdict == SURE}
        if threshold is not None:
            # float64: the threshold may lie between two neighbouring float32 numbers.
            confidence = in_float64(prediction.probs).amax(dim=-1)
            decided["is_answered"] = (confidence >= threshold).to(prediction.probs.device)
        if self.conformal is not None:
            decided["prediction_sets"] = ConformalPredictor.from_dict(self.conformal).predict_sets(prediction.probs)
        return dataclasses.replace(prediction, **decided)


def store_temperature(configs: Sequence[PretrainedConfig], temperature: Any, variance_scale: float | None) -> None:
    """`set_temperature`, on the configurations of a model and of its decision layer (one object, or two)."""
    if variance_scale is None:
        variance_scale = getattr(temperature, "variance_scale", 1.0)
    temperature = getattr(temperature, "temperature", temperature)
    check_recalibration(temperature, variance_scale)
    values = {"temperature": float(temperature), "variance_scale": float(variance_scale)}
    is_dropped = False
    with _ONE_AT_A_TIME:
        for config in configs:
            if any(getattr(config, name) != value for name, value in values.items()):
                is_dropped |= any(getattr(config, name) is not None for name in _OF_PROBABILITIES)
                _write(config, **values, **dict.fromkeys(_OF_PROBABILITIES))
    if is_dropped:
        logger.warning(
            "The stored verdict, abstention threshold and prediction sets were fitted on probabilities of another "
            "temperature and are dropped; fit them again."
        )


def store_abstention(configs: Sequence[PretrainedConfig], threshold: Any) -> None:
    """`set_abstention`, on the configurations of a model and of its decision layer."""
    threshold = getattr(threshold, "threshold", threshold)
    threshold = 0.0 if threshold == -math.inf else threshold  # a fit that answers every image
    check_abstain_below(threshold)
    with _ONE_AT_A_TIME:
        for config in configs:
            _write(config, abstain_below=threshold)


def store_conformal(
    configs: Sequence[PretrainedConfig], predictor: ConformalPredictor | Mapping[str, Any] | None
) -> None:
    """`set_conformal`, on the configurations of a model and of its decision layer."""
    values = predictor.to_dict() if isinstance(predictor, ConformalPredictor) else predictor
    for config in configs:
        check_conformal(values, config.num_labels or 0)
    with _ONE_AT_A_TIME:
        for config in configs:
            _write(config, conformal=None if values is None else dict(values))


def store_decisions(layer: Any, configs: Sequence[PretrainedConfig], decisions: Any) -> None:
    """`set_decisions`, on a decision layer and on the configurations of the model and of that layer.

    Everything is checked before anything is stored.
    """
    if decisions is None:
        with _ONE_AT_A_TIME:
            for config in configs:
                _write(config, verdict=None, conformal=None)
        return
    values: dict[str, Any] = {"abstain_below": None, "verdict": decisions.rule.to_dict()}
    values["conformal"] = None if decisions.conformal is None else decisions.conformal.to_dict()
    if (fitted := decisions.temperature) is not None:
        values |= {"temperature": fitted.temperature, "variance_scale": fitted.variance_scale}
        check_recalibration(fitted.temperature, fitted.variance_scale)
    check_verdict(values["verdict"])
    for config in configs:
        check_conformal(values["conformal"], config.num_labels or 0)
    if decisions.familiarity is not None:
        layer.set_familiarity(decisions.familiarity)
        values["familiarity_rank"] = decisions.familiarity.rank
    with _ONE_AT_A_TIME:
        for config in configs:
            _write(config, **values)


def _write(config: PretrainedConfig, **values: object) -> None:
    for name, value in values.items():
        setattr(config, name, value)


__all__ = ["Decisions", "store_abstention", "store_conformal", "store_decisions", "store_temperature"]
