"""What temperature, prediction sets and abstention buy, on frozen features: fitted on some test rows, judged on others.

    python scripts/benchmarks/decisions.py --features FILE --heads bndl dense --seeds 0 1 2 --output FILE.json

FILE is a features file as heads.py beside this script makes it (train.features, train.labels, test.features,
test.labels).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from bndl_hf.baselines import HEADS, FeatureTask, train_head
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
from bndl_hf.utils.results import describe_environment, write_json

# What is fitted, by name: the variance scale held, None for a free one.
RECALIBRATIONS: dict[str, float | None] = {"T": 1.0, "T and v": None, "T, v = 0": 0.0}
FIGURES = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage")


@dataclass
class Arguments:
    """What to compare, and on which rows."""

    features: str = field(metadata={"help": "Features file (.safetensors)."})
    heads: list[str] = field(
        default_factory=lambda: ["bndl", "dense"], metadata={"help": f"Heads, of {', '.join(HEADS)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the training."})
    report_from: int = field(
        default=5000, metadata={"help": "Test rows from here on are reported; those before it are fitted on."}
    )
    coverages: list[float] = field(
        default_factory=lambda: [0.9, 0.95, 0.99], metadata={"help": "Coverages of the prediction sets."}
    )
    risk: float = field(default=0.01, metadata={"help": "Accepted share of errors among the answered."})
    delta: float = field(default=0.05, metadata={"help": "Chance that the promise about the risk fails."})
    num_train_epochs: int | None = field(default=None, metadata={"help": "Epochs; default: each head's own recipe."})
    output: str = field(default="outputs/bench/decisions.json", metadata={"help": "JSON file to write."})


def judge_decisions(head: str, seed: int, task: FeatureTask, arguments: Arguments) -> dict[str, Any]:
    """Train one head, fit everything on the first rows, judge it on the others."""
    training: dict[str, Any] = (
        {} if arguments.num_train_epochs is None else {"num_train_epochs": arguments.num_train_epochs}
    )
    layer = train_head(head, task, seed, disable_tqdm=True, **training)
    (held_out_features, held_out_labels), (features, truth) = task.choosing, task.reporting

    def figures(layer: PosteriorHead) -> dict[str, float]:
        prediction = layer.predict(features)
        found = summarize(prediction.probs, truth, prediction.p_value)
        return {name: found[name] for name in FIGURES}

    results: dict[str, Any] = {"head": head, "seed": seed, "recalibration": {"none": figures(layer)}}
    uncalibrated = layer.predict(held_out_features)
    for name, variance_scale in RECALIBRATIONS.items():
        fitted = fit_temperature(uncalibrated, held_out_labels, variance_scale=variance_scale)
        layer.set_temperature(fitted)
        results["recalibration"][name] = {
            **figures(layer),
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


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, as text."""
    lines = []
    for head in dict.fromkeys(one["head"] for one in runs):
        of_head = [one for one in runs if one["head"] == head]
        lines.append(f"\n{head}, mean of {len(of_head)} seeds")
        for name in of_head[0]["recalibration"]:
            found = [one["recalibration"][name] for one in of_head]
            lines.append(f"  {name:<12}" + "".join(f"{f} {mean(x[f] for x in found):.4f}  " for f in FIGURES))
        for i, first in enumerate(of_head[0]["sets"]):
            found = [one["sets"][i] for one in of_head]
            covered, size = mean(x["coverage"] for x in found), mean(x["size"] for x in found)
            lines.append(f"  {first['method']:<6}{first['asked']:<6g}coverage {covered:.4f}  size {size:.3f}")
        for name in of_head[0]["abstention"]:
            found = [one["abstention"][name] for one in of_head]
            answered, risk = mean(x["answered"] for x in found), mean(x["risk"] for x in found)
            lines.append(f"  {name:<12}answered {answered:.4f}  wrong among them {risk:.4f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run, write and print."""
    parser = HfArgumentParser(Arguments, description=__doc__.splitlines()[0] if __doc__ else None)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    task = FeatureTask.read(arguments.features, report_from=arguments.report_from)
    torch.set_num_threads(1)  # one core computes the same bits everywhere
    runs = []
    for head, seed in tqdm([(h, s) for h in arguments.heads for s in arguments.seeds], desc="Heads x seeds"):
        runs.append(judge_decisions(head, seed, task, arguments))
        settings = {**vars(arguments), "features": Path(arguments.features).name, "output": Path(arguments.output).name}
        write_json(arguments.output, {"arguments": settings, "runs": runs, "environment": describe_environment()})
    print(table(runs))
    print(
        f"\nFitted on test rows 0 to {arguments.report_from - 1}, judged on the others; written to {arguments.output}"
    )


if __name__ == "__main__":
    run(main)
