r"""Wrong labels found: every score against cleanlab's confident learning, where people's true mistakes are known.

    python scripts/benchmarks/label_noise.py run --features_dir FEATURES --tasks cifar10n_aggre cifar10n_worse \
        --seeds 0 --output docs/results/label_noise.json --figure docs/images/label_noise.png

Tasks are those of tasks.json with labels of their own (CIFAR-10N, Wei et al. 2022, arXiv:2110.12088); tasks.py --help
says how the files are made. Of a task's training rows the first --rows are taken, K folds are made of them, and heads
trained on the others, temperatures from the task's held-out rows (their labels as noisy), say how likely every given
label is. Rows are then ranked, the most suspicious first:

    given_label      1 - p(given label): cleanlab's "self-confidence", the same ranking
    margin           the largest other probability minus that of the given label: its "normalized margin"
    entropy          of the predictive; aleatoric and epistemic are its parts, of heads that have a posterior
    confident        confident learning (Northcutt et al. 2021, arXiv:1911.00068): the rows that `find_label_issues`
                     names, then the others, both by self-confidence; `named` are how many, with their precision, recall
    adjusted         self-confidence of probabilities from which the class thresholds were subtracted
    weighted_entropy cleanlab's "confidence-weighted entropy"

cleanlab judges the same probabilities, so the table compares scores, head by head. `accuracy` is on clean test rows,
mean of the fold heads. Needs `pip install "bndl-hf[benchmarks]"`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bndl_hf.baselines import Classifier, FeatureTask, PosteriorClassifier, current_defaults
from bndl_hf.plots import measure_curves_plot, save_figure
from bndl_hf.uncertainty import accuracy, ood_aupr, ood_auroc
from bndl_hf.utils.command_line import run
from common import finish_runs, mean_over_seeds, parse_command, table
from declared import Declaration, draw_rows, read_tensors
from on_tasks import TaskArguments, curves, fit_tempered

SCORES = ("given_label", "margin", "entropy", "aleatoric", "epistemic", "confident", "adjusted", "weighted_entropy")
FIGURES = ("auroc", "average_precision", "precision")
# Shares of the rows that somebody looks at, of the figure.
INSPECTED = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass
class RunArguments(TaskArguments):
    """Rank training rows by out-of-fold predictions."""

    tasks: list[str] = field(
        default_factory=lambda: ["cifar10n_aggre", "cifar10n_worse"], metadata={"help": "Tasks with noisy labels."}
    )
    rows: int = field(default=5000, metadata={"help": "Training rows to rank."})
    folds: int = field(default=5, metadata={"help": "Folds: each is predicted by a head of the others."})
    figure: str | None = field(default=None, metadata={"help": "PNG file: wrong labels found by rows inspected."})
    output: str = field(
        default="outputs/bench/label_noise.json", metadata={"help": "JSON file, rewritten after a run."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2 or self.rows < 2 * self.folds:
            raise ValueError(f"--folds {self.folds} of --rows {self.rows} rows: two folds or more of two rows or more.")


def draw_noisy(task: Declaration, arguments: RunArguments, seed: int) -> tuple[FeatureTask, Tensor]:
    """The rows of a task, as many to train on as asked for, and their true labels.

    Raises:
        ValueError: the task learns from the true labels.
    """
    if task.labels is None:
        raise ValueError("The task learns from the true labels: none is wrong. Name one with `labels`, cifar10n_aggre.")
    few = replace(task, train=arguments.rows)
    noisy = draw_rows(few, read_tensors(few, arguments.features_dir), seed).task
    clean = replace(few, labels=None)  # the same rows: the seed alone draws them
    truth = draw_rows(clean, read_tensors(clean, arguments.features_dir), seed).task
    return noisy, truth.train[1]


def out_of_fold(head: str, task: FeatureTask, folds: int, seed: int) -> tuple[Tensor, dict[str, Tensor], float]:
    """What heads say of rows they have not learned from.

    Returns:
        probs [N, C]; aleatoric and epistemic [N] in nats, of a head with a posterior; the mean accuracy on the
        reported rows.
    """
    features, labels = task.train
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)) % folds
    probs = torch.empty(len(labels), task.num_labels)
    parts = {name: torch.empty(len(labels)) for name in ("aleatoric", "epistemic")}
    accuracies, has_parts = [], True
    for number in range(folds):
        left = fold == number
        trained: Classifier = fit_tempered(head, replace(task, train=(features[~left], labels[~left])), seed)
        probs[left] = trained.probs(features[left]).float()
        has_parts = has_parts and isinstance(trained, PosteriorClassifier)
        if isinstance(trained, PosteriorClassifier):
            generator = torch.Generator().manual_seed(seed)
            prediction = trained.layer.predict(features[left], trained.method, generator=generator)
            parts["aleatoric"][left], parts["epistemic"][left] = prediction.aleatoric, prediction.epistemic
        accuracies.append(accuracy(trained.probs(task.reporting[0]), task.reporting[1]))
    has_parts = has_parts and bool(parts["epistemic"].any())  # a point mass knows no epistemic uncertainty
    return probs, parts if has_parts else {}, statistics.mean(accuracies)


def suspicion(probs: Tensor, labels: Tensor, parts: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Scores by name, each [N], higher for more suspicious rows; and the rows confident learning names, [N] bool.

    Raises:
        ImportError: cleanlab is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise ImportError('Confident learning needs cleanlab; install "bndl-hf[benchmarks]".') from error
    given = probs.gather(1, labels[:, None])[:, 0]
    others = probs.scatter(1, labels[:, None], -1).amax(dim=-1)
    numpy_labels, numpy_probs = labels.numpy(), probs.double().numpy()
    named = torch.from_numpy(find_label_issues(numpy_labels, numpy_probs, n_jobs=1))

    def quality(method: str, **more: Any) -> Tensor:
        return torch.from_numpy(get_label_quality_scores(numpy_labels, numpy_probs, method=method, **more))

    scores = {"given_label": 1 - given, "margin": others - given, "entropy": torch.special.entr(probs).sum(dim=-1)}
    scores |= parts
    scores |= {
        "confident": named.double() + (1 - given),
        "adjusted": -quality("self_confidence", adjust_pred_probs=True),
        "weighted_entropy": -quality("confidence_weighted_entropy"),
    }
    return scores, named


def judge(score: Tensor, is_wrong: Tensor) -> dict[str, Any]:
    """How well a score [N] ranks wrong labels [N] first: AUROC, average precision, precision at their true number."""
    found = is_wrong[score.argsort(descending=True, stable=True)].double()
    count, rows = int(is_wrong.sum()), len(is_wrong)
    return {
        "auroc": ood_auroc(score[~is_wrong], score[is_wrong]),
        "average_precision": ood_aupr(score[~is_wrong], score[is_wrong]),
        "precision": found[:count].mean().item(),
        "found": [found[: round(share * rows)].sum().item() / count for share in INSPECTED],
    }


def compare(arguments: RunArguments) -> list[dict[str, Any]]:
    """Every task, head and seed that the output file lacks; all runs."""
    declared = arguments.declarations()

    def one_run(task: str, head: str, seed: int, declaration: dict[str, object]) -> dict[str, Any]:
        rows, truth = draw_noisy(declared[task], arguments, seed)
        is_wrong = rows.train[1] != truth
        probs, parts, clean_accuracy = out_of_fold(head, rows, arguments.folds, seed)
        scores, named = suspicion(probs, rows.train[1], parts)
        hits = int((named & is_wrong).sum())
        return {
            "wrong": int(is_wrong.sum()),
            "accuracy": clean_accuracy,
            "named": int(named.sum()),
            "named_precision": hits / max(1, int(named.sum())),
            "named_recall": hits / int(is_wrong.sum()),
            "scores": {name: judge(score.double(), is_wrong) for name, score in scores.items()},
        }

    settings = {"rows": arguments.rows, "folds": arguments.folds, "defaults": current_defaults()}
    return finish_runs(arguments, settings, arguments.wanted(declared), one_run, summarise)


def as_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run and score."""
    return [
        {"task": one["task"], "head": one["head"], "seed": one["seed"], "score": score, **figures}
        for one in runs
        for score, figures in one["scores"].items()
    ]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: of the heads, and of their scores."""
    of_heads = ("wrong", "accuracy", "named", "named_precision", "named_recall")
    return {
        "heads": mean_over_seeds(runs, ("task", "head"), of_heads),
        "means": mean_over_seeds(as_rows(runs), ("task", "head", "score"), FIGURES),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments: RunArguments = parse_command({"run": RunArguments}, __doc__, argv)
    runs = compare(arguments)
    summary = summarise(runs)
    print("What confident learning names, and the accuracy on clean test rows\n\n" + table(summary["heads"]))
    print("\nRankings\n\n" + table(summary["means"]))
    if arguments.figure:
        first = arguments.heads[0]
        rows = [row for row in as_rows(runs) if row["head"] == first]
        panels = {}
        for task in arguments.tasks:
            points = [
                {**row, "inspected": 100 * share, "share": 100 * found}
                for row in rows
                if row["task"] == task and row["score"] in SCORES[:6]
                for share, found in zip(INSPECTED, row["found"], strict=True)
            ]
            panels[f"{task}: wrong labels found, %"] = curves(points, "score", "inspected", "share")
        title = f"Wrong labels found by the rows inspected, {first}"
        figure = measure_curves_plot(panels, "rows inspected, most suspicious first, %", title, diagonal=panels)
        save_figure(figure, arguments.figure)
        print(f"\nFigure: {arguments.figure}")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
