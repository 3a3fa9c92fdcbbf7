"""What chose the default: one field of it changed at a time, judged on the choosing rows of frozen features.

    python scripts/benchmarks/choices.py --features FILE --seeds 0 1 --output docs/results/choices/cifar10_resnet56.json

docs/defaults.md reads the tables. Nothing is reported on the rows it chooses on. Finished runs are kept.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsity_variants import SPARSITY_HEADS  # type: ignore[import-not-found] # beside this script
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from bndl_hf import BNDLConfig
from bndl_hf.baselines import HEADS, FeatureTask, current_defaults, train_and_judge
from bndl_hf.utils.command_line import HelpFormatter, run
from bndl_hf.utils.results import describe_environment, read_finished, write_json

HEADS.update(SPARSITY_HEADS)  # `train_and_judge` finds heads by their names
COLUMNS = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage", "sparsity")


# Variants that are heads of their own.
OTHER_HEADS = {
    "gradients through zero": "bndl_through_zero",
    "a proximal penalty on the loadings": "bndl_lasso",
    "a proximal penalty on the factors": "bndl_group_lasso",
}


def variants(D: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> (fields of the configuration, training arguments), for features of width D."""
    K = BNDLConfig(feature_dim=D, num_labels=2).num_factors
    config: dict[str, dict[str, Any]] = {
        "default": {},
        "nothing pruned": {"loading_density": 1.0},
        "a fifth of the loadings": {"loading_density": 0.2},
        "a twentieth of the loadings": {"loading_density": 0.05},
        "as many factors as features": {"num_factors": D},
        "twice as many factors": {"num_factors": 2 * K},
        "no projection": {"projection": "none"},
        "projection of two layers": {"projection": "two_layer"},
        "KL weight 0.1/K": {"kl_local_weight": 0.1 / K},
        "KL weight 0.01/K": {"kl_local_weight": 0.01 / K},
        "KL weight 0.001/K": {"kl_local_weight": 0.001 / K},
        "no KL of the loadings": {"kl_global_weight": 0.0},
        "prior of the scores Gamma(1, 1)": {"score_prior_concentration": 1.0, "score_prior_rate": 1.0},
        "prior of the loadings Gamma(0.1, 1)": {"loading_prior_concentration": 0.1},
        "scale floor of the scores 0.001": {"score_scale_floor": 1e-3},
        "scale floor of the scores 1": {"score_scale_floor": 1.0},
        "concentrations of the scores from the features": {"score_concentration_input": "features"},
        "concentrations of the scores from all scores": {"score_concentration_input": "score_mean"},
        "one concentration an image": {"score_concentration": "per_image", "score_concentration_input": "features"},
        "one concentration a factor's loadings": {"loading_concentration": "per_factor"},
        "trained on draws": {"objective": "sampled"},
        "features as they come": {"normalize_features": False},
        "noise of 0.5 on the features": {"feature_noise": 0.5},
        "noise of 1 on the features": {"feature_noise": 1.0},
        "noise of 1.5 on the features": {"feature_noise": 1.5},
        "noise of 2 on the features": {"feature_noise": 2.0},
    }
    training: dict[str, dict[str, Any]] = {
        "pruned late, 0.5 to 0.95": {"pruning_start": 0.5, "pruning_end": 0.95},
        "pruned at once at half time, then refitted": {"pruning_start": 0.499, "pruning_end": 0.5},
        "KL warmed up over a fifth": {"kl_warmup_ratio": 0.2},
        "twice as many epochs": {"num_train_epochs": 24},
        "learning rate 3e-3": {"decision_layer_learning_rate": 3e-3},
    }
    return (
        {name: (c, {}) for name, c in config.items()}
        | {name: ({}, t) for name, t in training.items()}
        | {name: ({}, {}) for name in OTHER_HEADS}
    )


@dataclass
class Arguments:
    """Which features, which variants, how often."""

    features: str = field(metadata={"help": "Features file (.safetensors), as benchmarks/heads.py makes it."})
    variants: list[str] | None = field(default=None, metadata={"help": "Names to run; default: all of them."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of the training."})
    hold_out: int = field(
        default=0, metadata={"help": "Rows of train to choose on, instead of the first half of test."}
    )
    output: str = field(default="outputs/bench/choices.json", metadata={"help": "JSON file, rewritten after a run."})


def compare(arguments: Arguments) -> list[dict[str, Any]]:
    """Every variant and seed, judged on the choosing rows."""
    task = FeatureTask.read(arguments.features, arguments.hold_out)
    known = variants(task.train[0].shape[1])
    names = list(known) if arguments.variants is None else arguments.variants
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"variants names {', '.join(unknown)}; the variants are {', '.join(known)}.")
    settings = {
        "features": Path(arguments.features).name,
        "hold_out": arguments.hold_out,
        "num_choosing_images": len(task.choosing[1]),
        "defaults": current_defaults(),
    }
    runs = read_finished(arguments.output, settings)
    done = {(one["variant"], one["seed"]) for one in runs}
    wanted = [(name, seed) for name in names for seed in arguments.seeds if (name, seed) not in done]
    for name, seed in tqdm(wanted, desc="Variants x seeds"):
        config, training = known[name]
        head = OTHER_HEADS.get(name, "bndl")
        figures = train_and_judge(head, task, seed, config, choose=True, disable_tqdm=True, **training)
        runs.append({"variant": name, "seed": seed, "config": config, "training": training, **figures})
        write_json(arguments.output, {"settings": settings, "environment": describe_environment(), "runs": runs})
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds as a Markdown table."""
    lines = [
        "| variant | " + " | ".join(COLUMNS) + " | tempered_nll | temperature |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for name in dict.fromkeys(one["variant"] for one in runs):
        of_name = [one for one in runs if one["variant"] == name]
        means = [statistics.mean(one[column] for one in of_name) for column in COLUMNS]
        means += [
            statistics.mean(one["tempered"][column] for one in of_name)
            for column in ("negative_log_likelihood", "temperature")
        ]
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in means) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    print(table(compare(arguments)))
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    run(main)
