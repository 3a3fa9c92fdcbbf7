"""Example images of a card: what the model answers to them, and the `widget:` entries that show it on the model page.

The Hub shows a widget's `output` for any model, hosted or not. So that these are the model's real scores, they are
those of the very file that is published: an image is stored first, small and without its metadata, and then answered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers import BaseImageProcessor

from bndl_hf.hub.card_facts import one_line
from bndl_hf.model.factor_names import factor_names
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.verdicts import VERDICTS

EXAMPLES_FOLDER = "examples"
MAX_EXAMPLES = 12
_MAX_SIDE = 512  # pixels of a published example


@dataclass(frozen=True)
class CardExample:
    """What a model says about one image.

    Attributes:
        title: what the image is, one line.
        label: the answer.
        probability: of it, a fraction.
        verdict: one of `VERDICTS`; None where the model has no decisions.
        sentence: the answer with verdict and reason (`BNDLPrediction.describe`).
        scores: ((class, probability), ...), most probable first.
        prediction_set: classes of the conformal set, most probable first; empty where there is none.
        parts: ((factor, its name, contribution), ...) of the answer's logit, largest first.
        rest: what all other factors add to it.
        bias: of the class.
        file: path in the repository; None where the image is not published by itself.
    """

    title: str
    label: str
    probability: float
    verdict: str | None
    sentence: str
    scores: tuple[tuple[str, float], ...]
    prediction_set: tuple[str, ...]
    parts: tuple[tuple[int, str, float], ...]
    rest: float
    bias: float
    file: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CardExample:
        """The example that `to_dict` wrote."""
        lists = {name: tuple(tuple(one) for one in values[name]) for name in ("scores", "parts")}
        return cls(**{**values, **lists, "prediction_set": tuple(values["prediction_set"])})


def answer_examples(
    model: BNDLForImageClassification,
    processor: BaseImageProcessor,
    images: Sequence[Image.Image | str | os.PathLike[str]],
    *,
    titles: Sequence[str] | None = None,
    top_k: int = 3,
    num_parts: int = 4,
) -> list[CardExample]:
    """The model's answers to some images, as a card shows them.

    Args:
        model: the classifier.
        processor: its image processor.
        images: PIL images or files.
        titles: one line for each; None counts them.
        top_k: classes with their probabilities.
        num_parts: parts of the answer.

    Raises:
        ValueError: not a title for each image.
        OSError: a file is not an image.

    Example:
        >>> examples = answer_examples(model, processor, ["parrot.png"], titles=["a photograph"])
    """
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give each one, or none.")
    if not images:
        return []
    pictures = [open_example(image) for image in images]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"].to(model.device)
    was_training = model.training
    model.eval()
    prediction = model.predict(pixel_values=pixel_values)
    count = min(num_parts, model.config.num_factors)
    evidence = model.explain(pixel_values=pixel_values, target=prediction.predicted_labels, top_k=count)
    model.train(was_training)
    id2label = model.config.id2label
    sentences = prediction.describe(id2label)
    probs = prediction.probs.float().cpu()
    examples = []
    for row, sentence in enumerate(sentences):
        order = probs[row].argsort(descending=True, stable=True).tolist()
        inside = (
            set()
            if prediction.prediction_sets is None
            else set(prediction.prediction_sets[row].nonzero()[:, 0].tolist())
        )
        factors = evidence.factors[row].tolist()
        values = evidence.contributions[row].tolist()
        examples.append(
            CardExample(
                title=one_line(titles[row]) if titles is not None else f"Example {row + 1}",
                label=str(id2label[order[0]]),
                probability=round(probs[row, order[0]].item(), 6),
                verdict=None if prediction.verdict is None else VERDICTS[int(prediction.verdict[row])],
                sentence=one_line(sentence),
                scores=tuple((str(id2label[c]), round(probs[row, c].item(), 6)) for c in order[:top_k]),
                prediction_set=tuple(str(id2label[c]) for c in order if c in inside),
                parts=tuple(
                    (factor, name, round(value, 4))
                    for factor, name, value in zip(factors, factor_names(model, factors), values, strict=True)
                ),
                rest=round(evidence.rest[row].item(), 4),
                bias=round(evidence.bias[row].item(), 4),
            )
        )
    return examples


def open_example(image: Image.Image | str | os.PathLike[str]) -> Image.Image:
    """RGB, upright, and nothing but its pixels."""
    if isinstance(image, Image.Image):
        return Image.fromarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    with Image.open(image) as opened:
        return Image.fromarray(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")))


def save_examples(
    folder: Path,
    model: BNDLForImageClassification,
    processor: BaseImageProcessor,
    images: Sequence[Image.Image | str | os.PathLike[str]],
    titles: Sequence[str] | None = None,
) -> tuple[list[CardExample], list[Image.Image]]:
    """Store images as examples/example-N.png, at most 512 pixels a side, and answer what was stored.

    Returns:
        The examples with their files, and the stored pictures.

    Raises:
        ValueError: there are more than `MAX_EXAMPLES`, or not a title for each.
    """
    if len(images) > MAX_EXAMPLES:
        raise ValueError(f"examples are {len(images)} images; a card shows at most {MAX_EXAMPLES}: choose some.")
    pictures, files = [], []
    if images:
        (folder / EXAMPLES_FOLDER).mkdir(exist_ok=True)
    for number, image in enumerate(images, start=1):
        picture = open_example(image)
        picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
        files.append(f"{EXAMPLES_FOLDER}/example-{number}.png")
        picture.save(folder / files[-1], optimize=True)
        pictures.append(picture)
    answered = answer_examples(model, processor, pictures, titles=titles)
    return [CardExample(**{**vars(one), "file": file}) for one, file in zip(answered, files, strict=True)], pictures


def widget_entries(examples: Sequence[CardExample]) -> list[dict[str, Any]]:
    """The card's `widget:`, of the examples that are published: src, example_title and output."""
    return [
        {
            "src": example.file,
            "example_title": one_line(example.title),
            "output": [{"label": label, "score": score} for label, score in example.scores],
        }
        for example in examples
        if example.file is not None
    ]
