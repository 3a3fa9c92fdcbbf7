r"""Whether verdicts keep their promise: many calibration and test splits of the reported rows of a task.

    python scripts/benchmarks/verdicts.py run                                 # the digits alone need no file
    python scripts/benchmarks/verdicts.py run --features_dir FEATURES --tasks resnet56_5000 caltech101_8 \
        --output docs/results/verdicts.json

Tasks and features files are those of tasks.py beside this script, outsiders those of ood.py. A head is fitted once,
with its temperature and familiarity from the held-out rows; each split of the reported rows then fits the verdicts on
one half (`fit_decisions(recalibrate=False)`) and counts on the other what came true. Heads: "tuned" and "dense" with a
temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.verdicts import VERDICTS
from bndl_hf.uncertainty import fit_decisions, ood_auroc, ood_scores, set_coverage
from bndl_hf.utils.command_line import run
from common import Arguments, parse_command, table, write_result
from declared import draw_rows, read_declarations, read_tensors
from ood import fit_head, outsiders

HEADS_HERE = ("tuned", "dense")
SCORES = ("fisher_statistic", "energy", "max_probability")


@dataclass
class RunArguments(Arguments):
    """Split the reported rows many times, fit verdicts on one half, count on the other."""

    output: str = field(default="outputs/bench/verdicts.json", metadata={"help": "JSON file to write."})
    tasks_file: str = field(
        default=str(Path(__file__).with_name("tasks.json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench", metadata={"help": "Where the files that tasks name lie."})
    tasks: list[str] = field(default_factory=lambda: ["digits"], metadata={"help": "Tasks of the file."})
    heads: list[str] = field(
        default_factory=lambda: list(HEADS_HERE), metadata={"help": f"Of: {', '.join(HEADS_HERE)}."}
    )
    splits: int = field(default=100, metadata={"help": "Splits of the reported rows."})
    risk: float = field(default=0.02, metadata={"help": "Accepted share of errors among the sure."})
    delta: float = field(default=0.05, metadata={"help": "Share of splits that may break it."})
    seed: int = field(default=0, metadata={"help": "Of the rows and the fit."})


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to fit on and rows to count on: the two halves of `count` rows in random order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2], order[count // 2 :]


def one_split(layer: PosteriorHead, rows: tuple[Tensor, Tensor], arguments: RunArguments, seed: int) -> dict[str, Any]:
    """What came true on one half of what was promised from the other; leaves the verdicts in the layer."""
    features, labels = rows
    held_out, test = halves(len(labels), seed)
    layer.set_decisions(
        fit_decisions(
            layer,
            (features[held_out], labels[held_out]),
            arguments.risk,
            delta=arguments.delta,
            recalibrate=False,
            progress=False,
        )
    )
    prediction = layer.predict(features[test])
    assert prediction.verdict is not None
    assert prediction.is_familiar is not None
    assert prediction.prediction_sets is not None
    sure = prediction.verdict == VERDICTS.index("sure")
    torn = prediction.verdict == VERDICTS.index("torn")
    wrong = prediction.predicted_labels != labels[test]
    # Binomial, of the torn images on both sides: about as many were calibrated on.
    assert prediction.rule is not None
    assert prediction.rule.coverage is not None
    promised, torn_images = prediction.rule.coverage, max(1, int(torn.sum()))
    band = 1.96 * math.sqrt(promised * (1 - promised) * 2 / torn_images)
    coverage = set_coverage(prediction.prediction_sets[torn], labels[test][torn])  # of torn images, as promised
    return {
        "share_sure": sure.double().mean().item(),
        "risk": wrong[sure].double().mean().item() if sure.any() else 0.0,
        "coverage": coverage,
        "coverage_in_band": float(abs(coverage - promised) <= band),
        "set_size": prediction.prediction_sets[torn].sum(dim=-1).double().mean().item(),
        "familiar": prediction.is_familiar.double().mean().item(),
    }


def judge(layer: PosteriorHead, rows: tuple[Tensor, Tensor], ood: dict[str, Tensor], arguments: RunArguments) -> Any:
    """Means over the splits, and what becomes of outsiders with the verdicts of the last one."""
    splits = [one_split(layer, rows, arguments, seed) for seed in range(arguments.splits)]
    n, delta = len(splits), arguments.delta
    broken = sum(split["risk"] > arguments.risk for split in splits) / n
    inside = ood_scores(layer.predict(rows[0]))
    unfamiliar, auroc = {}, {}
    for name, images in ood.items():
        prediction = layer.predict(images)
        assert prediction.is_familiar is not None
        unfamiliar[name] = (~prediction.is_familiar).double().mean().item()
        others = ood_scores(prediction)
        auroc[name] = {score: ood_auroc(inside[score], others[score]) for score in SCORES}
    return {
        **{name: sum(split[name] for split in splits) / n for name in splits[0]},
        "largest_risk": max(split["risk"] for split in splits),
        "splits_broken": broken,
        "splits_allowed": delta + 3 * math.sqrt(delta * (1 - delta) / n),
        "accuracy": (layer.predict(rows[0]).predicted_labels == rows[1]).double().mean().item(),
        "images": len(rows[1]),
        "unfamiliar": unfamiliar,
        "auroc": auroc,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments: RunArguments = parse_command({"run": RunArguments}, __doc__, argv)
    declared = read_declarations(arguments.tasks_file)
    results: list[dict[str, Any]] = []
    for name in arguments.tasks:
        if name not in declared:
            raise ValueError(f"--tasks {name}: unknown; the file declares {', '.join(declared)}.")
        task = draw_rows(declared[name], read_tensors(declared[name], arguments.features_dir), arguments.seed).task
        ood = outsiders(declared[name], task, arguments.features_dir, arguments.seed)
        for head in arguments.heads:
            layer = fit_head(head, task, arguments.seed)
            results.append({"task": name, "head": head, **judge(layer, task.reporting, ood, arguments)})
            write_result(arguments, {"splits": arguments.splits, "results": results})
    columns = (
        "task",
        "head",
        "share_sure",
        "risk",
        "splits_broken",
        "splits_allowed",
        "coverage",
        "coverage_in_band",
        "familiar",
    )
    print(table([{column: row[column] for column in columns} for row in results]))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
