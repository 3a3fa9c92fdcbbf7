"""The one table of measures: what each is called, what it means, whether more of it is better, how it is written.

The names are the keys of results.json, of the Trainer's log (behind `eval_`), of cards and of benchmark tables, and,
where one function computes the measure, that function's name. Nothing is computed here: summary.py has the figures of
every evaluation, `bndl_hf.evaluation` all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A measure, as tables and cards show it.

    Attributes:
        label: head of a column or name of a row.
        meaning: what the number says, with its unit where it is not a fraction.
        better: "larger" or "smaller"; None where neither is: it describes the model or the data.
        format: "percent" for fractions that people read as percentages, else "number".
    """

    label: str
    meaning: str
    better: Literal["larger", "smaller"] | None = None
    format: Literal["number", "percent"] = "number"

    def describe(self) -> str:
        """The meaning, and which direction is better."""
        return self.meaning if self.better is None else f"{self.meaning}; {self.better} is better"

    def write(self, value: float | None) -> str:
        """The value as tables show it: "91.2 %", "0.252", "3.1e-04"; "-" where it is undefined."""
        if value is None:
            return "-"
        if self.format == "percent":
            return f"{100 * value:.1f} %"
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("Accuracy", "share of images answered right", "larger", "percent"),
    "negative_log_likelihood": Measure("NLL", "negative log-likelihood of the labels, nats", "smaller"),
    "brier_score": Measure("Brier score", "squared error of the probabilities, 0 to 2", "smaller"),
    "brier_reliability": Measure("Reliability", "the part of it that calibration would remove", "smaller"),
    "brier_resolution": Measure("Resolution", "the part won by telling images apart", "larger"),
    "brier_uncertainty": Measure("Base rates", "the score of always answering with the share of each class"),
    "brier_within_bin": Measure("Within bins", "what the 15 bins of these three leave out"),
    "expected_calibration_error": Measure(
        "ECE", "calibration error of the top class, 15 bins of equal width", "smaller"
    ),
    "adaptive_calibration_error": Measure("Adaptive ECE", "the same, 15 bins of equally many images", "smaller"),
    "classwise_calibration_error": Measure(
        "Class-wise ECE", "the same for every class's probability, mean over classes", "smaller"
    ),
    "area_under_risk_coverage": Measure("AURC", "area under the risk-coverage curve by largest probability", "smaller"),
    "excess_area_under_risk_coverage": Measure(
        "Excess AURC", "what of it the best order of the images would avoid", "smaller"
    ),
    "coverage_at_1_percent_risk": Measure(
        "Coverage at 1 % risk", "share of images it can answer with at most 1 % errors among them", "larger", "percent"
    ),
    "coverage_at_5_percent_risk": Measure("Coverage at 5 % risk", "the same with at most 5 %", "larger", "percent"),
    "risk_at_80_percent_coverage": Measure(
        "Risk at 80 % coverage", "share of errors when the least sure 20 % are not answered", "smaller", "percent"
    ),
    "risk_at_90_percent_coverage": Measure(
        "Risk at 90 % coverage", "the same with the least sure 10 %", "smaller", "percent"
    ),
    "error_detection_auroc": Measure(
        "Error AUROC", "chance that a right answer has a larger probability than a wrong one", "larger"
    ),
    "pavpu": Measure("PAvPU", "accurate and certain, or inaccurate and uncertain; exact t-test", "larger", "percent"),
    "share_certain": Measure("Certain", "share of images called certain by that test", None, "percent"),
    "accuracy_certain": Measure(
        "Accuracy where certain", "share of those that are answered right", "larger", "percent"
    ),
    "accuracy_uncertain": Measure("Accuracy where uncertain", "the same of the others", None, "percent"),
    "total_uncertainty": Measure("Total uncertainty", "mean entropy, nats: aleatoric plus epistemic"),
    "aleatoric_uncertainty": Measure("Aleatoric", "mean of the part that more training data would not remove, nats"),
    "epistemic_uncertainty": Measure("Epistemic", "mean of the part that it would, nats"),
    "sparsity": Measure("Non-zero loadings", "share of loadings above 1e-5", "smaller", "percent"),
}

OOD_MEASURES: dict[str, Measure] = {
    "auroc": Measure(
        "AUROC",
        "chance that an out-of-distribution image has the higher score, .5 is guessing",
        "larger",
    ),
    "fpr95": Measure(
        "FPR95", "share of the dataset's own images flagged with 95 % of the out-of-distribution ones", "smaller"
    ),
    "aupr": Measure(
        "AUPR", "area under the precision-recall curve, out-of-distribution images are the positives", "larger"
    ),
}


def sampled_pavpu(num_samples: int) -> str:
    """Name of PAvPU by that many Monte-Carlo draws, S: "pavpu_20_draws"."""
    return f"pavpu_{num_samples}_draws"


def find_measure(name: str) -> Measure | None:
    """The measure of that name, PAvPU of any number of draws included; None for any other key.

    Example:
        >>> find_measure("negative_log_likelihood").describe()
        'negative log-likelihood of the labels, nats; smaller is better'
        >>> find_measure("pavpu_20_draws").label
        'PAvPU, 20 draws'
    """
    if draws := re.fullmatch(r"pavpu_(\d+)_draws", name):
        meaning = f"PAvPU by the paired t-test of {draws[1]} Monte-Carlo draws"
        return Measure(f"PAvPU, {draws[1]} draws", meaning, "larger", "percent")
    return MEASURES.get(name)
