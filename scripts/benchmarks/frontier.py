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
from transformers import HfArgumentParser

from bndl_hf.baselines import FeatureTask, current_defaults, elastic_net_path, judge_head, train_and_judge
from bndl_hf.plots import save_figure, sparsity_frontier_plot
from bndl_hf.utils.command_line import HelpFormatter, run
from bndl_hf.utils.results import describe_environment, read_finished, write_json

FIGURES = (
    "sparsity",
    "factors_per_class",
    "accuracy",
    "negative_log_likelihood",
    "expected_calibration_error",
    "area_under_risk_coverage",
)
NAMES = {"bndl": "BNDL", "elastic net": "elastic net (glm_saga's objective)"}


@dataclass
class Arguments:
    """What to compare, and on which rows."""

    features: str = field(metadata={"help": "Features file (.safetensors), as benchmarks/heads.py makes it."})
    densities: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5],
        metadata={"help": "BNDL's shares of loadings kept (loading_density)."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of BNDL's training."})
    hold_out: int = field(
        default=0, metadata={"help": "Rows of train to choose on, instead of the first half of test."}
    )
    epochs: float | None = field(default=None, metadata={"help": "Passes of BNDL over the images; default: its own."})
    output: str = field(default="outputs/bench/frontier.json", metadata={"help": "JSON file, rewritten after a run."})
    figure: str | None = field(default=None, metadata={"help": "PNG file to draw; default: beside the JSON file."})


def compare(arguments: Arguments) -> list[dict[str, Any]]:
    """Every point of both curves."""
    task = FeatureTask.read(arguments.features, arguments.hold_out)
    settings = {
        "features": Path(arguments.features).name,
        "hold_out": arguments.hold_out,
        "epochs": arguments.epochs,
        "num_training_images": len(task.train[1]),
        "num_reported_images": len(task.reporting[1]),
        "defaults": current_defaults(),
    }
    done = read_finished(arguments.output, settings)
    runs = [one for one in done if one["head"] == "elastic net"]

    def keep() -> None:
        write_json(arguments.output, {"settings": settings, "environment": describe_environment(), "runs": runs})

    if not runs:
        for strength, layer in tqdm(elastic_net_path(*task.train), desc="Elastic-net path"):
            runs.append({"head": "elastic net", "strength": strength, **judge_head(layer, task)})
        keep()  # a path is a whole: each point starts from the one before
    training: dict[str, Any] = {} if arguments.epochs is None else {"num_train_epochs": arguments.epochs}
    pairs = [(density, seed) for density in arguments.densities for seed in arguments.seeds]
    runs += [one for one in done if one["head"] == "bndl" and (one["loading_density"], one["seed"]) not in pairs]
    for density, seed in tqdm(pairs, desc="Densities x seeds"):
        finished = [one for one in done if (one.get("loading_density"), one.get("seed")) == (density, seed)]
        figures = finished[0] if finished else {"head": "bndl", "loading_density": density, "seed": seed}
        if not finished:
            config = {"loading_density": density}
            figures |= train_and_judge("bndl", task, seed, config, disable_tqdm=True, **training)
        runs.append(figures)
        keep()
    return runs


def points(runs: list[dict[str, Any]], head: str) -> list[dict[str, float]]:
    """The points of one curve, means (and standard deviations) over seeds, sparsest first."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for one in runs:
        if one["head"] == head:
            groups.setdefault(one.get("loading_density", one.get("strength")), []).append(one)
    found = []
    for group in groups.values():
        point = {name: statistics.mean(one[name] for one in group) for name in FIGURES}
        point |= {f"{name}_sd": statistics.pstdev(one[name] for one in group) for name in FIGURES}
        point["tempered_negative_log_likelihood"] = statistics.mean(
            one["tempered"]["negative_log_likelihood"] for one in group
        )
        found.append(point)
    return sorted(found, key=lambda point: point["sparsity"])


def table(runs: list[dict[str, Any]]) -> str:
    """Both curves as a Markdown table."""
    columns = (*FIGURES, "tempered_negative_log_likelihood")
    lines = ["| head | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for head in NAMES:
        lines += [
            f"| {head} | " + " | ".join(f"{point[name]:.4f}" for name in columns) + " |" for point in points(runs, head)
        ]
    return "\n".join(lines)


def curves(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Both curves as `sparsity_frontier_plot` takes them."""
    return {
        NAMES[head]: {
            name: [point[name] for point in points(runs, head)]
            for name in (*FIGURES, "accuracy_sd", "negative_log_likelihood_sd")
        }
        for head in NAMES
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print and draw."""
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    runs = compare(arguments)
    print(table(runs))
    figure = Path(arguments.figure or Path(arguments.output).with_suffix(".png"))
    for x in ("sparsity", "factors_per_class"):
        path = figure if x == "sparsity" else figure.with_stem(f"{figure.stem}_per_class")
        print(f"Drawn: {save_figure(sparsity_frontier_plot(curves(runs), x), path)}")
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    run(main)
