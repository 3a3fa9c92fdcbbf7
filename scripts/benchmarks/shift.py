r"""Calibration under shift: heads that learned from clean images, on images at five severities of eighteen corruptions.

    python scripts/benchmarks/shift.py features --model_name_or_path MODEL100 --dataset_name CIFAR10 \
        --output FEATURES/cifar10_resnet_cifar100_corrupted.safetensors
    python scripts/benchmarks/shift.py run --features_dir FEATURES --tasks cifar10_5000 --seeds 0 1 2 \
        --output docs/results/shift.json --figure docs/images/shift.png

The corruptions are those of Hendrycks and Dietterich (2019) at the severities of CIFAR-10-C (corruptions.py beside this
script: without frost). `features` draws test images, the same share of every class, runs the classifier over each
corruption and severity, and keeps what is done: the same command goes on where it was stopped. `run` trains heads on
the clean features of a task of tasks.json, fits their temperatures on its clean held-out rows, and judges them on the
corrupted images; severity 0 are the same images as they are. Finished runs are kept, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from bndl_hf import BNDLForImageClassification
from bndl_hf.baselines import Classifier, current_defaults
from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.columns import ROW_COLUMN
from bndl_hf.plots import measure_curves_plot, save_figure
from bndl_hf.uncertainty import (
    accuracy,
    area_under_risk_coverage,
    expected_calibration_error,
    negative_log_likelihood,
)
from bndl_hf.utils.command_line import run
from bndl_hf.utils.files import written_whole
from common import Arguments, finish_runs, heading, mean_over_seeds, parse_command, table
from corruptions import CORRUPTIONS, SEVERITIES, corrupt
from declared import Declaration, draw_rows, read_tensors
from on_tasks import TaskArguments, curves, fit_tempered, side_by_side

MEASURES = {
    "accuracy": accuracy,
    "negative_log_likelihood": negative_log_likelihood,
    "expected_calibration_error": expected_calibration_error,
}
FIGURES = (*MEASURES, "area_under_risk_coverage")
LABELS = {"accuracy": "accuracy", "negative_log_likelihood": "NLL, nats", "expected_calibration_error": "ECE"}


@dataclass(kw_only=True)
class FeaturesArguments(Arguments):
    """Features of corrupted test images."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of the classifier that made the clean ones."})
    dataset_name: str = field(metadata={"help": "Dataset with a test split, as in finetune.py."})
    corruptions: list[str] = field(
        default_factory=lambda: list(CORRUPTIONS), metadata={"help": f"Of: {', '.join(CORRUPTIONS)}."}
    )
    images: int = field(default=2000, metadata={"help": "Test images, the same share of every class (seed 0)."})
    batch_size: int = field(default=250, metadata={"help": "Images at a time."})
    seed: int = field(default=0, metadata={"help": "Of the corruptions."})
    output: str = field(default="outputs/bench/features_corrupted.safetensors", metadata={"help": "File to write."})


@dataclass
class RunArguments(TaskArguments):
    """Train heads on clean features and judge them on corrupted images."""

    tasks: list[str] = field(default_factory=lambda: ["cifar10_5000"], metadata={"help": "Tasks of the file."})
    figure: str | None = field(default=None, metadata={"help": "PNG file: measures by severity, of the first task."})
    output: str = field(default="outputs/bench/shift.json", metadata={"help": "JSON file, rewritten after a run."})


# ---- features ----


def make_features(arguments: FeaturesArguments) -> None:
    """The features of every corruption and severity that the output file lacks, written corruption by corruption."""
    if unknown := [name for name in arguments.corruptions if name not in CORRUPTIONS]:
        raise ValueError(f"--corruptions {' '.join(unknown)}: unknown; there are {', '.join(CORRUPTIONS)}.")
    data = DataArguments(arguments.dataset_name, max_eval_samples=arguments.images)
    dataset = load_image_dataset(data, evaluation_only=True)
    model = BNDLForImageClassification.from_backbone_pretrained(arguments.model_name_or_path, warm_start=False).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    settings = {"seed": str(arguments.seed), "model": Path(arguments.model_name_or_path).name}
    part = dataset.part("test")
    found = {"rows": torch.tensor(part[ROW_COLUMN][:]), "labels": torch.tensor(part[dataset.label_column][:])}
    found |= read_finished_features(arguments.output, settings, found["rows"])

    def features(augmentation: Any) -> Tensor:
        rows = dataset.with_pixel_values("test", processor, augmentation)
        return torch.cat([model.extract_features(batch) for batch in pixel_batches(rows, arguments.batch_size)])

    with torch.inference_mode():
        if "clean" not in found:
            found["clean"] = features("none")
        for name in tqdm(arguments.corruptions, desc="Corruptions", disable=arguments.quiet):
            for severity in range(1, SEVERITIES + 1):
                if f"{name}.{severity}" not in found:
                    found[f"{name}.{severity}"] = features(corruption(name, severity, arguments.seed))
            with written_whole(arguments.output) as partial:
                save_file(found, partial, settings)
    print(f"Wrote {arguments.output}: {len(found['rows'])} images, clean and {len(found) - 3} times corrupted")


def corruption(name: str, severity: int, seed: int) -> Callable[[Image.Image], Image.Image]:
    """One corruption as a function of images, which come in the same order whenever it is made."""
    generator = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    return lambda image: corrupt(image, name, severity, generator)


def pixel_batches(rows: Dataset, batch_size: int) -> Iterator[Tensor]:
    """Pixel values [B, 3, H, W] of all rows, in their order."""
    for start in range(0, len(rows), batch_size):
        yield torch.stack([torch.as_tensor(pixels) for pixels in rows[start : start + batch_size]["pixel_values"]])


def read_finished_features(path: str, settings: dict[str, str], rows: Tensor) -> dict[str, Tensor]:
    """The tensors of an interrupted run; {} where there is no file.

    Raises:
        ValueError: the file is of another classifier, seed or of other images.
    """
    if not Path(path).is_file():
        return {}
    found = load_file(path)
    with safe_open(path, "pt") as file:
        written_with = file.metadata()
    if written_with != settings or not torch.equal(found["rows"], rows):
        raise ValueError(f"{path} is of other images, another classifier or seed; name another --output.")
    return found


# ---- heads ----


def judge(head: Classifier, features: Tensor, labels: Tensor) -> dict[str, float]:
    """The measures `FIGURES` of features [B, D] and labels [B]."""
    probs = head.probs(features)
    confidence, predicted = probs.max(dim=-1)
    ranking = area_under_risk_coverage(confidence, predicted == labels)
    return {name: function(probs, labels) for name, function in MEASURES.items()} | {FIGURES[-1]: ranking}


def read_corrupted(task: Declaration, features_dir: str, test: Tensor) -> dict[str, Tensor]:
    """The corrupted images of a task, in the file beside its features whose name ends in _corrupted.

    Args:
        task: its declaration.
        features_dir: where the file lies.
        test: the clean test features of the task, [N, D].

    Raises:
        ValueError: there is no such file, or its clean images have other features than the task's.
    """
    path = Path(features_dir, task.features)
    path = path.with_name(f"{path.stem}_corrupted{path.suffix}")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; shift.py --help says how to make it.")
    found = load_file(path)
    own = test[found["rows"]] if int(found["rows"].max()) < len(test) else test[:0]
    if own.shape != found["clean"].shape or not torch.allclose(own, found["clean"], atol=1e-2, rtol=1e-2):
        raise ValueError(f"The clean images of {path} have other features than those of {task.features}; make both "
                         "from the same classifier and dataset.")  # fmt: skip
    return found


def compare(arguments: RunArguments) -> list[dict[str, Any]]:
    """Every task, head and seed that the output file lacks; all runs."""
    declared = arguments.declarations()
    for name in declared:
        if declared[name].held_out_from == "test":
            raise ValueError(f"Task {name} holds out test rows, some of which are the corrupted images; name another.")

    def one_run(task: str, head: str, seed: int, declaration: dict[str, object]) -> dict[str, Any]:
        tensors = read_tensors(declared[task], arguments.features_dir)
        corrupted = read_corrupted(declared[task], arguments.features_dir, tensors["test.features"])
        rows = draw_rows(declared[task], tensors, seed).task
        trained = fit_tempered(head, rows, seed)
        labels = corrupted["labels"]
        figures: dict[str, Any] = {name: {} for name in CORRUPTIONS if f"{name}.1" in corrupted}
        for name in figures:
            figures[name] = {str(s): judge(trained, corrupted[f"{name}.{s}"], labels) for s in range(1, SEVERITIES + 1)}
        clean = judge(trained, corrupted["clean"], labels)
        return {"temperature": trained.temperature, "images": len(labels), "clean": clean, "corrupted": figures}

    settings = {"defaults": current_defaults()}
    return finish_runs(arguments, settings, arguments.wanted(declared), one_run, summarise)


def as_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run, corruption and severity; the clean images are severity 0."""
    return [
        {
            **{key: one[key] for key in ("task", "head", "seed")},
            "corruption": name,
            "severity": int(severity),
            **figures,
        }
        for one in runs
        for name, by_severity in {"clean": {"0": one["clean"]}, **one["corrupted"]}.items()
        for severity, figures in by_severity.items()
    ]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: of all corrupted images, by severity over corruptions, by corruption over severities."""
    rows = as_rows(runs)
    corrupted = [row for row in rows if row["severity"]]
    return {
        "mean": mean_over_seeds(corrupted, ("task", "head"), FIGURES),
        "by_severity": mean_over_seeds(rows, ("task", "head", "severity"), FIGURES),
        "by_corruption": mean_over_seeds(corrupted, ("task", "head", "corruption"), FIGURES),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments = parse_command({"features": FeaturesArguments, "run": RunArguments}, __doc__, argv)
    if isinstance(arguments, FeaturesArguments):
        return make_features(arguments)
    runs = compare(arguments)
    summary = summarise(runs)
    print("Mean of all corruptions and severities\n\n" + table(summary["mean"]))
    for measure in MEASURES:
        print(f"\n{heading(measure)} by severity, 0 is clean\n")
        print(table(side_by_side(summary["by_severity"], ("task", "head"), "severity", measure)))
    if arguments.figure:
        rows = [row for row in as_rows(runs) if row["task"] == arguments.tasks[0]]
        panels = {label: curves(rows, "head", "severity", measure) for measure, label in LABELS.items()}
        title = "How a clean head fares as the images get worse"
        save_figure(measure_curves_plot(panels, "severity, 0 is clean", title), arguments.figure)
        print(f"\nFigure: {arguments.figure}")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
