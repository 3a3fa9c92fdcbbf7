r"""Every head on every task: one JSON, one table, one figure of what each head loses and where it ranks.

    python scripts/benchmarks/tasks.py run                                   # the digits alone need no file: a minute
    python scripts/benchmarks/tasks.py run --features_dir FEATURES --seeds 0 1 2 3 4
    python scripts/benchmarks/tasks.py run --tasks digits cifar10_200 --heads bndl logreg --output FILE.json

Tasks are entries of scripts/benchmarks/tasks.json: a features file, how many rows to learn from, how many to choose on
and where those come from; add yours there, or name another file with --tasks_file. A task whose files are missing is
skipped, and said. Seeds draw the rows. Finished runs are kept: the same command goes on where it was stopped.

The files, below one --features_dir (MODEL100: a ResNet trained on CIFAR-100, MODEL56: a ResNet-56 of CIFAR-10):

    python scripts/benchmarks/heads.py features --model_name_or_path MODEL100 --dataset_name CIFAR10 \
        --ood cifar100_test=CIFAR100 mnist=MNIST --output FEATURES/cifar10_resnet_cifar100.safetensors
    python scripts/benchmarks/heads.py features --model_name_or_path MODEL56 --dataset_name CIFAR10 \
        --ood cifar100_test=CIFAR100 mnist=MNIST --output FEATURES/cifar10_resnet56.safetensors
    python scripts/benchmarks/heads.py features --model_name_or_path timm/efficientnet_lite0.ra_in1k \
        --dataset_name CALTECH101 --ood background=CALTECH101:background \
        --output FEATURES/caltech101_efficientnet_lite0.safetensors
    python scripts/benchmarks/tasks.py columns --dataset_name CIFAR10N --split train \
        --columns label aggre_label worse_label --output FEATURES/cifar10n.safetensors
    python scripts/benchmarks/tasks.py columns --dataset_name CIFAR10H --split test \
        --columns label human_probs --output FEATURES/cifar10h.safetensors

Everything is chosen on the held-out rows (strengths, temperatures, when to stop) and reported on others. "dense" and
"released" are trained as scripts/benchmarks/heads.py does; "elastic_net" has at most the weights a class of "bndl" for
the same rows, so it needs that run.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor
from tqdm.auto import tqdm

from bndl_hf import BNDLConfig
from bndl_hf.baselines import (
    HEADS,
    Classifier,
    FeatureTask,
    LaplaceClassifier,
    PosteriorClassifier,
    VariationalLastLayer,
    current_defaults,
    elastic_net_path,
    logistic_regression,
    train_head,
)
from bndl_hf.interpretability import explanation_length
from bndl_hf.plots import save_figure, task_comparison_plot
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.arguments import HEAD_DEFAULTS, MIN_STEPS
from bndl_hf.training.layer_training import enough_epochs
from bndl_hf.uncertainty import (
    accuracy,
    area_under_risk_coverage,
    expected_calibration_error,
    fit_familiarity,
    negative_log_likelihood,
    ood_auroc,
)
from bndl_hf.utils.command_line import run
from common import Arguments, finish_runs, parse_command, table
from declared import Declaration, Rows, draw_rows, read_declarations, read_tensors, written
from standings import ENTRIES, means, standings

HEADS_HERE = ("bndl", "interpretable", "dense", "logreg", "vbll", "laplace", "released", "elastic_net")
# The default with more training: what it changes should be little.
LONGER = {"bndl_2x": 2, "bndl_4x": 4}
OURS = ("bndl", "interpretable", *LONGER)
# Columns of the tables that are printed; the JSON has all.
SHOWN = (
    *("task", "head", "accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage"),
    *("tempered_negative_log_likelihood", "tempered_temperature", "ood_max_probability", "ood_best", "ood_best_score"),
    *("weights_per_class", "evidence_share", "gap_share", "fit_seconds"),
)
PEOPLE = (
    *("task", "head", "human_entropy_spearman", "human_cross_entropy"),
    *("tempered_human_entropy_spearman", "tempered_human_cross_entropy"),
)
TITLE = "Excess NLL over the better of logreg + T and dense + T"


@dataclass
class RunArguments(Arguments):
    """Train and judge every head on every task."""

    output: str = field(default="outputs/bench/tasks.json", metadata={"help": "JSON file, rewritten after a run."})
    figure: str | None = field(default=None, metadata={"help": "PNG file. Default: beside the JSON."})
    tasks_file: str = field(
        default=str(Path(__file__).with_suffix(".json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench", metadata={"help": "Where the files that tasks name lie."})
    tasks: list[str] | None = field(default=None, metadata={"help": "Tasks to run. Default: all of the file."})
    heads: list[str] = field(
        default_factory=lambda: list(HEADS_HERE),
        metadata={"help": f"Of: {', '.join(HEADS_HERE)}; {' and '.join(LONGER)}, the default with more training."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Each draws rows of its own."})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.heads if name not in (*HEADS_HERE, *LONGER)]:
            known = ", ".join((*HEADS_HERE, *LONGER))
            raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {known}.")


@dataclass(kw_only=True)
class ColumnsArguments(Arguments):
    """Write columns of a dataset that lie row by row with a features file: noisy labels, people's answers."""

    dataset_name: str = field(metadata={"help": "Hub id or folder of parquet files."})
    columns: list[str] = field(metadata={"help": "Columns of numbers; label, the true class, must be one of them."})
    split: str = field(default="train", metadata={"help": "Split to read."})
    output: str = field(default="outputs/bench/columns.safetensors", metadata={"help": "File to write."})


# ---- heads ----


def fit_bndl(task: FeatureTask, seed: int, preset: str = "default", times: int = 1) -> PosteriorClassifier:
    """This library's head as `fit_decision_layer` gives it, tuned on the choosing rows, with its familiarity.

    With `times` > 1 the search starts with that many times the steps (few images) or epochs (many).
    """
    config = BNDLConfig(preset=preset, feature_dim=task.train[0].shape[1], num_labels=task.num_labels)
    features, labels = task.choosing
    longer: dict[str, Any] = {}
    if times > 1:
        epochs, batch_size = HEAD_DEFAULTS["num_train_epochs"], HEAD_DEFAULTS["per_device_train_batch_size"]
        few = enough_epochs(len(task.train[1]), batch_size, epochs, MIN_STEPS) > epochs
        longer = {"tune_min_steps": times * MIN_STEPS} if few else {"num_train_epochs": times * epochs}
    layer = fit_decision_layer(
        *task.train,
        config,
        tune=True,
        eval_features=features,
        eval_labels=labels,
        seed=seed,
        disable_tqdm=True,
        **longer,
    )
    layer.set_familiarity(fit_familiarity(layer, *task.train, features))
    return PosteriorClassifier(layer)


def fit_recipe(name: str, task: FeatureTask, seed: int) -> PosteriorClassifier:
    """A head of `HEADS` with its own recipe."""
    return PosteriorClassifier(train_head(name, task, seed, disable_tqdm=True), HEADS[name].predict, seed)


def fit_logreg(task: FeatureTask) -> PosteriorClassifier:
    """Logistic regression, strength by held-out likelihood."""
    found = logistic_regression(*task.train, *task.choosing)
    if found.is_at_end:
        logging.getLogger(__name__).warning("The strength %g of logreg is the end of its grid.", found.strength)
    return PosteriorClassifier(found.layer)


def fit_laplace(task: FeatureTask) -> LaplaceClassifier:
    """Last-layer Laplace around the same logistic regression."""
    return LaplaceClassifier(logistic_regression(*task.train, *task.choosing), task.train[0], *task.choosing)


def fit_elastic_net(task: FeatureTask, weights_per_class: float) -> PosteriorClassifier:
    """Of the elastic-net path as far as it has at most so many weights a class, the best on the choosing rows."""
    best: tuple[float, PosteriorClassifier] | None = None
    for _, layer in elastic_net_path(*task.train):
        head = PosteriorClassifier(layer)
        if best is not None and head.weights_per_class > weights_per_class:
            break
        loss = negative_log_likelihood(head.probs(task.choosing[0]), task.choosing[1])
        if best is None or loss < best[0]:
            best = (loss, head)
    assert best is not None
    return best[1]


def fit_head(head: str, task: FeatureTask, seed: int, bndl_weights: Callable[[], float]) -> Classifier:
    """A head of `HEADS_HERE`, trained; `bndl_weights` says how many weights a class the elastic net may have."""
    makers: dict[str, Callable[[], Classifier]] = {
        "bndl": lambda: fit_bndl(task, seed),
        "interpretable": lambda: fit_bndl(task, seed, "interpretable"),
        "logreg": lambda: fit_logreg(task),
        **{name: partial(fit_bndl, task, seed, times=times) for name, times in LONGER.items()},
        "laplace": lambda: fit_laplace(task),
        "vbll": lambda: VariationalLastLayer(*task.train, *task.choosing, seed=seed),
        "elastic_net": lambda: fit_elastic_net(task, bndl_weights()),
    }
    return makers[head]() if head in makers else fit_recipe(head, task, seed)


# ---- judging ----


def judge(head: Classifier, rows: Rows) -> dict[str, Any]:
    """Everything about a trained head on the reported rows, as it comes and with T fitted on the choosing rows."""
    (features, labels), task = rows.task.reporting, rows.task
    figures = judge_probs(head.probs(features), labels, rows.human_probs)
    inside = head.ood_scores(features)
    figures["ood"] = {score: {} for score in inside}
    for name, images in task.ood.items():
        for score, values in head.ood_scores(images).items():
            figures["ood"][score][name] = ood_auroc(inside[score], values)
    figures |= {"weights_per_class": head.weights_per_class, "density": head.density}
    temperature = head.fit_temperature(*task.choosing)
    tempered = judge_probs(head.probs(features), labels, rows.human_probs)
    return {**figures, "tempered": {"temperature": temperature, **tempered}}


def judge_probs(probs: Tensor, labels: Tensor, human_probs: Tensor | None) -> dict[str, Any]:
    """Figures of probabilities [B, C]; beside people's [B, C], how alike both are in what is unclear."""
    confidence, predicted = probs.max(dim=-1)
    figures = {
        "accuracy": accuracy(probs, labels),
        "negative_log_likelihood": negative_log_likelihood(probs, labels),
        "expected_calibration_error": expected_calibration_error(probs, labels),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, predicted == labels),
    }
    if human_probs is not None:
        entropies = [torch.special.entr(values.double()).sum(dim=-1).numpy() for values in (probs, human_probs)]
        log_probs = probs.double().clamp_min(torch.finfo(torch.float32).tiny).log()
        figures["human_entropy_spearman"] = float(spearmanr(*entropies).statistic)
        figures["human_cross_entropy"] = -(human_probs * log_probs).sum(dim=-1).mean().item()
    return figures


# ---- all of it ----


def available(arguments: RunArguments) -> dict[str, Declaration]:
    """The tasks asked for whose files are there; what is skipped is said."""
    declared = read_declarations(arguments.tasks_file)
    names = list(declared) if arguments.tasks is None else arguments.tasks
    if unknown := [name for name in names if name not in declared]:
        raise ValueError(f"--tasks {' '.join(unknown)}: unknown; {arguments.tasks_file} has {', '.join(declared)}.")
    found = {}
    for name in (name for name in declared if name in names):
        task = declared[name]
        missing = [file for file in task.files() if not Path(arguments.features_dir, file).is_file()]
        if missing:
            print(
                f"{name} is skipped: {arguments.features_dir} lacks {', '.join(missing)}; --help says how to make it."
            )
            continue
        found[name] = task
        if task.human_probs and not Path(arguments.features_dir, task.human_probs).is_file():
            print(f"{name} goes without people's answers: {arguments.features_dir} lacks {task.human_probs}.")
    if not found:
        raise ValueError("No task is left; make the files, or add digits to --tasks.")
    return found


def run_tasks(arguments: RunArguments) -> dict[str, Any]:
    """Every task, seed and head that the output file lacks; its whole summary."""
    tasks = available(arguments)
    held: dict[str, dict[str, Tensor]] = {}  # the tensors of one task

    def one_run(
        task: str, head: str, seed: int, declaration: dict[str, object], defaults: dict[str, object] | None = None
    ) -> dict[str, Any]:
        if task not in held:
            held.clear()
            held[task] = read_tensors(tasks[task], arguments.features_dir)
        rows = draw_rows(tasks[task], held[task], seed)
        this = {"task": task, "head": "bndl", "seed": seed, "declaration": declaration, "defaults": defaults}
        started = time.perf_counter()
        trained = fit_head(head, rows.task, seed, lambda: bndl_weights(arguments.output, this))
        seconds = time.perf_counter() - started
        length: dict[str, Any] = {}
        if head in OURS:
            assert isinstance(trained, PosteriorClassifier)
            found = explanation_length(trained.layer, rows.task.reporting[0])
            length = {"evidence_share": found.evidence_share, "gap_share": found.gap_share}
        figures = {**judge(trained, rows), **length, "fit_seconds": seconds}
        if not arguments.quiet:
            loss, tempered = (part["negative_log_likelihood"] for part in (figures, figures["tempered"]))
            tqdm.write(f"{task}, seed {seed}, {head}: NLL {loss:.4f}, with T {tempered:.4f}, {seconds:.1f} s")
        return figures

    def key(name: str, head: str, seed: int) -> dict[str, Any]:
        """What tells a run apart; a change of the default's own settings leaves the rivals' runs as they are."""
        depends = {"defaults": current_defaults()} if head in (*OURS, "elastic_net") else {}
        return {"task": name, "head": head, "seed": seed, "declaration": written(tasks[name]), **depends}

    wanted = [
        key(name, head, seed)
        for name in tasks
        for seed in arguments.seeds
        for head in (*HEADS_HERE, *LONGER)
        if head in arguments.heads
    ]
    declared = {name: written(task) for name, task in read_declarations(arguments.tasks_file).items()}

    def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
        current = [
            one
            for one in runs
            if one["declaration"] == declared.get(one["task"]) and one.get("defaults") in (None, current_defaults())
        ]
        return {"means": means(current), "standings": standings(current)}

    settings = {"head_defaults": HEAD_DEFAULTS}
    return summarise(finish_runs(arguments, settings, wanted, one_run, summarise))


def bndl_weights(output: str, this: dict[str, Any]) -> float:
    """Weights a class that bndl kept for the same rows.

    Raises:
        ValueError: it has not been run.
    """
    runs = json.loads(Path(output).read_text())["runs"] if Path(output).is_file() else []
    for one in runs:
        if all(one.get(name) == value for name, value in this.items()):
            return one["weights_per_class"]
    raise ValueError("elastic_net gets as many weights a class as bndl kept, which was not run; add bndl to --heads.")


def write_columns(arguments: ColumnsArguments) -> None:
    """Read columns of one split and write them as tensors."""
    rows = load_dataset(arguments.dataset_name, split=arguments.split).with_format("torch")
    if missing := [name for name in {"label", *arguments.columns} if name not in rows.column_names]:
        raise ValueError(f"{', '.join(missing)}: no such columns; there are {', '.join(rows.column_names)}.")
    if "label" not in arguments.columns:
        raise ValueError("--columns lacks label, by which the rows are checked against the features; add it.")
    tensors = {name: torch.as_tensor(rows[name][:]).contiguous() for name in arguments.columns}
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.output)
    print(f"Wrote {arguments.output}: " + ", ".join(f"{name} {list(t.shape)}" for name, t in tensors.items()))


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments = parse_command({"run": RunArguments, "columns": ColumnsArguments}, __doc__, argv)
    if isinstance(arguments, ColumnsArguments):
        write_columns(arguments)
        return
    summary = run_tasks(arguments)
    print(table([{name: row[name] for name in SHOWN} for row in summary["means"]]))
    people = [{name: row[name] for name in PEOPLE} for row in summary["means"] if row["human_cross_entropy"] != "-"]
    if people:
        print("\nBeside what people say of the same images:\n" + table(people))
    found = summary["standings"]
    print(f"\nWritten to {arguments.output}")
    if not found["heads"]:
        print("No ranks and no figure: no task has both a rival (logreg or dense) and another head.")
        return
    print(f"\nRanks are over {len(found['tasks'])} tasks that every head here was run on.\n" + table(found["heads"]))
    ratios = {
        name: [found["ratios"][task][name] for task in found["tasks"]] for name in ENTRIES if name in found["entries"]
    }
    ranks = {
        label: {one["head"]: one[key] for one in found["heads"]}
        for label, key in (("NLL", "rank_nll"), ("AURC", "rank_aurc"))
    }
    figure = arguments.figure or str(Path(arguments.output).with_suffix(".png"))
    save_figure(task_comparison_plot(found["tasks"], ratios, ranks, title=TITLE), figure)
    print(f"\nFigure: {figure}")


if __name__ == "__main__":
    run(main)
