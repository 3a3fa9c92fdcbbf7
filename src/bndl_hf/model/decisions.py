"""From probabilities to decisions: what was fitted on held-out images, kept in the configuration, applied by `predict`.

Fields of the configuration: `temperature` and `variance_scale` (mean_field.py), `abstain_below`, the largest
probability below which the model declines to answer, `conformal`, the prediction sets (prediction_sets.py), and
`verdict`, when an answer is sure, torn or unfamiliar (verdicts.py). The last three were fitted on probabilities, so a
change of the first two drops them. bndl_hf.uncertainty fits all of them. A prediction reads them at once and a setter
writes at once: no answer mixes old values with new ones, whatever other threads do.

An `abstain_below` that somebody stored or passes decides alone what is answered; without one, and with a verdict, the
sure images are.
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
from .verdicts import VERDICTS, VerdictRules

logger = logging.get_logger(__name__)

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Decisions:
    """What a configuration says about decisions at one moment.

    Attributes:
        recalibration: T and v.
        abstain_below: largest probability from which on an image is answered; None answers all.
        conformal: the prediction sets as `ConformalPredictor.to_dict` writes them; None makes none.
        verdict: the rules as `VerdictRules.to_dict` writes them; None gives no verdict.
    """

    recalibration: Recalibration
    abstain_below: float | None
    conformal: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> Decisions:
        """Those fields of `config`, read together."""
        if torch.compiler.is_compiling():  # values become constants of the graph, and a lock has no place in one
            return cls._read(config)
        with _ONE_AT_A_TIME:
            return cls._read(config)

    @classmethod
    def _read(cls, config: PretrainedConfig) -> Decisions:
        recalibration = Recalibration(config.temperature, config.variance_scale)
        return cls(recalibration, config.abstain_below, config.conformal, config.verdict)

    def apply(self, prediction: BNDLPrediction, abstain_below: float | None = None) -> BNDLPrediction:
        """`prediction` with `is_answered`, `prediction_sets` and verdicts; `abstain_below` overrides the stored one.

        Raises:
            ValueError: abstain_below is outside [0, 1].
        """
        threshold = self.abstain_below if abstain_below is None else abstain_below
        check_abstain_below(threshold)
        decided: dict[str, Any] = {}
        if self.verdict is not None:
            rules = VerdictRules.from_dict(self.verdict)
            verdict, is_familiar = rules.judge(prediction.probs, prediction.fisher_statistic)
            decided.update(verdict=verdict, is_familiar=is_familiar, verdict_rules=self.verdict)
            decided["is_answered"] = verdict == VERDICTS.index("sure")
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
                is_dropped |= any(v is not None for v in (config.abstain_below, config.conformal, config.verdict))
                _write(config, **values, abstain_below=None, conformal=None, verdict=None)
    if is_dropped:
        logger.warning(
            "The stored abstention threshold, prediction sets and verdict were fitted on probabilities of another "
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


def store_decisions(configs: Sequence[PretrainedConfig], decisions: Any) -> None:
    """`set_decisions` but for the familiarity, on the configurations of a model and of its decision layer."""
    if decisions is None:
        with _ONE_AT_A_TIME:
            for config in configs:
                _write(config, verdict=None, conformal=None)
        return
    rules = decisions.rules.to_dict()
    sets = None if decisions.conformal is None else decisions.conformal.to_dict()
    check_verdict(rules)
    check_recalibration(decisions.temperature, decisions.variance_scale)
    recalibration = {"temperature": float(decisions.temperature), "variance_scale": float(decisions.variance_scale)}
    for config in configs:
        check_conformal(sets, config.num_labels or 0)
    with _ONE_AT_A_TIME:
        for config in configs:
            changes = any(getattr(config, name) != value for name, value in recalibration.items())
            kept = None if changes else config.abstain_below
            _write(config, **recalibration, abstain_below=kept, conformal=sets, verdict=rules)


def forget_unfamiliar(configs: Sequence[PretrainedConfig]) -> None:
    """Drop the limit of the unfamiliar from stored verdicts: another familiarity has another statistic."""
    is_dropped = False
    with _ONE_AT_A_TIME:
        for config in configs:
            if config.verdict is not None and config.verdict.get("unfamiliar_above") is not None:
                _write(config, verdict={**config.verdict, "familiar": None, "unfamiliar_above": None})
                is_dropped = True
    if is_dropped:
        logger.warning(
            "The stored limit of the unfamiliar belongs to another familiarity and is dropped: no image is called "
            "unfamiliar; fit the decisions again."
        )


def _write(config: PretrainedConfig, **values: object) -> None:
    for name, value in values.items():
        setattr(config, name, value)


__all__ = [
    "Decisions",
    "forget_unfamiliar",
    "store_abstention",
    "store_conformal",
    "store_decisions",
    "store_temperature",
]
