r"""LIME and Grad-CAM of the factor behind an answer, the paper's way (App. A.1): one figure of photographs each.

    python scripts/benchmarks/photo_maps.py --features caltech101_efficientnet_lite0.safetensors \
        --model_name_or_path efficientnet-lite0 --dataset_name caltech101 --output docs/results/photo_maps.json \
        --lime_figure docs/images/lime.png --gradcam_figure docs/images/gradcam.png

Every head is trained on the features (heads.py features, of the same backbone). What is explained of each photograph is
the factor with the largest part theta_k Phi_kc of the answer's logit: with LIME, of which the ten super-pixels of
largest weight are shown, and with Grad-CAM. Photographs are test rows at equal distances, or --rows. Finished runs are
kept; the figures are drawn anew.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from bndl_hf import BNDLForImageClassification
from bndl_hf.baselines import HEADS, FeatureTask, train_head
from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.interpretability import (
    LimeExplanation,
    denormalized_images,
    gradcam,
    lime_factor,
    map_agreement,
)
from bndl_hf.plots import map_overlays, save_figure
from bndl_hf.utils.command_line import run
from common import HeadsArguments, finish_runs, mean_over_seeds, parse, table

MEASURED = ("is_right", "share", "lime_r2", "lime_area", "rank_correlation")


@dataclass(kw_only=True)
class PhotoMapsArguments(HeadsArguments):
    """Which heads, on which photographs."""

    model_name_or_path: str = field(metadata={"help": "Backbone of the features."})
    dataset_name: str = field(metadata={"help": "Photographs: the test part is looked at, as in finetune.py."})
    heads: list[str] = field(
        default_factory=lambda: ["dense", "bndl"], metadata={"help": f"Decision layers, of: {', '.join(HEADS)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of the trainings."})
    num_photos: int = field(default=4, metadata={"help": "Photographs, at equal distances in the test part."})
    rows: list[int] = field(default_factory=list, metadata={"help": "Rows of the test part instead."})
    num_samples: int = field(default=1000, metadata={"help": "Of LIME: times super-pixels are hidden."})
    source: str = field(default="", metadata={"help": "Whose photographs they are, written above the figures."})
    output: str = field(default="outputs/bench/photo_maps.json", metadata={"help": "JSON file, rewritten after a run."})
    lime_figure: str | None = field(default=None, metadata={"help": "PNG file to draw; default: beside the JSON file."})
    gradcam_figure: str | None = field(default=None, metadata={"help": "Likewise."})


@dataclass(frozen=True)
class Photo:
    """A test photograph as the backbone reads it."""

    row: int
    pixel_values: Tensor  # [channels, H, W]
    label: int


@dataclass(frozen=True)
class Explained:
    """What two methods say about the factor behind an answer."""

    answer: int
    factor: int
    share: float  # of the answer's logit, bias aside
    lime: LimeExplanation
    gradcam: Tensor  # [H, W]


def read_photos(arguments: PhotoMapsArguments, processor: Any) -> tuple[list[Photo], list[str]]:
    """The photographs and the names of the classes.

    Raises:
        ValueError: a row that there is not.
    """
    data = load_image_dataset(DataArguments(arguments.dataset_name), evaluation_only=True)
    found = data.with_pixel_values("test", processor)
    count = arguments.num_photos
    rows = arguments.rows or [(2 * place + 1) * len(found) // (2 * count) for place in range(count)]
    if outside := [row for row in rows if not 0 <= row < len(found)]:
        raise ValueError(f"--rows {outside[0]} is not there; the test part has rows 0 to {len(found) - 1}.")
    photos = [Photo(row, found[row]["pixel_values"], int(found[row]["labels"])) for row in rows]
    return photos, list(data.label_names or ())


def with_head(model: BNDLForImageClassification, head: str, task: FeatureTask, seed: int, **training: Any) -> None:
    """Give the model a decision layer trained on frozen features."""
    model.register_module("decision_layer", train_head(head, task, seed, **training).eval())


def explain(model: BNDLForImageClassification, photo: Photo, num_samples: int, progress: bool) -> Explained:
    """The largest part of the answer's logit, and where LIME and Grad-CAM find it."""
    pixels = photo.pixel_values[None]
    why = model.explain(pixels, top_k=1)
    factor = int(why.factors[0, 0])
    lime = lime_factor(model, pixels, factor, num_samples=num_samples, progress=progress)
    share = (why.contributions[0, 0] / (why.total - why.bias)[0]).item()
    return Explained(int(why.target[0]), factor, share, lime, gradcam(model, pixels, factor=factor)[0].detach())


def judge(found: Explained, photo: Photo, names: list[str]) -> dict[str, Any]:
    """Figures of one photograph: how linear LIME finds the factor, and whether the two methods agree."""
    return {
        "answer": names[found.answer],
        "label": names[photo.label],
        "is_right": float(found.answer == photo.label),
        "factor": found.factor,
        "share": found.share,
        "lime_r2": found.lime.r2,
        "lime_area": found.lime.top_segments().float().mean().item(),
        "rank_correlation": map_agreement(found.lime.map[None], found.gradcam[None]).rank_correlation.item(),
    }


def shown_maps(kind: str, found: Explained) -> Tensor:
    """What a figure shows of a photograph, [H, W]: LIME's ten largest super-pixels, or Grad-CAM."""
    return found.lime.map.clamp_min(0) * found.lime.top_segments() if kind == "lime" else found.gradcam


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, explain, print and draw."""
    arguments = parse(PhotoMapsArguments, __doc__, argv)
    task = arguments.task()
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    photos, names = read_photos(arguments, processor)
    model = BNDLForImageClassification.from_backbone_pretrained(
        arguments.model_name_or_path, warm_start=False, id2label=dict(enumerate(names))
    ).eval()

    @functools.cache
    def explained(head: str, seed: int) -> list[Explained]:
        with_head(model, head, task, seed, **arguments.training())
        return [explain(model, photo, arguments.num_samples, not arguments.quiet) for photo in photos]

    def one_run(head: str, seed: int, row: int) -> dict[str, Any]:
        place = [photo.row for photo in photos].index(row)
        return judge(explained(head, seed)[place], photos[place], names)

    settings = {
        **arguments.settings(task),
        "model": Path(arguments.model_name_or_path).name,
        "num_samples": arguments.num_samples,
    }
    wanted = [{**one, "row": photo.row} for one in arguments.head_and_seed() for photo in photos]
    runs = finish_runs(arguments, settings, wanted, one_run)
    print(table(mean_over_seeds(runs, ("head",), MEASURED)))
    pictures = denormalized_images(processor, torch.stack([photo.pixel_values for photo in photos]))
    for kind, words in (("lime", "LIME, ten super-pixels"), ("gradcam", "Grad-CAM")):
        path = Path(getattr(arguments, f"{kind}_figure") or Path(arguments.output).with_name(f"{kind}.png"))
        print(f"Drawn: {draw(kind, words, arguments, explained, photos, pictures, names, path)}")
    print(f"Written to {arguments.output}")


def draw(
    kind: str,
    words: str,
    arguments: PhotoMapsArguments,
    explained: Callable[[str, int], list[Explained]],
    photos: list[Photo],
    pictures: Any,
    names: list[str],
    path: Path,
) -> Path:
    """One figure: a row for each photograph, a column for each head, of the first seed; every map in its own scale."""
    maps, captions = [], []
    for place, _ in enumerate(photos):
        found = [explained(head, arguments.seeds[0])[place] for head in arguments.heads]
        each = [shown_maps(kind, one) for one in found]
        maps.append(torch.stack([one / one.max().clamp_min(1e-12) for one in each]))
        captions.append(
            [
                f"{head}: {names[one.answer]}, factor {one.factor}, {one.share:.0%} of it"
                for head, one in zip(arguments.heads, found, strict=True)
            ]
        )
    lines = [f"{words}: the largest part of the answer", *([arguments.source] if arguments.source else [])]
    title = "\n".join(textwrap.fill(line, 15 * (len(arguments.heads) + 1)) for line in lines)
    labels = [names[photo.label] for photo in photos]
    return save_figure(map_overlays(pictures, torch.stack(maps), captions, labels, title, dpi=120), path)


if __name__ == "__main__":
    run(main)
