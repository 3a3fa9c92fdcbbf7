"""What chose the default: one field of it changed at a time, judged on the choosing rows of frozen features.

    python scripts/benchmarks/choices.py --features FILE --seeds 0 1 --output docs/results/choices/cifar10_resnet56.json

docs/research reads the tables. Nothing is reported on the rows it chooses on. Finished runs are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bndl_hf import BNDLConfig
from bndl_hf.baselines import HEADS, train_and_judge
from bndl_hf.utils.command_line import run
from common import TrainingArguments, finish_runs, mean_over_seeds, parse, table
from sparsity_variants import SPARSITY_HEADS

HEADS.update(SPARSITY_HEADS)  # `train_and_judge` finds heads by their names

FIGURES = (
    *("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage", "sparsity"),
    *("tempered_negative_log_likelihood", "tempered_temperature"),
)


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
class ChoicesArguments(TrainingArguments):
    """Which variants of the default, on which features, how often."""

    variants: list[str] | None = field(default=None, metadata={"help": "Names to run; default: all of them."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of the trainings."})
    output: str = field(default="outputs/bench/choices.json", metadata={"help": "JSON file, rewritten after a run."})


def compare(arguments: ChoicesArguments) -> list[dict[str, Any]]:
    """Every variant and seed, judged on the choosing rows."""
    task = arguments.task()
    known = variants(task.train[0].shape[1])
    names = list(known) if arguments.variants is None else arguments.variants
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"variants names {', '.join(unknown)}; the variants are {', '.join(known)}.")

    def one_run(variant: str, seed: int) -> dict[str, Any]:
        config, training = known[variant]
        head = OTHER_HEADS.get(variant, "bndl")
        figures = train_and_judge(head, task, seed, config, choose=True, **{**arguments.training(), **training})
        return {"config": config, "training": training, **figures}

    wanted = [{"variant": name, "seed": seed} for name in names for seed in arguments.seeds]
    return finish_runs(arguments, arguments.settings(task), wanted, one_run)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    arguments = parse(ChoicesArguments, __doc__, argv)
    print(table(mean_over_seeds(compare(arguments), by=("variant",), of=FIGURES)))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
