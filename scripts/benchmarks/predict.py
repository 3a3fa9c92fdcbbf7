"""What exact prediction costs and what it loses: its time against that of draws, its likelihood against many draws.

    python scripts/benchmarks/predict.py --features FILE --output docs/results/predict.json

Times are of the decision layer alone, on random features of a wide backbone, exact and sampled in turns on the same
machine; what counts is the median of their ratios. The likelihood is of the default head trained on FILE.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from bndl_hf import BNDLConfig
from bndl_hf.baselines import FeatureTask, train_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.uncertainty import negative_log_likelihood
from bndl_hf.utils.command_line import HelpFormatter, run
from bndl_hf.utils.results import describe_environment, seconds_taken, write_json


@dataclass
class Arguments:
    """How large, how often, and on which features."""

    features: str | None = field(
        default=None, metadata={"help": "Features file for the likelihood; without it, digits."}
    )
    feature_dim: int = field(default=2048, metadata={"help": "D of the layer that is timed."})
    num_labels: int = field(default=1000, metadata={"help": "C of the layer that is timed."})
    batch_size: int = field(default=256, metadata={"help": "B, images at a time."})
    num_samples: int = field(default=20, metadata={"help": "Draws that exact prediction is timed against."})
    many_samples: int = field(default=200, metadata={"help": "Draws whose likelihood it is compared with."})
    repeats: int = field(default=15, metadata={"help": "Pairs of timings."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of the likelihood."})
    epochs: float | None = field(default=None, metadata={"help": "Passes over the features; default: the recipe's."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})
    output: str = field(default="outputs/bench/predict.json", metadata={"help": "JSON file to write."})


def compare_times(arguments: Arguments) -> dict[str, Any]:
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
        for _ in tqdm(range(arguments.repeats), desc="Pairs of timings")
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


def compare_likelihoods(arguments: Arguments) -> list[dict[str, float]]:
    """Negative log-likelihood on the reporting rows, exact and from many draws, of each seed."""
    task = FeatureTask.digits() if arguments.features is None else FeatureTask.read(arguments.features)
    training: dict[str, Any] = {} if arguments.epochs is None else {"num_train_epochs": arguments.epochs}
    features, labels = task.reporting
    runs = []
    for seed in tqdm(arguments.seeds, desc="Seeds"):
        layer = train_head("bndl", task, seed, disable_tqdm=True, **training)
        generator = torch.Generator().manual_seed(seed)
        draws = layer.predict(features, "monte_carlo", arguments.many_samples, generator)
        nll = {"exact": layer.predict(features).probs, f"{arguments.many_samples}_draws": draws.probs}
        runs.append({"seed": seed, **{name: negative_log_likelihood(p, labels) for name, p in nll.items()}})
    return runs


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    times, runs = compare_times(arguments), compare_likelihoods(arguments)
    name = Path(arguments.features).name if arguments.features else "digits (8x8 pixels)"
    write_json(
        arguments.output,
        {"times": times, "features": name, "negative_log_likelihood": runs, "environment": describe_environment()},
    )
    print(
        f"exact {1e3 * times['exact_seconds']:.0f} ms, {times['num_samples']} draws "
        f"{1e3 * times['sampled_seconds']:.0f} ms, {times['times_faster']:.1f} times as long"
    )
    for way in ("exact", f"{arguments.many_samples}_draws"):
        print(f"NLL {way:<12}{statistics.mean(one[way] for one in runs):.4f} (mean of {len(runs)} seeds)")
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    run(main)
