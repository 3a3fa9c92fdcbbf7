"""How sparse a decision layer may be: BNDL at several densities against an elastic-net path, on frozen features.

    python scripts/benchmarks/frontier.py --features FILE --output docs/results/frontier.json --figure frontier.png

The path's objective is glm_saga's. The table has the likelihood as it comes and with a temperature fitted on the
choosing rows; the figure shows it as it comes. Finished runs are kept: an interrupted comparison goes on.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bndl_hf.baselines import elastic_net_path, judge_head, train_and_judge
from bndl_hf.plots import save_figure, sparsity_frontier_plot
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import read_finished
from common import TrainingArguments, finish_runs, flat, parse, table, write_result

FIGURES = (
    *("sparsity", "factors_per_class", "accuracy", "negative_log_likelihood", "expected_calibration_error"),
    *("area_under_risk_coverage", "tempered_negative_log_likelihood"),
)
NAMES = {"bndl": "BNDL", "elastic net": "elastic net (glm_saga's objective)"}


@dataclass
class FrontierArguments(TrainingArguments):
    """What to compare, and on which rows."""

    densities: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5],
        metadata={"help": "BNDL's shares of loadings kept (loading_density)."},
    )
    output: str = field(default="outputs/bench/frontier.json", metadata={"help": "JSON file, rewritten after a run."})
    figure: str | None = field(default=None, metadata={"help": "PNG file to draw; default: beside the JSON file."})


def compare(arguments: FrontierArguments) -> list[dict[str, Any]]:
    """Every point of both curves."""
    task = arguments.task()
    settings = arguments.settings(task)
    runs = read_finished(arguments.output, settings)
    if not any(one["head"] == "elastic net" for one in runs):
        # A path is a whole: each point starts from the one before.
        path = tqdm(elastic_net_path(*task.train), desc="Elastic-net path", disable=arguments.quiet)
        runs += [{"head": "elastic net", "strength": strength, **judge_head(layer, task)} for strength, layer in path]
        write_result(arguments, {"settings": settings, "runs": runs})

    def one_run(head: str, loading_density: float, seed: int) -> dict[str, Any]:
        return train_and_judge(head, task, seed, {"loading_density": loading_density}, **arguments.training())

    wanted = [
        {"head": "bndl", "loading_density": density, "seed": seed}
        for density in arguments.densities
        for seed in arguments.seeds
    ]
    return finish_runs(arguments, settings, wanted, one_run)


def points(runs: list[dict[str, Any]], head: str) -> list[dict[str, float]]:
    """The points of one curve, means and standard deviations over seeds, sparsest first."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for one in runs:
        if one["head"] == head:
            groups.setdefault(one.get("loading_density", one.get("strength")), []).append(flat(one))
    found = [
        {name: statistics.mean(one[name] for one in group) for name in FIGURES}
        | {f"{name}_sd": statistics.pstdev(one[name] for one in group) for name in FIGURES}
        for group in groups.values()
    ]
    return sorted(found, key=lambda point: point["sparsity"])


def curves(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Both curves as `sparsity_frontier_plot` takes them."""
    found = {words: points(runs, head) for head, words in NAMES.items()}
    return {words: {name: [point[name] for point in curve] for name in curve[0]} for words, curve in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print and draw."""
    arguments = parse(FrontierArguments, __doc__, argv)
    runs = compare(arguments)
    shown = [(head, point) for head in NAMES for point in points(runs, head)]
    print(table([{"head": head, **{name: point[name] for name in FIGURES}} for head, point in shown]))
    figure = Path(arguments.figure or Path(arguments.output).with_suffix(".png"))
    for x, path in {"sparsity": figure, "factors_per_class": figure.with_stem(f"{figure.stem}_per_class")}.items():
        print(f"Drawn: {save_figure(sparsity_frontier_plot(curves(runs), x), path)}")
    print(f"Written to {arguments.output}")


if __name__ == "__main__":
    run(main)
