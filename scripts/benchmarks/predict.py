"""What exact prediction costs and what it loses: its time against that of draws, its likelihood against many draws.

    python scripts/benchmarks/predict.py --features FILE --output docs/results/predict.json

Times are of the decision layer alone, on random features of a wide backbone, exact and sampled in turns on the same
machine; what counts is the median of their ratios. The likelihood is of the default head trained on FILE.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from bndl_hf import BNDLConfig
from bndl_hf.baselines import train_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.uncertainty import negative_log_likelihood
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import seconds_taken
from common import TrainingArguments, mean_over_seeds, parse, table, write_result


@dataclass
class PredictArguments(TrainingArguments):
    """How large, how often, and on which features."""

    feature_dim: int = field(default=2048, metadata={"help": "D of the layer that is timed."})
    num_labels: int = field(default=1000, metadata={"help": "C of the layer that is timed."})
    batch_size: int = field(default=256, metadata={"help": "B, images at a time."})
    num_samples: int = field(default=20, metadata={"help": "Draws that exact prediction is timed against."})
    many_samples: int = field(default=200, metadata={"help": "Draws whose likelihood it is compared with."})
    repeats: int = field(default=15, metadata={"help": "Pairs of timings."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of the trainings."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})
    output: str = field(default="outputs/bench/predict.json", metadata={"help": "JSON file to write."})


def compare_times(arguments: PredictArguments) -> dict[str, Any]:
    """Seconds of both ways, and the median of their ratios."""
    torch.manual_seed(0)
    device = arguments.device
    config = BNDLConfig(feature_dim=arguments.feature_dim, num_labels=arguments.num_labels)
    layer = BNDLDecisionLayer(config).eval().to(device)
    layer.prune_smallest(config.loading_density)
    features = torch.rand(arguments.batch_size, arguments.feature_dim, device=device)

    def exact() -> Any:
        return layer.predict(features)

    def sampled() -> Any:
        return layer.predict(features, method="monte_carlo", num_samples=arguments.num_samples)

    exact(), sampled()  # not counted: first calls allocate
    pairs = [
        (seconds_taken(exact, device), seconds_taken(sampled, device))
        for _ in tqdm(range(arguments.repeats), desc="Pairs of timings", disable=arguments.quiet)
    ]
    return {
        "feature_dim": arguments.feature_dim,
        "num_factors": config.num_factors,
        "num_labels": arguments.num_labels,
        "batch_size": arguments.batch_size,
        "num_samples": arguments.num_samples,
        "loading_density": layer.sparsity(),
        "exact_seconds": statistics.median(one for one, _ in pairs),
        "sampled_seconds": statistics.median(other for _, other in pairs),
        "times_faster": statistics.median(other / one for one, other in pairs),
    }


def compare_likelihoods(arguments: PredictArguments) -> list[dict[str, Any]]:
    """Negative log-likelihood on the reporting rows, exact and from many draws, of each seed."""
    task = arguments.task()
    features, labels = task.reporting
    runs = []
    for seed in tqdm(arguments.seeds, desc="Seeds", disable=arguments.quiet):
        layer = train_head("bndl", task, seed, **arguments.training())
        generator = torch.Generator().manual_seed(seed)
        draws = layer.predict(features, "monte_carlo", arguments.many_samples, generator)
        for way, prediction in {"exact": layer.predict(features), f"{arguments.many_samples} draws": draws}.items():
            loss = negative_log_likelihood(prediction.probs, labels)
            runs.append({"seed": seed, "prediction": way, "negative_log_likelihood": loss})
    return runs


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    arguments = parse(PredictArguments, __doc__, argv)
    times, runs = compare_times(arguments), compare_likelihoods(arguments)
    write_result(arguments, {"settings": arguments.settings(arguments.task()), "times": times, "runs": runs})
    print(table([times]))
    print(table(mean_over_seeds(runs, by=("prediction",), of=("negative_log_likelihood",))))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
