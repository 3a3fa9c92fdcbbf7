r"""Write the model cards of `model_cards/`: README.md, results.json, card.json and figures of models trained here.

    python scripts/make_cards.py --cards digits
    python scripts/make_cards.py --models_dir MODELS --datasets_dir DATASETS --features_dir FEATURES
    python scripts/make_cards.py --cards digits --render   # the page again, from results.json and card.json alone

digits is the model of `make demo`. caltech101 and imagenet take DATASETS/caltech101, DATASETS/imagenet-photos and
MODELS/efficientnet-lite0; cifar10 takes DATASETS/cifar10, cifar100 and mnist, and MODELS/resnet-cifar100. The frozen
features are FEATURES/NAME.safetensors, made by `scripts/benchmarks/heads.py features` (scripts/benchmarks/tasks.py says
how). A tuned model is kept in --work_dir and not trained again.

Example images are chosen by a rule (`bndl_hf.interpretability.choose_examples`): the two surest, the two that the model
is most torn on, the two least familiar. Of photographs of others only thumbnails are stored, inside figures, with their
source below; they are no files of the card, so these cards have no widget.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import HfArgumentParser

from bndl_hf.evaluation import judge_answers
from bndl_hf.hub.card import describe_model, split_of, write_card
from bndl_hf.hub.card_facts import CardFacts
from bndl_hf.hub.card_figures import describe_figure, draw_card_figures, fingerprint, weights_per_class
from bndl_hf.hub.eval_results import eval_result_files
from bndl_hf.hub.widget import CardExample, answer_examples, save_examples
from bndl_hf.interpretability import choose_examples, factor_names
from bndl_hf.utils.command_line import HelpFormatter, run
from bndl_hf.utils.results import describe_environment, write_json
from card_models import (  # type: ignore[import-not-found]  # beside this file
    SEED,
    Subject,
    train_caltech,
    train_cifar10,
    train_digits,
    train_imagenet,
)

NAMES = {
    "digits": "bndl-digits-demo",
    "caltech101": "bndl-caltech101-efficientnet-lite0",
    "imagenet": "bndl-efficientnet-lite0",
    "cifar10": "bndl-cifar10-resnet",
}
NUM_FACTORS_SHOWN = 8
_THUMBNAIL, _EXAMPLE = 64, 224  # pixels


@dataclass
class CardArguments:
    """Which cards, from what, and where to."""

    output_dir: str = field(default="model_cards", metadata={"help": "Folder of the cards; one below it for each."})
    cards: list[str] = field(default_factory=lambda: list(NAMES), metadata={"help": f"Of: {', '.join(NAMES)}."})
    models_dir: str | None = field(default=None, metadata={"help": "Folder of the pretrained checkpoints."})
    datasets_dir: str | None = field(default=None, metadata={"help": "Folder of the datasets."})
    features_dir: str | None = field(default=None, metadata={"help": "Folder of the frozen features."})
    work_dir: str = field(
        default="outputs/cards", metadata={"help": "Folder where trained models are kept; they are not trained again."}
    )
    render: bool = field(
        default=False, metadata={"help": "Write the pages again from their results.json; train nothing."}
    )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.cards if name not in NAMES]:
            raise ValueError(f"--cards {' '.join(unknown)}: unknown; cards are {', '.join(NAMES)}.")
        needs = [name for name in self.cards if name != "digits"]
        if needs and not self.render and None in (self.models_dir, self.datasets_dir, self.features_dir):
            raise ValueError(
                f"{', '.join(needs)}: pass --models_dir, --datasets_dir and --features_dir, or --cards digits."
            )


def subject_of(name: str, arguments: CardArguments) -> Subject:
    """The trained model of a card."""
    if name == "digits":
        return train_digits()
    models, data, features = (
        Path(str(one)) for one in (arguments.models_dir, arguments.datasets_dir, arguments.features_dir)
    )
    work = Path(arguments.work_dir)
    lite0 = str(models / "efficientnet-lite0")
    makers: dict[str, Callable[[], Subject]] = {
        "caltech101": lambda: train_caltech(
            lite0, str(data / "caltech101"), features / "caltech101_efficientnet_lite0.safetensors", work / name
        ),
        "imagenet": lambda: train_imagenet(
            lite0, str(data / "imagenet-photos"), features / "imagenet_efficientnet_lite0.safetensors"
        ),
        "cifar10": lambda: train_cifar10(
            str(models / "resnet-cifar100"),
            str(data / "cifar10"),
            features / "cifar10_resnet_cifar100.safetensors",
            work / name,
        ),
    }
    return makers[name]()


@torch.no_grad()
def answers_of(subject: Subject, features: Tensor) -> Any:
    """The exact prediction of features [N, D]."""
    return subject.model.decision_layer.eval().predict(features)


@torch.no_grad()
def top_factors(subject: Subject, prediction: Any) -> tuple[list[dict[str, Any]], Callable[[int], list[int]]]:
    """The factors that carry most of the evidence of all answers, and the three images that show a factor most."""
    layer = subject.model.decision_layer
    parts = layer.scores(subject.features).mean * layer.factor_loadings.T[prediction.predicted_labels]  # [N, K]
    share = parts.sum(0) / parts.sum()
    chosen = share.argsort(descending=True, stable=True)[:NUM_FACTORS_SHOWN].tolist()
    names = factor_names(subject.model, chosen)
    found = [
        {"factor": k, "name": name, "share": round(share[k].item(), 5)} for k, name in zip(chosen, names, strict=True)
    ]
    return found, lambda k: parts[:, k].topk(min(3, len(parts))).indices.tolist()


def make_card(name: str, subject: Subject, folder: Path) -> None:
    """Judge, draw, write."""
    prediction = answers_of(subject, subject.features)
    outsiders = {one: answers_of(subject, features) for one, features in subject.outsiders.items()}
    factors, images_of = top_factors(subject, prediction)
    names = [str(subject.model.config.id2label[c]) for c in range(subject.model.config.num_labels)]
    results: dict[str, Any] = {
        "evaluated_on": f"split '{subject.facts['split']}' of {subject.facts['dataset_name']}",
        **judge_answers(prediction, subject.labels, outsiders, subject.right),
        "weights_per_class": weights_per_class(subject.model),
        "top_factors": factors,
        "seed": SEED,
        "environment": {
            one: words
            for one, words in describe_environment().items()
            if one in ("python", "bndl-hf", "torch", "transformers")
        },
    }
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    chosen = choose_examples(prediction, outsiders)
    pictures = [subject.picture(one.dataset or "test", one.row) for one in chosen]
    titles = []
    for one in chosen:
        truth = names[int(subject.labels[one.row])] if not one.dataset else f"no class here ({one.dataset})"
        titles.append(f"true: {truth}")
    if subject.publishes_examples:
        examples, pictures = save_examples(folder, subject.model, subject.processor, pictures, titles)
    else:
        examples = answer_examples(subject.model, subject.processor, pictures, titles=titles)
    wanted = {factor for one in examples for factor, *_ in one.parts} | {one["factor"] for one in factors}
    thumbnails = {k: [thumbnail(subject.picture("test", row), _THUMBNAIL) for row in images_of(k)] for k in wanted}
    sources = "; ".join(dict.fromkeys(subject.sources.values()))
    figures = draw_card_figures(
        folder,
        results,
        label_names=names,
        examples=examples,
        pictures=[shrunk(one) for one in pictures],
        thumbnails=thumbnails,
        sources=sources,
    )
    write_json(folder / "results.json", results)
    card = {
        "name": NAMES[name],
        "facts": {one: value for one, value in subject.facts.items() if one not in ("split", "license")},
        "stated": {one: subject.facts[one] for one in ("split", "license") if one in subject.facts},
        "training": subject.training,
        "is_whole_benchmark": subject.is_whole_benchmark,
        "sources": sources,
        "figures": [Path(figure.file).stem for figure in figures],
        "drawn_from": fingerprint(results, examples),
        "examples": [one.to_dict() for one in examples],
        "model": describe_model(subject.model),
    }
    write_json(folder / "card.json", card)
    for path, text in rendered(folder).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def rendered(folder: Path) -> dict[str, str]:
    """{file: text} of a card's page and of what the Hub reads beside it, from its results.json and card.json.

    Raises:
        ValueError: the figures were drawn from other results.
    """
    results, card = (json.loads((folder / one).read_text(encoding="utf-8")) for one in ("results.json", "card.json"))
    examples = [CardExample.from_dict(one) for one in card["examples"]]
    if fingerprint(results, examples) != card["drawn_from"]:
        raise ValueError(f"The figures of {folder.name} were drawn from other results; make the card again.")
    figures = [
        describe_figure(one, results, examples, sources=card["sources"], has_thumbnails=True) for one in card["figures"]
    ]
    empty = dict.fromkeys(
        (
            "base_model",
            "finetuned_from",
            "dataset_name",
            "dataset",
            "dataset_tags",
            "dataset_args",
            "tasks",
            "tags",
            "language",
        )
    )
    facts = CardFacts.read(**{**empty, **card["facts"]})
    page = write_card(
        *(card["model"], results, facts),
        figures=figures,
        examples=examples,
        training=card["training"],
        model_id=card["name"],
        **card["stated"],
    )
    split = card["stated"].get("split") or split_of(results)
    ids = facts.dataset_ids if card["is_whole_benchmark"] else []  # a part of a split is no entry of a leaderboard
    return {"README.md": str(page), **eval_result_files(results, ids, split=split)}


def thumbnail(picture: Image.Image, size: int) -> Image.Image:
    """The middle of a picture as a square."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.NEAREST if side <= size else Image.Resampling.LANCZOS)


def shrunk(picture: Image.Image) -> Image.Image:
    """At most 224 pixels a side."""
    picture = picture.copy()
    picture.thumbnail((_EXAMPLE, _EXAMPLE))
    return picture


def main(argv: list[str] | None = None) -> None:
    """Parse the command line; make or render each card."""
    parser = HfArgumentParser(CardArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(1)
    for name in arguments.cards:
        folder = Path(arguments.output_dir) / NAMES[name]
        if arguments.render:
            for path, text in rendered(folder).items():
                (folder / path).write_text(text, encoding="utf-8")
        else:
            make_card(name, subject_of(name, arguments), folder)
        size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
        print(f"{folder}: {size:,} bytes")


if __name__ == "__main__":
    run(main)
