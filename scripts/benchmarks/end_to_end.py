r"""Train whole classifiers, with this library's decision layer and with their own linear head, and compare them.

    python scripts/benchmarks/end_to_end.py --model_name_or_path MODEL --dataset_name DATA --seeds 0 1 2 \
        --output FILE.json
    python scripts/benchmarks/end_to_end.py --dataset_name DATA --image_size 32 --learning_rate 1e-3 --epochs 12 \
        --seeds 0 1 2 --output FILE.json

The first fine-tunes a classifier, the second trains a small ResNet from scratch. "plain" is the transformers classifier
with its own linear head under transformers' Trainer, "bndl" the same backbone under BNDLTrainer: the same images, order
of images, schedule and seed. Its layer is the one finetune.py would take, unless --config says another. Some training
images are held out; both heads get a temperature from them, and both are judged on test images as they come and with
it. Finished runs are kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PrinterCallback,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.baselines import Classifier, LogProbsClassifier, PosteriorClassifier, current_defaults
from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import ImageDataset, collate, make_image_processor
from bndl_hf.training import suit_whole_training
from bndl_hf.uncertainty import (
    accuracy,
    area_under_risk_coverage,
    expected_calibration_error,
    negative_log_likelihood,
)
from bndl_hf.utils.command_line import run
from common import Arguments, finish_runs, json_object, mean_over_seeds, parse, table

HEADS = ("plain", "bndl")
# Trained from scratch in minutes on a processor core.
SMALL_RESNET: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 1, 1],
    "layer_type": "basic",
}
FIGURES = (
    *("accuracy", "area_under_risk_coverage", "negative_log_likelihood", "expected_calibration_error"),
    *("tempered_negative_log_likelihood", "tempered_expected_calibration_error"),
)
JUDGED = ("validation", "test")


@dataclass(kw_only=True)
class EndToEndArguments(Arguments):
    """Images, architecture and schedule, the same for both heads; what goes to this library's layer alone."""

    dataset_name: str = field(metadata={"help": "The images, as in finetune.py."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a classifier to fine-tune; none trains from scratch."}
    )
    image_size: int = field(default=32, metadata={"help": "From scratch: side of the images in pixels."})
    heads: list[str] = field(default_factory=lambda: list(HEADS), metadata={"help": f"Of: {', '.join(HEADS)}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the trainings."})
    train_images: int = field(default=10_800, metadata={"help": "Images to train on, the same share of every class."})
    validation_fraction: float = field(
        default=0.024, metadata={"help": "Share of the training split that temperatures are fitted on."}
    )
    test_images: int = field(default=5000, metadata={"help": "Test images to report on."})
    augmentation: str = field(default="flip", metadata={"help": "Random changes to training images."})
    epochs: float = field(default=4.0, metadata={"help": "Passes over the training images."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Of the backbone, and of the plain head."})
    batch_size: int = field(default=128, metadata={"help": "Images of a step."})
    bf16: bool = field(
        default=False,
        metadata={"help": "Backbone in bfloat16, channels last: several times faster on some processors."},
    )
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    training: str = field(default="{}", metadata={"help": "Fields of BNDLTrainingArguments for bndl alone, as JSON."})
    config: str = field(default="{}", metadata={"help": "Fields of BNDLConfig for bndl alone, as JSON."})
    output: str = field(default="outputs/bench/end_to_end.json", metadata={"help": "JSON file, rewritten after a run."})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.heads if name not in HEADS]:
            raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {', '.join(HEADS)}.")

    def settings(self) -> dict[str, Any]:
        """What finished runs must agree in to be kept."""
        same = ("image_size", "train_images", "validation_fraction", "test_images", "augmentation", "epochs")
        return {
            "model": "from scratch" if self.model_name_or_path is None else self.model_name_or_path.split("/")[-1],
            **{name: getattr(self, name) for name in (*same, "learning_rate", "batch_size", "bf16")},
            "training": json_object(self.training, "--training"),
            "config": json_object(self.config, "--config"),
            "defaults": current_defaults(),
        }


class LogitsClassifier(LogProbsClassifier):
    """A plain classifier as a comparison sees it; its rows are logits [B, C]."""

    def log_probs(self, features: Tensor) -> Tensor:
        """log softmax of the logits, [B, C]."""
        return features.log_softmax(dim=-1)


class Comparison:
    """Trains and judges one head with one seed at a time."""

    def __init__(self, arguments: EndToEndArguments) -> None:
        self.arguments = arguments

    @cached_property
    def dataset(self) -> ImageDataset:
        """Images to train on, to fit temperatures on and to report; read when the first run needs them."""
        wanted = self.arguments
        data = DataArguments(
            dataset_name=wanted.dataset_name,
            validation_fraction=wanted.validation_fraction,
            max_train_samples=wanted.train_images,
            max_eval_samples=wanted.test_images,
        )
        return load_image_dataset(data)

    @cached_property
    def processor(self) -> Any:
        """The image processor, the classifier's own where there is one."""
        name = self.arguments.model_name_or_path
        return (
            make_image_processor(self.arguments.image_size)
            if name is None
            else AutoImageProcessor.from_pretrained(name)
        )

    def run(self, head: str, seed: int) -> dict[str, Any]:
        """Figures on held-out and on test images, as they come and with the temperature of the held-out ones."""
        set_seed(seed)
        model = self.make_model(head)
        if self.arguments.bf16:
            model.to(memory_format=torch.channels_last)
        started = time.perf_counter()
        self.train(model, head, seed)
        seconds = time.perf_counter() - started
        model.eval()
        read = model.extract_features if head == "bndl" else lambda pixels: model(pixel_values=pixels).logits
        rows = {part: self.read_rows(read, part) for part in JUDGED}
        classifier: Classifier = LogitsClassifier()
        if head == "bndl":
            classifier = PosteriorClassifier(model.decision_layer.cpu())  # where the rows are
        as_it_comes = {part: figures(classifier.probs(x), y) for part, (x, y) in rows.items()}
        temperature = classifier.fit_temperature(*rows["validation"])
        tempered = {part: figures(classifier.probs(x), y) for part, (x, y) in rows.items()}
        return {
            **as_it_comes["test"],
            "tempered": {k: tempered["test"][k] for k in ("negative_log_likelihood", "expected_calibration_error")},
            "temperature": temperature,
            "validation": {**as_it_comes["validation"], "tempered": tempered["validation"]},
            "density": classifier.density,
            "train_seconds": seconds,
        }

    def make_model(self, head: str) -> Any:
        """A classifier with a new head for the classes of the dataset."""
        id2label = dict(enumerate(self.dataset.label_names))
        name, fields = self.arguments.model_name_or_path, json_object(self.arguments.config, "--config")
        label2id = {label: place for place, label in id2label.items()}
        if name is None:
            resnet = ResNetConfig(**SMALL_RESNET, id2label=id2label, label2id=label2id)
            if head == "plain":
                return ResNetForImageClassification(resnet)
            model: Any = BNDLForImageClassification(
                BNDLConfig.from_backbone_config(resnet, id2label=id2label, **fields)
            )
        elif head == "plain":
            return AutoModelForImageClassification.from_pretrained(
                name, id2label=id2label, label2id=label2id, ignore_mismatched_sizes=True
            )
        else:
            model = BNDLForImageClassification.from_backbone_pretrained(
                name, id2label=id2label, warm_start=False, **fields
            )
        suit_whole_training(model, fields)  # as finetune.py does
        return model

    def train(self, model: Any, head: str, seed: int) -> None:
        """Train in place, with the Trainer that goes with the head."""
        wanted = self.arguments
        with tempfile.TemporaryDirectory() as scratch:
            same: dict[str, Any] = {
                "output_dir": scratch,
                "num_train_epochs": wanted.epochs,
                "learning_rate": wanted.learning_rate,
                "per_device_train_batch_size": wanted.batch_size,
                "lr_scheduler_type": "cosine",
                "save_strategy": "no",
                "logging_strategy": "epoch",
                "report_to": "none",
                "seed": seed,
                "bf16": wanted.bf16,
                "use_cpu": not torch.cuda.is_available(),  # bfloat16 on a processor has to be asked for
                "remove_unused_columns": False,
                "dataloader_num_workers": wanted.num_workers,
                "dataloader_persistent_workers": wanted.num_workers > 0,
                "disable_tqdm": wanted.quiet,
            }
            kind: type[Trainer] = Trainer
            settings = TrainingArguments(**same) if head == "plain" else None
            if settings is None:
                kind = BNDLTrainer
                settings = BNDLTrainingArguments(**{**same, **json_object(wanted.training, "--training")})
            dataset = self.dataset.with_pixel_values("train", self.processor, augmentation=wanted.augmentation)
            trainer = kind(model=model, args=settings, train_dataset=dataset, data_collator=collate)
            if wanted.quiet:
                trainer.remove_callback(PrinterCallback)
            trainer.train()

    @torch.no_grad()
    def read_rows(self, read: Callable[[Tensor], Tensor], part: str) -> tuple[Tensor, Tensor]:
        """What a head's `Classifier` takes of every image of `part`, and the labels."""
        loader = DataLoader(self.dataset.with_pixel_values(part, self.processor), batch_size=256, collate_fn=collate)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows, labels = [], []
        for batch in loader:
            with torch.autocast(device, torch.bfloat16, enabled=self.arguments.bf16):
                rows.append(read(batch["pixel_values"].to(device)).float().cpu())
            labels.append(batch["labels"])
        return torch.cat(rows), torch.cat(labels)


def figures(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, area under the risk-coverage curve, negative log-likelihood (nats) and calibration error."""
    confidence, predicted = probs.max(dim=-1)
    return {
        "accuracy": accuracy(probs, labels),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, predicted == labels),
        "negative_log_likelihood": negative_log_likelihood(probs, labels),
        "expected_calibration_error": expected_calibration_error(probs, labels),
    }


def main(argv: list[str] | None = None) -> None:
    """Every head with every seed, and the table of their means."""
    arguments = parse(EndToEndArguments, __doc__, argv)
    wanted = [{"head": head, "seed": seed} for seed in arguments.seeds for head in arguments.heads]
    runs = finish_runs(arguments, arguments.settings(), wanted, Comparison(arguments).run)
    print(table(mean_over_seeds(runs, by=("head",), of=(*FIGURES, "temperature", "density", "train_seconds"))))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
