r"""Which score finds out-of-distribution images: every score on the tasks of tasks.py, against 1 - max p.

    python scripts/benchmarks/ood.py run                                   # the digits alone need no file: a minute
    python scripts/benchmarks/ood.py run --features_dir FEATURES --seeds 0 1 2 --output docs/results/ood_scores.json

Tasks and features files are those of tasks.py beside this script; its --help says how they are made. Each task brings
its own out-of-distribution images: those of its file, and of the reported images themselves "shuffled_features" (the
entries of each row in random order; of the digits these are the pixels), "tripled_features" (three times the evidence
of every class) and, of the digits, "half_inverted" ones. Really shuffled pixels are taken from the file beside the
features whose name ends in _shuffled, for which the classifier has to run once:

    python scripts/benchmarks/ood.py shuffled --model_name_or_path MODEL100 --dataset_name CIFAR10 \
        --output FEATURES/cifar10_resnet_cifar100_shuffled.safetensors

OpenOOD's conventions (Yang et al. 2022, arXiv:2210.07242), on the sets of a task's file alone, heads as in tasks.py:

    python scripts/benchmarks/ood.py openood --features_dir FEATURES --tasks cifar10_5000 resnet56_5000 caltech101_8 \
        --seeds 0 1 2 --output docs/results/openood.json --figure docs/images/openood.png

Out of distribution is the positive side: AUROC, FPR95 (of the reported images, where 95 % of the others are found),
AUPR-in and AUPR-out (as average precision), each of near sets (cifar100_test of CIFAR-10, background of Caltech-101)
and far ones (mnist). Familiarity and temperatures are fitted as above, for every head.

Heads of `run`: "tuned" (fit_decision_layer(..., tune=True) on the task's held-out rows), "trained" (tune=False) and
"dense" with a temperature. Familiarity is fitted on the rows a head learned from and the task's held-out rows. Finished
runs are kept: the same command goes on where it was stopped, and other tasks, heads or seeds are added to its file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.baselines import FeatureTask, PosteriorClassifier, current_defaults, train_head
from bndl_hf.data.image_dataset import DataArguments, load_image_dataset
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.plots import measure_curves_plot, save_figure, uncertainty_histograms
from bndl_hf.training import fit_decision_layer
from bndl_hf.uncertainty import fit_familiarity, ood_aupr, ood_auroc, ood_fpr95, ood_scores
from bndl_hf.utils.command_line import run
from common import Arguments, finish_runs, mean_over_seeds, parse_command, table
from declared import DIGITS, Declaration, draw_rows, read_declarations, read_tensors, written
from on_tasks import TaskArguments, curves, fit_tempered

HEADS_HERE = ("tuned", "trained", "dense")
BASELINE = "max_probability"
# Columns of the table; the file has all scores.
SHOWN = ("entropy", "tempered_entropy", "energy", "joint", "mutual_information", "mahalanobis", "fisher_statistic")
# Scores of the figure, by what stands above them.
DRAWN = {
    "max_probability": "1 − largest probability",
    "joint": "joint: entropy / evidence",
    "fisher_statistic": "Fisher's statistic",
}


# OpenOOD's measures, out of distribution as the positive side.
OPENOOD: dict[str, Callable[[Tensor, Tensor], float]] = {
    "auroc": ood_auroc,
    "fpr95": ood_fpr95,
    "aupr_in": partial(ood_aupr, positive="in"),
    "aupr_out": ood_aupr,
}
NEAR, FAR = ("cifar100_test", "background"), ("mnist", "noise")
OPENOOD_SHOWN = (
    "max_probability",
    "entropy",
    "energy",
    "mutual_information",
    "mahalanobis",
    "joint",
    "fisher_statistic",
)
ROC_AT = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class RunArguments(Arguments):
    """Judge every out-of-distribution score on every task."""

    output: str = field(default="outputs/bench/ood_scores.json", metadata={"help": "JSON file, rewritten after a run."})
    tasks_file: str = field(
        default=str(Path(__file__).with_name("tasks.json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench", metadata={"help": "Where the files that tasks name lie."})
    tasks: list[str] | None = field(
        default=None, metadata={"help": "Tasks to run. Default: those of the file that learn from the true labels."}
    )
    heads: list[str] = field(
        default_factory=lambda: list(HEADS_HERE), metadata={"help": f"Of: {', '.join(HEADS_HERE)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Each draws rows of its own."})
    figure: str | None = field(
        default=None, metadata={"help": "PNG file: histograms of three scores, by the first task, head and seed."}
    )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.heads if name not in HEADS_HERE]:
            raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {', '.join(HEADS_HERE)}.")


@dataclass
class OpenOODArguments(TaskArguments):
    """Near and far sets by OpenOOD's conventions."""

    figure: str | None = field(default=None, metadata={"help": "PNG file: ROC curves of the first task."})
    output: str = field(default="outputs/bench/openood.json", metadata={"help": "JSON file, rewritten after a run."})


@dataclass(kw_only=True)
class ShuffledArguments(Arguments):
    """Features of test images whose pixels are in random order."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of an image classifier."})
    dataset_name: str = field(metadata={"help": "Dataset with a test split, as in finetune.py."})
    images: int = field(default=1000, metadata={"help": "Images, drawn at random from test (seed 0)."})
    batch_size: int = field(default=64, metadata={"help": "Images at a time."})
    output: str = field(default="outputs/bench/features_shuffled.safetensors", metadata={"help": "File to write."})


def fit_head(head: str, task: FeatureTask, seed: int) -> PosteriorHead:
    """One of `HEADS_HERE`, with its familiarity."""
    features, labels = task.choosing
    if head == "dense":
        classifier = PosteriorClassifier(train_head(head, task, seed, disable_tqdm=True))
        classifier.fit_temperature(features, labels)
        layer = classifier.layer
    else:
        config = BNDLConfig(feature_dim=task.train[0].shape[1], num_labels=task.num_labels)
        held_out: dict[str, Any] = {}
        if head == "tuned":
            held_out = {"tune": True, "eval_features": features, "eval_labels": labels}
        layer = fit_decision_layer(*task.train, config, seed=seed, disable_tqdm=True, **held_out)
    layer.set_familiarity(fit_familiarity(layer, *task.train, features))
    return layer


def outsiders(declaration: Declaration, task: FeatureTask, features_dir: str, seed: int) -> dict[str, Tensor]:
    """Features of out-of-distribution images by name: the file's, and what is made of the reported images."""
    found, inside = dict(task.ood), task.reporting[0]
    order = torch.rand(inside.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    found |= {"shuffled_features": inside.gather(1, order), "tripled_features": 3 * inside}
    if declaration.features == DIGITS:
        half = inside.clone()
        half[:, 32:] = 1 - half[:, 32:]
        return {**found, "half_inverted": half}
    path = Path(features_dir, declaration.features)
    shuffled = path.with_name(f"{path.stem}_shuffled{path.suffix}")
    return {**found, **({"shuffled_pixels": load_file(shuffled)["features"]} if shuffled.is_file() else {})}


def judge(layer: PosteriorHead, inside: Tensor, ood: dict[str, Tensor]) -> dict[str, Any]:
    """AUROC and FPR95 by set and score."""
    scores = ood_scores(layer.predict(inside))
    figures: dict[str, Any] = {"auroc": {}, "fpr95": {}}
    for name, images in ood.items():
        others = ood_scores(layer.predict(images))
        for measure, function in (("auroc", ood_auroc), ("fpr95", ood_fpr95)):
            figures[measure][name] = {score: function(scores[score], others[score]) for score in scores}
    return figures


def draw(layer: PosteriorHead, inside: Tensor, ood: dict[str, Tensor], path: str) -> None:
    """Histograms of the scores `DRAWN` on the reported images and beside them every out-of-distribution set."""
    groups = {name: ood_scores(layer.predict(rows)) for name, rows in {"test": inside, **ood}.items()}
    shown, notes = {}, {}
    for score, words in DRAWN.items():
        shown[words] = {name.replace("_", " "): scores[score] for name, scores in groups.items()}
        aurocs = [f"{ood_auroc(groups['test'][score], groups[name][score]):.2f}" for name in ood]
        notes[words] = "AUROC " + ", ".join(aurocs)
    save_figure(uncertainty_histograms(shown, notes), path)


def compare(arguments: RunArguments) -> dict[str, Any]:
    """Every task, seed and head that the output file lacks; the summary of all."""
    declared = read_declarations(arguments.tasks_file)
    names = [n for n in declared if declared[n].labels is None] if arguments.tasks is None else arguments.tasks
    if unknown := [name for name in names if name not in declared]:
        raise ValueError(f"--tasks {' '.join(unknown)}: unknown; {arguments.tasks_file} has {', '.join(declared)}.")
    there = []
    for name in names:
        missing = [file for file in declared[name].files() if not Path(arguments.features_dir, file).is_file()]
        if missing:
            print(f"{name} is skipped: {arguments.features_dir} lacks {', '.join(missing)}; see tasks.py --help.")
        else:
            there.append(name)
    wanted = [
        {"task": name, "head": head, "seed": seed, "declaration": written(declared[name])}
        for seed in arguments.seeds
        for name in there
        for head in arguments.heads
    ]

    def one_run(task: str, head: str, seed: int, declaration: dict[str, object]) -> dict[str, Any]:
        rows = draw_rows(declared[task], read_tensors(declared[task], arguments.features_dir), seed).task
        layer = fit_head(head, rows, seed)
        ood = outsiders(declared[task], rows, arguments.features_dir, seed)
        if arguments.figure and wanted[0] == {"task": task, "head": head, "seed": seed, "declaration": declaration}:
            draw(layer, rows.reporting[0], ood, arguments.figure)
        return judge(layer, rows.reporting[0], ood)

    return summarise(finish_runs(arguments, {"defaults": current_defaults()}, wanted, one_run, summarise))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of AUROC, by task, head and set; of each score the worst and mean difference to 1 - max p."""
    rows = [
        {"task": one["task"], "head": one["head"], "ood_dataset": name, **aurocs}
        for one in runs
        for name, aurocs in one["auroc"].items()
    ]
    scores = [name for name in rows[0] if name not in ("task", "head", "ood_dataset")]
    means = mean_over_seeds(rows, by=("task", "head", "ood_dataset"), of=scores)
    differences = []
    for head in dict.fromkeys(row["head"] for row in means):
        of_head = [row for row in means if row["head"] == head]
        for score in scores:
            gains = [(row[score] - row[BASELINE], f"{row['task']} {row['ood_dataset']}") for row in of_head]
            worst, where = min(gains)
            mean = sum(gain for gain, _ in gains) / len(gains)
            differences.append({"head": head, "score": score, "mean": mean, "worst": worst, "worst_on": where})
    return {"means": means, "differences_to_max_probability": differences}


def as_table(means: list[dict[str, Any]], head: str) -> list[dict[str, str]]:
    """A row for each task and set: AUROC of 1 - max p, and what every other score adds to it."""
    return [
        {"task": row["task"], "out-of-distribution images": row["ood_dataset"].replace("_", " ")}
        | {"1 - max p": f"{row[BASELINE]:.3f}"}
        | {score.replace("_", " "): f"{row[score] - row[BASELINE]:+.3f}" for score in SHOWN}
        for row in means
        if row["head"] == head
    ]


# ---- OpenOOD's conventions ----


def judge_openood(inside: Tensor, outside: Tensor) -> dict[str, Any]:
    """The four measures of scores [B_in] and [B_out], and the ROC curve at the false-positive rates `ROC_AT`."""
    thresholds = inside.double().sort(descending=True).values
    # A false-positive rate of r flags the r B_in highest images inside; ties with the threshold are not flagged.
    places = [min(round(rate * len(inside)), len(inside) - 1) for rate in ROC_AT]
    flagged = [(outside.double() > thresholds[place]).double().mean().item() for place in places]
    return {**{name: function(inside, outside) for name, function in OPENOOD.items()}, "roc": [*flagged[:-1], 1.0]}


def compare_openood(arguments: OpenOODArguments) -> list[dict[str, Any]]:
    """Every task, head and seed that the output file lacks; all runs."""
    declared = arguments.declarations()

    def one_run(task: str, head: str, seed: int, declaration: dict[str, object]) -> dict[str, Any]:
        rows = draw_rows(declared[task], read_tensors(declared[task], arguments.features_dir), seed).task
        trained = fit_tempered(head, rows, seed)
        if isinstance(trained, PosteriorClassifier):
            trained.layer.set_familiarity(fit_familiarity(trained.layer, *rows.train, rows.choosing[0]))
        inside, sets = trained.ood_scores(rows.reporting[0]), {}
        for name in (name for name in (*NEAR, *FAR) if name in rows.ood):
            outside = trained.ood_scores(rows.ood[name])
            sets[name] = {score: judge_openood(inside[score], outside[score]) for score in inside}
        return {"images": len(rows.reporting[1]), "sets": sets}

    settings = {"near": list(NEAR), "far": list(FAR), "defaults": current_defaults()}
    return finish_runs(arguments, settings, arguments.wanted(declared), one_run, summarise_openood)


def openood_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run, set and score."""
    return [
        {"task": one["task"], "head": one["head"], "seed": one["seed"], "ood_dataset": name}
        | {"kind": "near" if name in NEAR else "far", "score": score, **figures}
        for one in runs
        for name, scores in one["sets"].items()
        for score, figures in scores.items()
    ]


def summarise_openood(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds by task, near or far, head and score."""
    by = ("task", "kind", "ood_dataset", "head", "score")
    return {"means": mean_over_seeds(openood_rows(runs), by, tuple(OPENOOD))}


def draw_openood(rows: list[dict[str, Any]], path: str) -> None:
    """ROC curves of a task, a panel a set: largest probabilities, and Fisher's statistic of the first two heads."""
    panels, heads = {}, list(dict.fromkeys(row["head"] for row in rows))
    for name in dict.fromkeys(row["ood_dataset"] for row in rows):
        points = [
            {
                **row,
                "curve": f"{row['head']}, {'max p' if row['score'] == 'max_probability' else 'Fisher'}",
                "at": 100 * rate,
                "flagged": 100 * found,
            }
            for row in rows
            if row["ood_dataset"] == name
            if row["score"] == "max_probability" or (row["score"] == "fisher_statistic" and row["head"] in heads[:2])
            for rate, found in zip(ROC_AT, row["roc"], strict=True)
        ]
        panels[f"{name} found, %"] = curves(points, "curve", "at", "flagged")
    figure = measure_curves_plot(panels, "images of the task flagged, %", "Near and far", diagonal=panels)
    save_figure(figure, path)


@torch.inference_mode()
def shuffled_pixels(arguments: ShuffledArguments) -> None:
    """Run a classifier over test images whose pixels were put in random order, each image in its own."""
    model = BNDLForImageClassification.from_backbone_pretrained(arguments.model_name_or_path, warm_start=False).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    dataset = load_image_dataset(DataArguments(dataset_name=arguments.dataset_name), evaluation_only=True)
    rows = dataset.with_pixel_values("test", processor)
    generator, found = torch.Generator().manual_seed(0), []
    for index in torch.randperm(len(rows), generator=generator)[: arguments.images].split(arguments.batch_size):
        pixels = torch.stack([torch.as_tensor(rows[i]["pixel_values"]) for i in index.tolist()])  # [B, 3, h, w]
        order = torch.rand(len(pixels), 1, pixels[0, 0].numel(), generator=generator).argsort(dim=-1)
        flat = pixels.flatten(2)
        found.append(model.extract_features(flat.gather(2, order.expand_as(flat)).view_as(pixels)))
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    save_file({"features": torch.cat(found)}, arguments.output)
    print(f"Wrote {arguments.output}: features {list(torch.cat(found).shape)}")


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    kinds = {"run": RunArguments, "openood": OpenOODArguments, "shuffled": ShuffledArguments}
    arguments = parse_command(kinds, __doc__, argv)
    if isinstance(arguments, OpenOODArguments):
        runs = compare_openood(arguments)
        means = [row for row in summarise_openood(runs)["means"] if row["score"] in OPENOOD_SHOWN]
        print(table(sorted(means, key=lambda row: (row["task"], row["kind"], row["ood_dataset"]))))
        if arguments.figure:
            draw_openood([row for row in openood_rows(runs) if row["task"] == arguments.tasks[0]], arguments.figure)
            print(f"\nFigure: {arguments.figure}")
        return print(f"\nWritten to {arguments.output}")
    if isinstance(arguments, ShuffledArguments):
        return shuffled_pixels(arguments)
    summary = compare(arguments)
    for head in dict.fromkeys(row["head"] for row in summary["means"]):
        print(f"\n{head}: AUROC of 1 - max p, and what other scores add to it\n")
        print(table(as_table(summary["means"], head)))
    print("\nDifference to 1 - max p\n\n" + table(summary["differences_to_max_probability"]))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
