"""What a person can act on: each answer is sure, torn or unfamiliar, with the reason in words.

- *unfamiliar*: Fisher's statistic of the image (familiarity.py) lies beyond what is usual among held-out images;
- *sure*: not that, and the largest probability reaches a threshold that holds a stated risk on held-out images;
- *torn*: neither; the prediction set, where one was fitted, says between which classes.

bndl_hf.uncertainty.fit_decisions fits the numbers, the configuration keeps them in its field `verdict`, decisions.py
applies them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from torch import Tensor

from .prediction_sets import in_float64, is_number

VERDICTS = ("sure", "torn", "unfamiliar")
_SURE, _TORN, _UNFAMILIAR = range(3)
# Points of the risk curve a configuration may hold, and classes of a set that a sentence names.
MAX_CURVE_POINTS = 100
_NAMED_CLASSES = 3


@dataclass(frozen=True)
class VerdictRules:
    """The numbers that make a verdict of a prediction.

    Attributes:
        risk: accepted share of errors among the sure answers, in (0, 1).
        delta: probability, over held-out sets, that the true share is larger after all, in (0, 1).
        threshold: largest probability from which on an answer is sure, in [0, 1]; None where no threshold could be
            promised to hold the risk, and then no answer is sure.
        num_held_out: images the threshold was fitted on, >= 1.
        coverage: share of images whose prediction set holds the true class, in (0, 1); None without sets.
        familiar: share of images of the model's own kind that are familiar, in (0, 1); None where it was not fitted.
        unfamiliar_above: Fisher's statistic beyond which an image is unfamiliar; None likewise.
        risk_curve: (threshold, upper bound on the share of errors, share of images that are sure), ascending in the
            threshold, at most 100 of them; all bounds hold together with probability 1 - delta.
    """

    risk: float
    delta: float
    threshold: float | None
    num_held_out: int
    coverage: float | None = None
    familiar: float | None = None
    unfamiliar_above: float | None = None
    risk_curve: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("risk", "delta", "coverage", "familiar"):
            value = getattr(self, name)
            optional = name in ("coverage", "familiar")
            if not (is_number(value) and 0 < value < 1) and not (optional and value is None):
                raise ValueError(f"{name}={value!r} of the verdict must lie in (0, 1){', or be None' * optional}.")
        if not (self.threshold is None or (is_number(self.threshold) and 0 <= self.threshold <= 1)):
            raise ValueError(f"threshold={self.threshold!r} of the verdict must lie in [0, 1], or be None.")
        if not (self.unfamiliar_above is None or is_number(self.unfamiliar_above)):
            raise ValueError(f"unfamiliar_above={self.unfamiliar_above!r} of the verdict must be a finite number.")
        if (self.familiar is None) != (self.unfamiliar_above is None):
            raise ValueError(
                f"familiar={self.familiar!r} and unfamiliar_above={self.unfamiliar_above!r} of the verdict go "
                "together: both numbers, or both None."
            )
        if isinstance(self.num_held_out, bool) or not isinstance(self.num_held_out, int) or self.num_held_out < 1:
            raise ValueError(f"num_held_out={self.num_held_out!r} of the verdict must be a whole number, 1 or more.")
        _check_curve(self.risk_curve)

    def judge(self, probs: Tensor, fisher_statistic: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(verdict [B], int64 indices of VERDICTS; is_familiar [B], bool, or None where that is not known).

        Args:
            probs: predictive probabilities, [B, C].
            fisher_statistic: of the same images, [B]; None where the layer has no familiarity.
        """
        # float64: the threshold may lie between two neighbouring float32 numbers.
        verdict = probs.argmax(dim=-1).new_full((len(probs),), _TORN)
        if self.threshold is not None:
            sure = (in_float64(probs).amax(dim=-1) >= self.threshold).to(probs.device)
            verdict = verdict.masked_fill(sure, _SURE)
        if self.unfamiliar_above is None or fisher_statistic is None:
            return verdict, None
        is_familiar = (in_float64(fisher_statistic) <= self.unfamiliar_above).to(probs.device)
        return verdict.masked_fill(~is_familiar, _UNFAMILIAR), is_familiar

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it, and `from_dict` reads."""
        return {**asdict(self), "risk_curve": [list(point) for point in self.risk_curve]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VerdictRules:
        """Rules from what `to_dict` wrote.

        Raises:
            ValueError: entries are missing, unknown, or out of their range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"A verdict is stored as a mapping of its entries, not as {values!r}.")
        known = {field.name for field in fields(cls)}
        missing = {"risk", "delta", "threshold", "num_held_out"} - set(values)
        if missing or set(values) - known:
            raise ValueError(
                f"A verdict has the entries {', '.join(sorted(known))}; missing: "
                f"{', '.join(sorted(missing)) or 'none'}, unknown: {', '.join(sorted(set(values) - known)) or 'none'}."
            )
        curve = values.get("risk_curve", ())
        if not isinstance(curve, list | tuple) or not all(isinstance(point, list | tuple) for point in curve):
            raise ValueError(f"risk_curve={curve!r} of the verdict must be a list of points of three numbers.")
        return cls(**{**values, "risk_curve": tuple(tuple(point) for point in curve)})


def describe_answers(
    probs: Tensor,
    verdict: Tensor | None,
    prediction_sets: Tensor | None,
    rules: Mapping[str, Any] | None,
    id2label: Mapping[int, str] | None = None,
) -> list[tuple[str, str | None]]:
    """(sentence, reason) of each image; the reason is None where there is no verdict.

    Args:
        probs: [B, C].
        verdict: [B], or None.
        prediction_sets: [B, C] bool, or None.
        rules: the verdict's, as `VerdictRules.to_dict` writes them; None without a verdict.
        id2label: the names of the classes; None calls them "class 0" and so on.
    """
    answers: list[tuple[str, str | None]] = []
    for image, row in enumerate(probs.tolist()):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        top = f"{_name(order[0], id2label)}, {percent(row[order[0]])}"
        if verdict is None or rules is None:
            answers.append((top, None))
            continue
        code = int(verdict[image])
        inside = order[:1]
        if prediction_sets is not None and rules.get("coverage") is not None:
            members = prediction_sets[image].tolist()
            inside = [c for c in order if members[c]]
        if code == _SURE:
            reason = f"of answers this sure, at most {_of_hundred(rules['risk'])} % are wrong"
            sentence = f"{top}: sure ({reason})"
        elif code == _UNFAMILIAR:
            reason = "unlike the images it was fitted on"
            sentence = f"{reason} ({top}): unfamiliar"
        elif len(inside) > 1:
            names = [_name(c, id2label) for c in inside]
            reason = f"{_listed(names)}: one of them in {_of_hundred(rules['coverage'])} of 100"
            chances = ", ".join(percent(row[c]) for c in inside[:_NAMED_CLASSES])
            sentence = f"{_listed(names)} ({chances}): torn; one of them in {_of_hundred(rules['coverage'])} of 100"
        else:
            reason = _why_not_sure(rules)
            sentence = f"{top}: torn ({reason})"
        answers.append((sentence, reason))
    return answers


def percent(share: float) -> str:
    """A probability in words: "61 %", and "over 99 %" or "under 1 %" where rounding would say 100 or 0."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _why_not_sure(rules: Mapping[str, Any]) -> str:
    risk = _of_hundred(rules["risk"])
    if rules["threshold"] is None:
        return f"{rules['num_held_out']} held-out images promise no answers of which at most {risk} % are wrong"
    return f"below the {100 * rules['threshold']:.3g} % from which on at most {risk} % are wrong"


def _of_hundred(share: float) -> str:
    return f"{100 * share:.3g}"


def _name(label: int, id2label: Mapping[int, str] | None) -> str:
    return f"class {label}" if id2label is None else id2label[label]


def _listed(names: Sequence[str]) -> str:
    """ "cat or dog"; of many the first few."""
    if len(names) > _NAMED_CLASSES:
        others = len(names) - _NAMED_CLASSES
        return f"{', '.join(names[:_NAMED_CLASSES])} or {others} other{'s' * (others > 1)}"
    return " or ".join([", ".join(names[:-1]), names[-1]])


def _check_curve(curve: Sequence[Any]) -> None:
    fits = len(curve) <= MAX_CURVE_POINTS and all(
        len(point) == 3 and all(is_number(value) and 0 <= value <= 1 for value in point) for point in curve
    )
    if not fits or any(before[0] >= after[0] for before, after in pairwise(curve)):
        raise ValueError(
            f"risk_curve of the verdict must hold at most {MAX_CURVE_POINTS} points (threshold, bound, share) in "
            f"[0, 1], ascending in the threshold; {len(curve)} arrived."
        )


__all__ = ["VERDICTS", "VerdictRules", "describe_answers", "percent"]
