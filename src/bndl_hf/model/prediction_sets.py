"""Conformal prediction sets: the classes that cannot be ruled out at a stated coverage, from probabilities alone.

A fitted predictor is a threshold on a score of each class. bndl_hf.uncertainty.fit_conformal finds it on held-out
images; here it is applied, because it travels with the model. Three scores of class c, with its rank r (1: most
probable), the probability mass A of the classes before it, and u = 0 or, randomised, uniform in [0, 1):

    lac     1 - p_c                                       Sadinle et al. 2019: smallest sets on average
    aps     A + u p_c                                     Romano et al. 2020: wider sets for harder images
    raps    A + u p_c + penalty max(0, r - free_ranks)    Angelopoulos et al. 2021: the same without long tails

With u = 0 a set is filled with the most probable classes until their mass passes the threshold. u = 1 would be as
valid, but a sure and right answer, whose first class has nearly all the mass, then scores worst, so an accurate model
would get large sets wherever it is less sure than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeGuard

import torch
from torch import Tensor

SET_METHODS = ("lac", "aps", "raps")


def set_scores(
    probs: Tensor, method: str, penalty: float = 0.0, free_ranks: int = 0, mass: Tensor | float = 0.0
) -> Tensor:
    """Score of every class, low for classes that belong in the set; formulas above.

    Args:
        probs: [B, C].
        method: "lac", "aps" or "raps".
        penalty, free_ranks: of "raps".
        mass: u, 0 or one number per image [B]: the share of the class's own probability that counts.

    Returns:
        [B, C], float64.
    """
    probs = in_float64(probs)
    if method == "lac":
        return 1 - probs
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked
    scores = before + torch.as_tensor(mass, dtype=ranked.dtype, device=ranked.device).reshape(-1, 1) * ranked
    if method == "raps":
        rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        scores = scores + penalty * (rank - free_ranks).clamp_min(0)
    return torch.empty_like(scores).scatter_(1, order, scores)


@dataclass(frozen=True)
class ConformalPredictor:
    """Turns probabilities into prediction sets; made by `bndl_hf.uncertainty.fit_conformal`.

    Attributes:
        method: "lac", "aps" or "raps".
        coverage: share of images whose true class the sets hold, at least and on average over calibration sets, in
            (0, 1).
        threshold: largest score in a set, a number; one for each class where `class_conditional`.
        num_images: how many images it was fitted on.
        num_classes: C.
        penalty, free_ranks: of "raps".
        randomized: "aps" and "raps": whether the class at the edge of a set is drawn at random, which makes the
            coverage exact where a model is right more often than asked, and the sets of one image differ from call to
            call.
        allow_empty: whether a set may be empty; otherwise the most probable class is always in it.

    Example:
        >>> predictor = ConformalPredictor("lac", 0.9, threshold=0.7, num_images=99, num_classes=3)
        >>> predictor.predict_sets(torch.tensor([[0.5, 0.4, 0.1]])).tolist()
        [[True, True, False]]
    """

    method: str
    coverage: float
    threshold: float | tuple[float, ...]
    num_images: int
    num_classes: int
    penalty: float = 0.0
    free_ranks: int = 0
    randomized: bool = False
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.method not in SET_METHODS:
            raise ValueError(f"method={self.method!r} is unknown; choose one of {', '.join(SET_METHODS)}.")
        if not (is_number(self.coverage) and 0 < self.coverage < 1):
            raise ValueError(f"coverage={self.coverage!r} is not in (0, 1); 0.9 puts the true class in 9 sets of 10.")
        for name, least in {"num_images": 1, "num_classes": 2, "free_ranks": 0}.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and is_number(value) and value >= least):
                raise ValueError(f"{name}={value!r} must be a whole number, {least} or more.")
        for name in ("randomized", "allow_empty"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false.")
        thresholds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        if self.class_conditional and len(thresholds) != self.num_classes:
            raise ValueError(
                f"threshold holds {len(thresholds)} numbers for {self.num_classes} classes; pass one for each, or one."
            )
        if not all(map(is_number, thresholds)):
            raise ValueError(f"threshold={self.threshold!r} must be finite numbers.")
        if not (is_number(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty={self.penalty!r} must be a finite number, zero or above.")

    @property
    def class_conditional(self) -> bool:
        """Whether every class has a threshold of its own (Mondrian): the coverage then holds within each class."""
        return isinstance(self.threshold, tuple)

    def predict_sets(self, probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The set of each image: [B, C] bool for probabilities [B, C].

        Args:
            probs: of the same model and recalibration the predictor was fitted on.
            generator: source of the random numbers of a randomised predictor.

        Raises:
            ValueError: for probabilities of another shape.
        """
        if probs.ndim != 2 or probs.shape[1] != self.num_classes:
            raise ValueError(
                f"probs has shape {list(probs.shape)}; these sets were fitted on {self.num_classes} classes, [B, "
                f"{self.num_classes}]."
            )
        mass = edge_mass(len(probs), self.randomized, generator)
        scores = set_scores(probs, self.method, self.penalty, self.free_ranks, mass)
        sets = scores <= torch.tensor(self.threshold, dtype=scores.dtype, device=scores.device)
        if not self.allow_empty:
            sets.scatter_(1, probs.argmax(dim=-1, keepdim=True).to(sets.device), True)
        return sets.to(probs.device)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it, and `from_dict` reads."""
        values = asdict(self)
        return {**values, "threshold": list(self.threshold)} if isinstance(self.threshold, tuple) else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConformalPredictor:
        """A predictor from what `to_dict` wrote.

        Raises:
            ValueError: entries are missing, unknown, or out of their range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"A conformal predictor is stored as a mapping of its entries, not as {values!r}.")
        known = {field.name for field in fields(cls)}
        missing = {"method", "coverage", "threshold", "num_images", "num_classes"} - set(values)
        if missing or set(values) - known:
            raise ValueError(
                f"A conformal predictor has the entries {', '.join(sorted(known))}; missing: "
                f"{', '.join(sorted(missing)) or 'none'}, unknown: {', '.join(sorted(set(values) - known)) or 'none'}."
            )
        threshold = values["threshold"]
        return cls(**{**values, "threshold": tuple(threshold) if isinstance(threshold, list | tuple) else threshold})


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a whole or floating-point number that a float can hold, not a bool, NaN or infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def in_float64(values: Tensor) -> Tensor:
    """`values` in float64, on the CPU where their device has none (MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def edge_mass(num_images: int, randomized: bool, generator: torch.Generator | None) -> Tensor:
    """u of each image, [B], float64: uniform in [0, 1), or 0 where nothing is left to chance."""
    if not randomized:
        return torch.zeros(num_images, dtype=torch.float64)
    device = "cpu" if generator is None else generator.device
    return torch.rand(num_images, generator=generator, dtype=torch.float64, device=device)


__all__ = ["SET_METHODS", "ConformalPredictor", "edge_mass", "in_float64", "is_number", "set_scores"]
