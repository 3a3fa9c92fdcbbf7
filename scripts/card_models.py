"""The models that make_cards.py writes cards of: trained on rows that no figure is of, with their verdicts fitted.

Each `train_*` gives a `Subject`: the model, its features of the images it is judged on, and how to get their pictures.
Where frozen features are at hand (`--features_dir`), no image goes through a backbone but for the examples.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, set_seed

from bndl_hf import BNDLForImageClassification, BNDLTrainingArguments
from bndl_hf.data.columns import column_values
from bndl_hf.data.image_dataset import DataArguments, collate, load_image_dataset, make_image_processor, read_splits
from bndl_hf.training import fit_decision_layer, fit_posterior
from bndl_hf.training.features import cached_features
from bndl_hf.training.tuned_training import layer_fields, replace_decision_layer
from bndl_hf.uncertainty import fit_decisions
from demo import DemoArguments, build_model, train  # type: ignore[import-not-found]  # beside this file

SEED = 0


@dataclass
class Subject:
    """A trained model and the images it is judged on.

    Attributes:
        model, processor: the model, with its decisions fitted.
        features, labels: [N, D] and [N], of images that nothing was fitted on.
        outsiders: name -> features of images of none of the classes, [M, D].
        picture: (set, row) -> the image as it is stored; the set is "test" or a name of `outsiders`.
        facts: of the card: dataset_name, base_model, split, license, ...
        training: rows of the card's table of training, {what: text}.
        sources: where pictures come from, {set: one line}.
        right: [N, C] bool, every class that is right, where there can be several.
        is_whole_benchmark: whether the images are a whole split of the dataset, as others report it.
        publishes_examples: whether the example images may be published as files of their own.
    """

    model: BNDLForImageClassification
    processor: BaseImageProcessor
    features: Tensor
    labels: Tensor
    picture: Callable[[str, int], Image.Image]
    facts: dict[str, Any]
    training: dict[str, str]
    sources: dict[str, str]
    outsiders: dict[str, Tensor] = field(default_factory=dict)
    right: Tensor | None = None
    is_whole_benchmark: bool = False
    publishes_examples: bool = False


def in_parts(labels: Tensor, counts: Sequence[int], seed: int = SEED) -> list[Tensor]:
    """Rows for parts of these sizes and, last, the others: drawn at random, the classes as alike as can be."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    parts, left = [], by_class
    for count in counts:
        taken = torch.zeros(len(left), dtype=torch.bool)
        taken[(torch.arange(count, dtype=torch.float64) * len(left) / count).long()] = True
        parts.append(left[taken])
        left = left[~taken]
    return [*parts, left]


def pictures_of(folder: str, sets: Mapping[str, str], column: str | None = None) -> Callable[[str, int], Image.Image]:
    """(set, row) -> picture, of the splits `sets` names."""
    splits = read_splits(folder, None)

    def picture(name: str, row: int) -> Image.Image:
        found = splits[sets[name]][row]
        key = column or next(one for one, value in found.items() if isinstance(value, Image.Image))
        return found[key].convert("RGB")

    return picture


def features_through(model: BNDLForImageClassification, processor: Any, dataset: Any) -> tuple[Tensor, Tensor]:
    """Features and labels of a dataset of pixel values, by a pass through the backbone."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = BNDLTrainingArguments(output_dir=scratch, feature_batch_size=64, report_to="none")
        rows = cached_features(model, dataset, arguments, processor, collate)
        return rows.features.clone(), rows.labels.clone()


def wrapped(path: str, label_names: Sequence[str] | None, preset: str, warm_start: bool = False) -> Any:
    """A checkpoint's backbone with a decision layer, and its processor."""
    names: dict[str, Any] = {}
    if label_names is not None:
        names = {"num_labels": len(label_names), "id2label": dict(enumerate(label_names))}
    names |= {} if warm_start else {"preset": preset}
    model = BNDLForImageClassification.from_backbone_pretrained(path, warm_start=warm_start, **names)
    return model.eval(), AutoImageProcessor.from_pretrained(path)


def fit_frozen(
    model: BNDLForImageClassification,
    train_set: tuple[Tensor, Tensor],
    num_chosen_on: int,
    num_decided_on: int,
    risk: float,
    keep: Path,
) -> tuple[BNDLForImageClassification, dict[str, str]]:
    """The model with its tuned decision layer and verdicts, from rows of one training set, and what it was made with.

    The trained layer is kept in the folder `keep`, and taken from there the next time; decisions are fitted anew.
    """
    features, labels = train_set
    decided, chosen, rest = in_parts(labels, [num_decided_on, num_chosen_on])
    if (keep / "config.json").is_file():
        model = BNDLForImageClassification.from_pretrained(keep)
    else:
        layer = fit_decision_layer(
            *(features[rest], labels[rest], model.config),
            tune=True,
            eval_features=features[chosen],
            eval_labels=labels[chosen],
            seed=SEED,
            disable_tqdm=True,
        )
        replace_decision_layer(model, layer_fields(layer.config), layer.state_dict())
        model.save_pretrained(keep)
    model.eval()
    decisions = fit_decisions(
        model, (features[decided], labels[decided]), risk, training=(features[rest], labels[rest]), progress=False
    )
    model.set_decisions(decisions)
    training = {
        "Backbone": "frozen",
        "Decision layer": f"preset {model.config.preset}, tuned (fit_decision_layer, tune=True), seed {SEED}",
        "Learned from": f"{len(rest):,} images",
        "Chosen on": f"{len(chosen):,} others",
        "Verdicts from": f"{len(decided):,} others: " + " ".join(decisions.notes),
    }
    return model, training


def read_features(file: Path) -> dict[str, Tensor]:
    """A features file, every tensor by its name, features as float32.

    Raises:
        ValueError: it is not there.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not there; make it with scripts/benchmarks/heads.py features, or name its folder.")
    return {name: one.float() if one.is_floating_point() else one for name, one in load_file(file).items()}


def train_digits() -> Subject:
    """The model of `make demo`, trained without a fifth of its images, which its verdicts come from."""
    set_seed(SEED)
    data = load_image_dataset(DataArguments("digits", validation_fraction=0.2))
    processor, model = make_image_processor(32), build_model(data.label_names)
    with tempfile.TemporaryDirectory() as scratch:
        train(model, data.with_pixel_values("train", processor, "shift"), DemoArguments(output_dir=scratch))
    known, held_out, test = (
        features_through(model, processor, data.with_pixel_values(part, processor))
        for part in ("train", "validation", "test")
    )
    decisions = fit_decisions(model, held_out, training=known, progress=False)
    model.set_decisions(decisions)
    rows = data.part("test")

    def picture(name: str, row: int) -> Image.Image:
        return load_picture(rows[row][data.image_column])

    return Subject(
        *(model, processor, *test, picture),
        facts={"dataset_name": "digits", "split": "test", "license": "apache-2.0", "language": "en"},
        training={
            "Backbone": "a ResNet of two basic blocks, trained together with the decision layer",
            "Decision layer": f"preset default, {model.config.num_factors} factors, seed {SEED}",
            "Learned from": f"{len(known[1]):,} images, 20 epochs, shifted by a pixel at random",
            "Verdicts from": f"{len(held_out[1]):,} others: " + " ".join(decisions.notes),
        },
        sources={"test": "UCI ML hand-written digits (scikit-learn), CC BY 4.0"},
        publishes_examples=True,
    )


def load_picture(value: Any) -> Image.Image:
    """A picture as `datasets` stores it, decoded or not."""
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    return Image.open(io.BytesIO(value["bytes"])).convert("RGB")


def train_caltech(
    model_path: str, data_path: str, features: Path, keep: Path, preset: str = "interpretable"
) -> Subject:
    """101 kinds of things on a frozen efficientnet-lite0; photographs of none of them are the unfamiliar ones."""
    tensors = read_features(features)
    label_names = read_splits(data_path, None)["train"].features["label"].names
    model, processor = wrapped(model_path, label_names, preset)
    training_set = tensors["train.features"], tensors["train.labels"]
    model, training = fit_frozen(model, training_set, 300, 600, risk=0.05, keep=keep)
    training |= {"Judged on": "a split of our own, at most 15 photographs a class"}
    source = "Caltech-101 (Fei-Fei, Fergus, Perona 2004), CC BY 4.0"
    return Subject(
        *(model, processor, tensors["test.features"], tensors["test.labels"]),
        pictures_of(data_path, {"test": "test", "background": "background"}),
        facts={
            "dataset_name": "Caltech-101",
            "dataset_tags": "HuggingFaceM4/Caltech-101",
            "base_model": "timm/efficientnet_lite0.ra_in1k",
            "split": "test",
            "language": "en",
        },
        training=training,
        sources={"test": source, "background": source},
        outsiders={"background": tensors["background.features"]},
    )


def train_cifar10(model_path: str, data_path: str, features: Path, keep: Path) -> Subject:
    """CIFAR-10 on a frozen ResNet of CIFAR-100; images of CIFAR-100 and digits are the unfamiliar ones."""
    tensors = read_features(features)
    label_names = read_splits(data_path, None)["train"].features["label"].names
    model, processor = wrapped(model_path, label_names, "default")
    pictures = pictures_of(data_path, {"test": "test"})
    beside = Path(data_path).parent
    others = {
        name: pictures_of(str(beside / folder), {"test": "test"})
        for name, folder in {"CIFAR-100": "cifar100", "MNIST": "mnist"}.items()
    }
    training_set = tensors["train.features"], tensors["train.labels"]
    model, training = fit_frozen(model, training_set, 5000, 5000, risk=0.05, keep=keep)
    return Subject(
        *(model, processor, tensors["test.features"], tensors["test.labels"]),
        lambda name, row: (pictures if name == "test" else others[name])("test", row),
        facts={
            "dataset_name": "uoft-cs/cifar10",
            "base_model": "resnet-cifar100",
            "split": "test",
            "language": "en",
        },
        training=training,
        is_whole_benchmark=True,
        sources={"test": "CIFAR-10 and CIFAR-100 (Krizhevsky 2009)", "MNIST": "MNIST (LeCun et al. 1998)"},
        outsiders={"CIFAR-100": tensors["cifar100_test.features"], "MNIST": tensors["mnist.features"]},
    )


def train_imagenet(model_path: str, data_path: str, features: Path) -> Subject:
    """efficientnet-lite0 as it came, with posterior and verdicts of one half of the photos, judged on the other."""
    tensors = read_features(features)
    rows = read_splits(data_path, None)["validation"]
    model, processor = wrapped(model_path, None, "default", warm_start=True)
    x, y = tensors["features"], tensors["labels"]
    fitted_on, judged = in_parts(y, [len(y) // 2])
    posterior = fit_posterior(model.decision_layer, x[fitted_on], y[fitted_on])
    model.eval()
    decisions = fit_decisions(model, (x[fitted_on], y[fitted_on]), risk=0.05, progress=False)
    model.set_decisions(decisions)
    right = torch.zeros(len(y), model.config.num_labels, dtype=torch.bool)
    for row, classes in enumerate(column_values(rows, "real_labels")):
        right[row, classes] = True
    places = judged.tolist()
    stored = pictures_of(data_path, {"test": "validation"})
    return Subject(
        *(model, processor, x[judged], y[judged]),
        lambda name, row: stored(name, places[row]),
        facts={
            "dataset_name": "ILSVRC/imagenet-1k",
            "base_model": "timm/efficientnet_lite0.ra_in1k",
            "split": "imagenet-photos, an easier selection of the validation",
            "license": "apache-2.0",
            "language": "en",
        },
        training={
            "Backbone": "as it came, ImageNet-1k",
            "Decision layer": f"the old head as it was, without loss of accuracy (warm_start=True), and a posterior "
            f"(fit_posterior): {posterior.density:.0%} of the loadings, temperature {posterior.temperature:.3g}",
            "Learned from": f"no image; posterior and temperature from {len(fitted_on):,} photographs",
            "Verdicts from": "the same: " + " ".join(decisions.notes),
            "Judged on": f"{len(judged):,} other photographs of a selection that is easier than all 50,000 of "
            "validation, of which Google reports 75.1 %",
        },
        sources={"test": "ILSVRC-2012 validation photographs (Russakovsky et al. 2015), rights with their owners"},
        right=right[judged],
    )
