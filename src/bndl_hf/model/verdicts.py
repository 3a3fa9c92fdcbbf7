"""The verdict on an answer: sure, torn or unfamiliar, each with its reason.

A probability asks its reader for a decision; a verdict is one. An image whose features are unlike those of the model's
own kind is *unfamiliar*, whatever the probabilities say. Of the others an answer is *sure* where its probability lies
above a threshold that held-out images tie to a share of errors, and *torn* below it: between the classes of the
prediction set. bndl_hf.uncertainty.fit_decisions finds the numbers that are kept here, in the configuration; they are
applied by decisions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .prediction_sets import in_float64, is_number

VERDICTS = ("sure", "torn", "unfamiliar")
SURE, TORN, UNFAMILIAR = range(3)
# Classes a sentence names before it counts the others.
_NAMED = 3


@dataclass(frozen=True)
class VerdictRule:
    """What makes an answer sure, torn or unfamiliar; made by `bndl_hf.uncertainty.fit_decisions`.

    Attributes:
        risk: accepted share of errors among the sure answers, in (0, 1).
        delta: probability, over held-out sets, that the true share is above `risk` after all, in (0, 1).
        threshold: largest probability from which on an answer is sure, in [0, 1]; None where the held-out images could
            not promise the risk, and nothing is sure.
        coverage: share of the torn images' prediction sets that hold the true class, in (0, 1); None without sets.
        familiar: share of images of the model's own kind that are called familiar, in (0, 1); None where unfamiliar
            images are not told.
        unfamiliar_above: Fisher's statistic (familiarity.py) above which an image is unfamiliar; None likewise.
        num_held_out: how many images the numbers are from.
        risk_curve: (threshold, share of errors it holds with confidence 1 - delta, share of held-out images answered),
            ascending in the threshold: what other risks would cost.
    """

    risk: float
    delta: float
    threshold: float | None
    coverage: float | None
    familiar: float | None
    unfamiliar_above: float | None
    num_held_out: int
    risk_curve: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("risk", "delta", "coverage", "familiar"):
            value = getattr(self, name)
            may_be_none = name in ("coverage", "familiar")
            if not (value is None and may_be_none) and not (is_number(value) and 0 < value < 1):
                raise ValueError(f"{name}={value!r} must be a fraction in (0, 1){' or None' * may_be_none}.")
        if self.threshold is not None and not (is_number(self.threshold) and 0 <= self.threshold <= 1):
            raise ValueError(f"threshold={self.threshold!r} must be a probability in [0, 1], or None.")
        if self.unfamiliar_above is not None and not (is_number(self.unfamiliar_above) and self.unfamiliar_above >= 0):
            raise ValueError(f"unfamiliar_above={self.unfamiliar_above!r} must be a finite number >= 0, or None.")
        if (self.familiar is None) != (self.unfamiliar_above is None):
            raise ValueError(
                f"familiar={self.familiar!r} and unfamiliar_above={self.unfamiliar_above!r} go together: give both, or "
                "neither."
            )
        if not isinstance(self.num_held_out, int) or isinstance(self.num_held_out, bool) or self.num_held_out < 1:
            raise ValueError(f"num_held_out={self.num_held_out!r} must be a whole number of images, 1 or more.")
        for point in self.risk_curve:
            if len(point) != 3 or not all(is_number(value) and 0 <= value <= 1 for value in point):
                raise ValueError(f"risk_curve holds {point!r}; three fractions fit: threshold, risk, share answered.")
        if [point[0] for point in self.risk_curve] != sorted(point[0] for point in self.risk_curve):
            raise ValueError("risk_curve must ascend in its thresholds.")

    def is_familiar(self, fisher_statistic: Tensor | None) -> Tensor | None:
        """Whether images are like those of the model's own kind, [B] bool; None where that is not told.

        Raises:
            ValueError: the rule needs a statistic that the model does not give.
        """
        if self.unfamiliar_above is None:
            return None
        if fisher_statistic is None:
            raise ValueError(
                "The stored verdict tells unfamiliar images by a statistic this model has lost; call "
                "set_decisions(fit_decisions(...)) again, or set_decisions(None) to go without verdicts."
            )
        return in_float64(fisher_statistic).to(fisher_statistic.device) <= self.unfamiliar_above

    def verdicts(self, probs: Tensor, is_familiar: Tensor | None) -> Tensor:
        """Indices into `VERDICTS`, [B] int64, for probabilities [B, C] and familiarity [B] or None."""
        if self.threshold is None:
            is_sure = torch.zeros(len(probs), dtype=torch.bool, device=probs.device)
        else:  # float64: the threshold may lie between two neighbouring float32 numbers
            is_sure = (in_float64(probs).amax(dim=-1) >= self.threshold).to(probs.device)
        verdict = torch.where(is_sure, SURE, TORN)
        return verdict if is_familiar is None else torch.where(is_familiar, verdict, UNFAMILIAR)

    def threshold_at(self, risk: float) -> float | None:
        """The least threshold of `risk_curve` that holds `risk`; None where no image could be answered at it.

        Raises:
            ValueError: risk is outside (0, 1).
        """
        if not (is_number(risk) and 0 < risk < 1):
            raise ValueError(f"risk={risk!r} must lie in (0, 1): it is the accepted share of errors among the sure.")
        if risk == self.risk:
            return self.threshold
        return min((point[0] for point in self.risk_curve if point[1] <= risk), default=None)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it, and `from_dict` reads."""
        return {**asdict(self), "risk_curve": [list(point) for point in self.risk_curve]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VerdictRule:
        """A rule from what `to_dict` wrote.

        Raises:
            ValueError: entries are missing, unknown, or out of their range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"A verdict is stored as a mapping of its entries, not as {values!r}.")
        known = [field.name for field in fields(cls)]
        missing = [name for name in known if name not in values and name != "risk_curve"]
        if missing or set(values) - set(known):
            raise ValueError(
                f"A verdict has the entries {', '.join(known)}; missing: {', '.join(missing) or 'none'}, unknown: "
                f"{', '.join(sorted(set(values) - set(known))) or 'none'}."
            )
        curve = values.get("risk_curve", ())
        if not isinstance(curve, Sequence) or not all(isinstance(point, Sequence) for point in curve):
            raise ValueError(f"risk_curve={curve!r} must be a list of (threshold, risk, share answered).")
        return cls(**{**values, "risk_curve": tuple(tuple(point) for point in curve)})


def reason(verdict: str, rule: VerdictRule | None, names: Sequence[str] = ()) -> str:
    """Why an answer has its verdict, in words that follow it: "at most 2 % of such answers are wrong".

    Args:
        verdict: one of `VERDICTS`.
        rule: what decided.
        names: classes of the image's prediction set, most probable first; empty without sets.
    """
    if rule is None:
        return ""
    if verdict == "sure":
        return f"at most {as_percentage(rule.risk)} of answers this sure are wrong"
    if verdict == "unfamiliar":
        assert rule.familiar is not None
        return f"unlike {as_percentage(rule.familiar)} of the images it was checked on"
    if names and rule.coverage is not None:
        share = as_percentage(rule.coverage)
        if len(names) == 1:
            return f"too unsure to promise {as_percentage(rule.risk)} errors"
        return f"{listed(names)}; {share} of such sets hold the right class"
    if rule.threshold is None:
        return f"too few images were checked to promise {as_percentage(rule.risk)} errors"
    return f"too unsure to promise {as_percentage(rule.risk)} errors"


def describe(
    probs: Sequence[float],
    names: Sequence[str],
    verdict: str | None,
    rule: VerdictRule | None,
    in_set: Sequence[bool] | None,
) -> str:
    """One image's answer as a sentence.

    Args:
        probs: C probabilities.
        names: of the C classes.
        verdict: one of `VERDICTS`; None where none was fitted.
        rule: what decided, or None.
        in_set: whether each class is in the prediction set; None without sets.

    Example:
        >>> rule = VerdictRule(0.02, 0.05, 0.9, 0.95, None, None, 500)
        >>> describe([0.98, 0.02], ["cat", "dog"], "sure", rule, None)
        'cat, 98 %: sure, at most 2 % of answers this sure are wrong'
        >>> describe([0.61, 0.33, 0.06], ["cat", "dog", "owl"], "torn", rule, [True, True, False])
        'cat, 61 %: torn, cat (61 %) or dog (33 %); 95 % of such sets hold the right class'
    """
    order = sorted(range(len(probs)), key=lambda c: -probs[c])
    top = order[0]
    answer = f"{names[top]}, {as_percentage(probs[top])}"
    if verdict is None:
        return answer
    return f"{answer}: {verdict}, {reason_of(probs, names, verdict, rule, in_set)}"


def reason_of(
    probs: Sequence[float],
    names: Sequence[str],
    verdict: str,
    rule: VerdictRule | None,
    in_set: Sequence[bool] | None,
) -> str:
    """Why one image's answer has its verdict, in the words of `describe`, whose arguments these are."""
    order = sorted(range(len(probs)), key=lambda c: -probs[c])
    chosen = [] if in_set is None else [f"{names[c]} ({as_percentage(probs[c])})" for c in order if in_set[c]]
    return reason(verdict, rule, chosen)


def as_percentage(value: float) -> str:
    """A fraction as people read it: "98 %", "99.2 %", "> 99.9 %", "< 0.1 %"; never a certain 0 or 100.

    Example:
        >>> [as_percentage(value) for value in (0.5, 0.02, 0.0004, 0.9921, 0.99999)]
        ['50 %', '2 %', '< 0.1 %', '99.2 %', '> 99.9 %']
    """
    percent = 100 * value
    if percent < 0.1:
        return "< 0.1 %"
    if percent > 99.9:
        return "> 99.9 %"
    digits = 1 if min(percent, 100 - percent) < 1.95 else 0
    written = f"{percent:.{digits}f}"
    return f"{written.removesuffix('.0')} %"


def listed(names: Sequence[str]) -> str:
    """ "cat or dog"; beyond three classes "cat, dog, owl or 4 others"."""
    if len(names) > _NAMED + 1:
        return f"{', '.join(names[:_NAMED])} or {len(names) - _NAMED} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


__all__ = ["VERDICTS", "VerdictRule", "as_percentage", "describe", "listed", "reason", "reason_of"]
