r"""Accuracy by uncertainty decile, the paper's Fig. 2, for several heads on the same frozen features.

    python scripts/benchmarks/deciles.py --features cifar10_resnet56.safetensors --seeds 0 1 2 \
        --output docs/results/deciles_cifar10_resnet56.json

Every head and seed is trained on the features (heads.py features). The reported images are sorted once by the entropy
of the answer, once by the p-value of the paper's test (S = 20 draws, the two likeliest classes), and cut into ten
groups. A head without a posterior has one p-value for all images: every group then has the accuracy of all of them.
Finished runs are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from bndl_hf.baselines import HEADS, train_head
from bndl_hf.uncertainty import accuracy_by_uncertainty_decile
from bndl_hf.utils.command_line import run
from common import HeadsArguments, finish_runs, mean_over_seeds, parse, table

SCORES = ("entropy", "p_value")


@dataclass
class DecilesArguments(HeadsArguments):
    """Which heads to sort the images by."""

    heads: list[str] = field(
        default_factory=lambda: ["dense", "mc_dropout", "belief_matching", "bndl"],
        metadata={"help": f"Decision layers, of: {', '.join(HEADS)}."},
    )
    output: str = field(default="outputs/bench/deciles.json", metadata={"help": "JSON file, rewritten after a run."})


def compare(arguments: DecilesArguments) -> list[dict[str, Any]]:
    """Every head and seed: accuracy and mean uncertainty of ten groups, least uncertain first."""
    task = arguments.task()

    def one_run(head: str, seed: int) -> dict[str, Any]:
        layer = train_head(head, task, seed, **arguments.training())
        features, labels = task.reporting
        generator = torch.Generator().manual_seed(seed)
        prediction = layer.predict(features, HEADS[head].predict, generator=generator)
        correct = prediction.predicted_labels == labels
        found: dict[str, Any] = {"accuracy": correct.float().mean().item()}
        for score, values in (("entropy", prediction.total), ("p_value", prediction.p_value)):
            groups = accuracy_by_uncertainty_decile(values, correct)
            found[score] = {"accuracy": groups.accuracy.tolist(), "uncertainty": groups.uncertainty.tolist()}
            found[score] |= {"first": groups.accuracy[0].item(), "last": groups.accuracy[-1].item()}
        return found

    return finish_runs(arguments, arguments.settings(task), arguments.head_and_seed(), one_run)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print and draw."""
    arguments = parse(DecilesArguments, __doc__, argv)
    runs = compare(arguments)
    ends = [f"{score}_{end}" for score in SCORES for end in ("first", "last")]
    print(table(mean_over_seeds(runs, ("head",), ["accuracy", *ends])))
    print(f"Written to {arguments.output}")


if __name__ == "__main__":
    run(main)
