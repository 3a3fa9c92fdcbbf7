"""What temperature, prediction sets and abstention buy, on frozen features: fitted on some test rows, judged on others.

    python scripts/benchmarks/decisions.py --features FILE --heads bndl dense --seeds 0 1 2 --output FILE.json

FILE is a features file as heads.py beside this script makes it. Finished runs are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bndl_hf.baselines import FeatureTask, train_head
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.uncertainty import (
    fit_abstention,
    fit_conformal,
    fit_temperature,
    mean_set_size,
    set_coverage,
    size_stratified_violation,
    summarize,
)
from bndl_hf.utils.command_line import run
from common import HeadsArguments, finish_runs, mean_over_seeds, parse, table

# What is fitted, by name: the variance scale held, None for a free one.
RECALIBRATIONS: dict[str, float | None] = {"T": 1.0, "T and v": None, "T, v = 0": 0.0}
FIGURES = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage")


@dataclass
class DecisionsArguments(HeadsArguments):
    """What to compare, and on which rows: fitted on the choosing rows, judged on the reporting rows."""

    coverages: list[float] = field(
        default_factory=lambda: [0.9, 0.95, 0.99], metadata={"help": "Coverages of the prediction sets."}
    )
    risk: float = field(default=0.01, metadata={"help": "Accepted share of errors among the answered."})
    delta: float = field(default=0.05, metadata={"help": "Chance that the promise about the risk fails."})
    output: str = field(default="outputs/bench/decisions.json", metadata={"help": "JSON file, rewritten after a run."})


def compare(arguments: DecisionsArguments) -> list[dict[str, Any]]:
    """Every head and seed: what each fit buys."""
    task = arguments.task()
    asked = {"coverages": arguments.coverages, "risk": arguments.risk, "delta": arguments.delta}

    def one_run(head: str, seed: int) -> dict[str, Any]:
        layer = train_head(head, task, seed, **arguments.training())
        return judge_decisions(layer, task, arguments)

    return finish_runs(arguments, {**arguments.settings(task), **asked}, arguments.head_and_seed(), one_run)


def judge_decisions(layer: PosteriorHead, task: FeatureTask, arguments: DecisionsArguments) -> dict[str, Any]:
    """Fit everything on the choosing rows of a trained head, judge it on the reporting rows."""
    (held_out_features, held_out_labels), (features, truth) = task.choosing, task.reporting

    def figures() -> dict[str, float]:
        prediction = layer.predict(features)
        found = summarize(prediction.probs, truth, prediction.p_value)
        return {name: found[name] for name in FIGURES}

    results: dict[str, Any] = {"recalibration": {"nothing": figures()}}
    uncalibrated = layer.predict(held_out_features)
    for name, variance_scale in RECALIBRATIONS.items():
        fitted = fit_temperature(uncalibrated, held_out_labels, variance_scale=variance_scale)
        layer.set_temperature(fitted)
        results["recalibration"][name] = {
            **figures(),
            "temperature": fitted.temperature,
            "variance_scale": fitted.variance_scale,
        }
    chosen = results["recalibration"]["T"]
    layer.set_temperature(chosen["temperature"], chosen["variance_scale"])
    held_out, judged = layer.predict(held_out_features), layer.predict(features)
    results["sets"] = [
        judge_sets(held_out, held_out_labels, judged, truth, method, coverage)
        for method in ("lac", "aps", "raps")
        for coverage in arguments.coverages
    ]
    results["abstention"] = {
        name: judge_abstention(held_out, held_out_labels, judged, truth, arguments.risk, delta)
        for name, delta in {"guaranteed": arguments.delta, "empirical": None}.items()
    }
    return results


def judge_sets(
    held_out: BNDLPrediction, labels: Tensor, judged: BNDLPrediction, truth: Tensor, method: str, coverage: float
) -> dict[str, Any]:
    """Coverage and size of the sets of one method."""
    sets = fit_conformal(held_out, labels, coverage, method).predict_sets(judged.probs)
    return {
        "method": method,
        "asked": coverage,
        "coverage": set_coverage(sets, truth),
        "size": mean_set_size(sets),
        "size_stratified_violation": size_stratified_violation(sets, truth, coverage),
    }


def judge_abstention(
    held_out: BNDLPrediction,
    labels: Tensor,
    judged: BNDLPrediction,
    truth: Tensor,
    risk: float,
    delta: float | None,
) -> dict[str, float]:
    """Threshold, share answered and the errors among them."""
    threshold = fit_abstention(held_out, labels, risk, delta=delta).threshold
    answered = judged.probs.amax(dim=-1) >= threshold
    wrong = (judged.predicted_labels != truth)[answered].double()
    return {"threshold": threshold, "answered": answered.double().mean().item(), "risk": wrong.mean().item()}


def tables(runs: list[dict[str, Any]]) -> str:
    """Means over seeds: recalibration, prediction sets, abstention."""

    fitted = [
        {"head": one["head"], "fitted": name, **figures}
        for one in runs
        for name, figures in one["recalibration"].items()
    ]
    sets = [{"head": one["head"], **found} for one in runs for found in one["sets"]]
    answers = [
        {"head": one["head"], "promise": name, **found} for one in runs for name, found in one["abstention"].items()
    ]
    return "\n\n".join(
        [
            table(mean_over_seeds(fitted, by=("head", "fitted"), of=FIGURES)),
            table(mean_over_seeds(sets, by=("head", "method", "asked"), of=("coverage", "size"))),
            table(mean_over_seeds(answers, by=("head", "promise"), of=("answered", "risk"))),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run, write and print."""
    arguments = parse(DecisionsArguments, __doc__, argv)
    torch.set_num_threads(1)  # one core computes the same bits everywhere
    print(tables(compare(arguments)))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
