"""What the measures of a card are called and mean, by the names that results.json has for them.

Stands in for the table of measures in `bndl_hf.uncertainty.measures`, whose `find_measure` has the same attributes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A row of a card: its name, what the number says, how it is written ("number" or "percent")."""

    label: str
    meaning: str
    format: str = "number"

    def describe(self) -> str:
        """What the number says."""
        return self.meaning

    def write(self, value: float) -> str:
        """The value as a person reads it: "91.2 %", "0.252", "3.1e-04"."""
        if self.format == "percent":
            return f"{100 * value:.1f} %"
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


_MEASURES = {
    "accuracy": Measure("Accuracy", "share of images answered right", "percent"),
    "negative_log_likelihood": Measure("NLL", "negative log-likelihood of the labels, nats; smaller is better"),
    "brier_score": Measure("Brier score", "squared error of the probabilities, 0 to 2; smaller is better"),
    "expected_calibration_error": Measure("ECE", "calibration error, 15 bins of equal width; smaller is better"),
    "area_under_risk_coverage": Measure("AURC", "area under the risk-coverage curve; smaller is better"),
    "pavpu": Measure("PAvPU", "accurate and certain, or inaccurate and uncertain; exact t-test", "percent"),
    "share_certain": Measure("Certain", "share of images called certain by that test", "percent"),
    "accuracy_certain": Measure("Accuracy where certain", "share of those that are answered right", "percent"),
    "accuracy_uncertain": Measure("Accuracy where uncertain", "the same of the others", "percent"),
}


def find_measure(name: str) -> Measure | None:
    """The measure of that name, PAvPU of any number of draws included; None for any other key."""
    if draws := re.fullmatch(r"pavpu_(\d+)_draws", name):
        return Measure(f"PAvPU, {draws[1]} draws", "the same by the paired t-test of Monte-Carlo draws", "percent")
    return _MEASURES.get(name)
