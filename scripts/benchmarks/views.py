r"""Do several views of each training image help on frozen features? The trained layer, and logistic regression.

    python scripts/benchmarks/views.py --model_name_or_path MODEL100 --dataset_name CIFAR10 --tasks cifar10_1000 \
        --augmentations crop_flip flip --features_dir FEATURES --output docs/results/views.json

The rows of a task, its plain features and those of its test images are those of scripts/benchmarks/tasks.py; the views
beside the plain one are computed here, as finetune.py --feature_views does, and kept. "trained" is the default layer
on `FeatureViews`, an epoch one view of each image, with as many steps whatever the number of views;
"trained_400_steps" the same for that long; "logistic" an L2 logistic regression on all rows of all views, its strength
chosen on the held-out rows; "tuned" what the search of finetune.py makes of them. All are judged on plain test images,
as they come and with a temperature from the held-out rows. Seeds draw the rows. Finished runs are kept, also those of
other tasks, models and augmentations: call it once for each model.
"""

from __future__ import annotations

import copy
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, PrinterCallback, set_seed

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.baselines import FeatureTask, current_defaults, logistic_regression
from bndl_hf.baselines.comparison import judge_head
from bndl_hf.data.image_dataset import DataArguments, collate, load_image_dataset
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training import HEAD_DEFAULTS, FeatureViews
from bndl_hf.training.arguments import MIN_STEPS as TUNED_STEPS
from bndl_hf.training.feature_views import OneView
from bndl_hf.training.features import cached_features
from bndl_hf.training.layer_training import enough_epochs, learning_rate_of
from bndl_hf.training.trained_layer import Training
from bndl_hf.training.tuning import tune_decision_layer
from bndl_hf.utils.command_line import run
from common import Arguments, finish_runs, mean_over_seeds, parse, table
from declared import Declaration, draw_rows, read_declarations, read_tensors, written

# Steps of the trained layer at least: as finetune.py trains it, and as fit_decision_layer(tune=True) does.
MIN_STEPS = {"trained": 0, "trained_400_steps": 400}
HEADS_HERE = (*MIN_STEPS, "logistic", "tuned")
MEASURES = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage")


@dataclass
class ViewsArguments(Arguments):
    """Which images, which views of them."""

    model_name_or_path: str = field(default="", metadata={"help": "The backbone: the one of the features files."})
    dataset_name: str = field(default="", metadata={"help": "The images: the dataset of the features files."})
    tasks: list[str] = field(default_factory=lambda: ["caltech101_8"], metadata={"help": "Entries of --tasks_file."})
    tasks_file: str = field(
        default=str(Path(__file__).with_name("tasks.json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench/features", metadata={"help": "Where the features files are."})
    views: list[int] = field(default_factory=lambda: [1, 2, 4], metadata={"help": "V, numbers of views to compare."})
    augmentations: list[str] = field(
        default_factory=lambda: ["crop_flip"], metadata={"help": "Random changes, as finetune.py's --augmentation."}
    )
    heads: list[str] = field(
        default_factory=lambda: list(HEADS_HERE), metadata={"help": f"What is trained, of: {', '.join(HEADS_HERE)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Draw the rows; of the trainings."})
    feature_cache_dir: str = field(
        default="outputs/bench/view_features", metadata={"help": "Where views are kept, so that none is made twice."}
    )
    output: str = field(default="outputs/bench/views.json", metadata={"help": "JSON file to write."})


class Views:
    """The views of the rows of a task, computed where they are not kept."""

    def __init__(self, arguments: ViewsArguments) -> None:
        self.arguments = arguments
        self.dataset = load_image_dataset(DataArguments(arguments.dataset_name))
        self.processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
        self.model: Any = BNDLForImageClassification.from_backbone_pretrained(arguments.model_name_or_path)
        self.training = BNDLTrainingArguments(
            output_dir=arguments.feature_cache_dir,
            use_cpu=True,
            report_to="none",
            freeze_backbone=True,
            cache_features=True,
            feature_batch_size=64,
            feature_cache_dir=arguments.feature_cache_dir,
        )

    def of(self, plain: tuple[Tensor, Tensor], rows: Tensor, augmentation: str, count: int) -> Tensor:
        """Features [V, N, D] of `rows` of the training images, whose plain ones and labels are known.

        Raises:
            ValueError: the features file is of other images.
        """
        dataset = self.dataset.with_pixel_values("train", self.processor, augmentation=augmentation).select(rows)
        views = [plain[0]]
        for number in range(1, count):
            found = cached_features(
                self.model, OneView(dataset, number), self.training, self.processor, collate, f"view {number}"
            )
            if not torch.equal(found.labels, plain[1]):
                raise ValueError(
                    f"The labels of {self.arguments.dataset_name} are not those of the features file row by row; make "
                    "it from this dataset: heads.py features."
                )
            views.append(found.features)
        return torch.stack(views)


def train_on_views(
    views: Tensor, labels: Tensor, config: BNDLConfig, min_steps: int, seed: int, **training_arguments: Any
) -> PosteriorHead:
    """A layer trained for `min_steps` or more on views [V, N, D]."""
    set_seed(seed)
    layer = BNDLDecisionLayer(copy.deepcopy(config))
    steps_an_epoch = math.ceil(len(labels) / HEAD_DEFAULTS["per_device_train_batch_size"])
    epochs = max(HEAD_DEFAULTS["num_train_epochs"], math.ceil(min_steps / steps_an_epoch))
    settings = {**HEAD_DEFAULTS, "num_train_epochs": epochs, "save_strategy": "no", "logging_strategy": "no"}
    settings |= training_arguments
    with tempfile.TemporaryDirectory() as scratch:
        training = BNDLTrainingArguments(scratch, use_cpu=True, disable_tqdm=True, seed=seed, **settings)
        trainer = BNDLTrainer(layer, training, train_dataset=FeatureViews(views, labels, seed))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return layer.eval()


def tune_on_views(
    views: Tensor, labels: Tensor, config: BNDLConfig, choosing: tuple[Tensor, Tensor], seed: int
) -> PosteriorHead:
    """What a search makes of views [V, N, D] and held-out rows."""
    rate = learning_rate_of(len(labels))

    def fit(features: Tensor, _: Tensor, config: BNDLConfig, epochs: float) -> PosteriorHead:
        rows = features.unflatten(0, (len(views), -1))  # held-out rows are given, so these are all rows
        given = {"num_train_epochs": epochs, "decision_layer_learning_rate": rate}
        return train_on_views(rows, labels, config, TUNED_STEPS, seed, **given)

    epochs, batch_size = HEAD_DEFAULTS["num_train_epochs"], HEAD_DEFAULTS["per_device_train_batch_size"]
    training = Training(fit, lambda _, steps: enough_epochs(len(labels), batch_size, epochs, steps), TUNED_STEPS)
    return tune_decision_layer(views, labels, config, training, choosing, seed)


def rows_of(task: Declaration, tensors: dict[str, Tensor], seed: int) -> Tensor:
    """Which rows of train the task learns from with this seed, [N]."""
    numbered = torch.arange(len(tensors["train.labels"])).double()[:, None]
    return draw_rows(task, {**tensors, "train.features": numbered}, seed).task.train[0][:, 0].long()


def compare_views(arguments: ViewsArguments) -> list[dict[str, Any]]:
    """Every task, augmentation, number of views, head and seed."""
    tasks = read_declarations(arguments.tasks_file)
    if unknown := [name for name in arguments.tasks if name not in tasks]:
        raise ValueError(f"--tasks {' '.join(unknown)}: unknown; {arguments.tasks_file} has {', '.join(tasks)}.")
    if wrong := [name for name in arguments.tasks if tasks[name].classes or tasks[name].labels]:
        raise ValueError(f"--tasks {' '.join(wrong)}: tasks of other labels or of some classes alone have no views.")
    if unknown := [name for name in arguments.heads if name not in HEADS_HERE]:
        raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {', '.join(HEADS_HERE)}.")
    images = Views(arguments)

    def one_run(task: str, augmentation: str, views: int, head: str, seed: int) -> dict[str, Any]:
        tensors = read_tensors(tasks[task], arguments.features_dir)
        rows: FeatureTask = draw_rows(tasks[task], tensors, seed).task
        found = images.of(rows.train, rows_of(tasks[task], tensors, seed), augmentation, views)  # [V, N, D]
        config = BNDLConfig(feature_dim=found.shape[-1], num_labels=rows.num_labels)
        if head == "logistic":
            features, labels, _ = FeatureViews(found, rows.train[1]).all_rows()
            layer: PosteriorHead = logistic_regression(features, labels, *rows.choosing).layer
        elif head == "tuned":
            layer = tune_on_views(found, rows.train[1], config, rows.choosing, seed)
        else:
            layer = train_on_views(found, rows.train[1], config, MIN_STEPS[head], seed)
        figures = judge_head(layer, rows, seed=seed)
        kept = {name: figures[name] for name in MEASURES}
        tempered = {name: figures["tempered"][name] for name in ("temperature", *MEASURES[1:])}
        return {**kept, "tempered": tempered, "rows": written(tasks[task])}

    wanted = [
        {"task": task, "augmentation": augmentation, "views": views, "head": head, "seed": seed}
        for task in arguments.tasks
        for augmentation in arguments.augmentations
        for views in arguments.views
        for head in arguments.heads
        for seed in arguments.seeds
    ]
    return finish_runs(arguments, {"defaults": current_defaults()}, wanted, one_run)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Compare, print the table, and leave the runs in the output file."""
    arguments = parse(ViewsArguments, __doc__, argv)
    torch.set_num_threads(1)
    runs = compare_views(arguments)
    figures = ["accuracy", "negative_log_likelihood", "area_under_risk_coverage", "tempered_negative_log_likelihood"]
    print(table(mean_over_seeds(runs, ("task", "augmentation", "head", "views"), figures)))
    return runs


if __name__ == "__main__":
    run(main)
