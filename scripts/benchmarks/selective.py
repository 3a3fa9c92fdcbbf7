r"""Selective prediction at a promised risk: how many images are answered at 1, 2 and 5 % errors, how many are wrong.

    python scripts/benchmarks/selective.py run --tasks digits                # no file needed: half a minute
    python scripts/benchmarks/selective.py run --features_dir FEATURES \
        --tasks digits resnet56_5000 cifar10_5000 caltech101_8 --seeds 0 1 2 \
        --output docs/results/selective.json --figure docs/images/selective.png

Tasks, files and heads are those of tasks.py. A head is fitted once a seed, with its temperature from the choosing rows.
Each split of the reported rows then fits a threshold on the largest probability on one half (`fit_abstention`), once
with a guarantee (delta 0.05: the true risk is above the promise for one calibration set in twenty at most) and once at
the observed risk, which promises nothing, and counts on the other half what came true. Where the rows are too few to
promise a risk nothing is answered: `out_of_reach` is the share of such splits, which count with coverage 0.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bndl_hf.baselines import current_defaults
from bndl_hf.plots import measure_curves_plot, save_figure
from bndl_hf.uncertainty import coverage_at_risk, fit_abstention
from bndl_hf.utils.command_line import run
from common import finish_runs, mean_over_seeds, parse_command, table
from declared import draw_rows, read_tensors
from on_tasks import TaskArguments, curves, fit_tempered
from verdicts import halves

DELTA = 0.05
METHODS = {"guaranteed": DELTA, "observed": None}
FIGURES = ("coverage", "risk", "broken", "out_of_reach", "best_coverage")


@dataclass
class RunArguments(TaskArguments):
    """Fit thresholds on one half of the reported rows, count on the other."""

    risks: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.05], metadata={"help": "Promised shares of errors among the answered."}
    )
    splits: int = field(default=100, metadata={"help": "Splits of the reported rows, for each head and seed."})
    figure: str | None = field(default=None, metadata={"help": "PNG file: coverage by promised risk, a panel a task."})
    output: str = field(default="outputs/bench/selective.json", metadata={"help": "JSON file, rewritten after a run."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [risk for risk in self.risks if not 0 < risk < 1]:
            raise ValueError(f"--risks {' '.join(map(str, wrong))}: not in (0, 1); 0.02 accepts 2 % errors.")


def one_split(probs: Tensor, labels: Tensor, risk: float, delta: float | None, seed: int) -> dict[str, float]:
    """What a threshold fitted on one half comes to on the other.

    Args:
        probs: of the reported rows, [N, C].
        labels: [N].
        risk: promised.
        delta: of the guarantee; None for the observed risk.
        seed: of the split.

    Returns:
        coverage, the share of the other half that is answered; risk, the share of errors among those (0 of none);
        broken, 1 where that is above the promise; out_of_reach, 1 where no threshold could be promised; best_coverage,
        what the same order of the images would allow had one known the other half's labels.
    """
    held_out, test = halves(len(labels), seed)
    confidence, predicted = probs[test].max(dim=-1)
    correct = predicted == labels[test]
    found = {"best_coverage": coverage_at_risk(confidence, correct, risk)}
    try:
        threshold = fit_abstention(probs[held_out], labels[held_out], risk, delta=delta).threshold
    except ValueError:  # out of reach on these images
        return {**found, "coverage": 0.0, "risk": 0.0, "broken": 0.0, "out_of_reach": 1.0}
    answered = confidence >= threshold
    wrong = (~correct[answered]).double().mean().item() if answered.any() else 0.0
    share = answered.double().mean().item()
    return {**found, "coverage": share, "risk": wrong, "broken": float(wrong > risk), "out_of_reach": 0.0}


def compare(arguments: RunArguments) -> list[dict[str, Any]]:
    """Every task, head and seed that the output file lacks; all runs."""
    declared = arguments.declarations()

    def one_run(task: str, head: str, seed: int, declaration: dict[str, object]) -> dict[str, Any]:
        rows = draw_rows(declared[task], read_tensors(declared[task], arguments.features_dir), seed).task
        features, labels = rows.reporting
        probs = fit_tempered(head, rows, seed).probs(features)
        accuracy = (probs.argmax(dim=-1) == labels).double().mean().item()
        found = []
        for method, delta in METHODS.items():
            for risk in arguments.risks:
                splits = [one_split(probs, labels, risk, delta, split) for split in range(arguments.splits)]
                means = {name: statistics.mean(split[name] for split in splits) for name in FIGURES}
                found.append({"method": method, "promised": risk, **means})
        return {"images": len(labels), "accuracy": accuracy, "thresholds": found}

    settings = {"risks": arguments.risks, "splits": arguments.splits, "delta": DELTA, "defaults": current_defaults()}
    return finish_runs(arguments, settings, arguments.wanted(declared), one_run, summarise)


def as_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run, method and promised risk."""
    return [
        {"task": one["task"], "head": one["head"], "seed": one["seed"], **row}
        for one in runs
        for row in one["thresholds"]
    ]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds by method, task, promised risk and head."""
    return {"means": mean_over_seeds(as_rows(runs), ("method", "task", "promised", "head"), FIGURES)}


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments: RunArguments = parse_command({"run": RunArguments}, __doc__, argv)
    runs = compare(arguments)
    means = summarise(runs)["means"]
    for method in METHODS:
        print(f"\nThresholds {method} on one half, counted on the other\n")
        print(table([{k: v for k, v in row.items() if k != "method"} for row in means if row["method"] == method]))
    if arguments.figure:
        guaranteed = [row for row in as_rows(runs) if row["method"] == "guaranteed"]
        panels = {}
        for task in arguments.tasks:
            rows = [{**row, "promised": 100 * row["promised"]} for row in guaranteed if row["task"] == task]
            panels[f"{task}: answered, %"] = curves(rows, "head", "promised", "coverage", scale=100)
        title = "How many images are answered at a promised risk"
        save_figure(measure_curves_plot(panels, "promised risk, %", title), arguments.figure)
        print(f"\nFigure: {arguments.figure}")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
