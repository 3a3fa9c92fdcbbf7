r"""What a gallery of factors costs on photographs, and the thumbnails of its factors.

    python scripts/benchmarks/gallery.py --features caltech101.safetensors --model_name_or_path efficientnet-lite0 \
        --dataset caltech101 --split test --num_images 400 --output docs/results/gallery.json

A layer of each preset is trained on the frozen features of its training images and put onto their backbone; the gallery
is of images drawn at random from a split. The pass is one forward pass of every image, reading included; the page is
everything else: the second look at the images that are shown, the maps, the page and the picture. `--keep` FOLDER keeps
model, thumbnails and gallery in FOLDER/PRESET, and a model that is there already is not trained again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file
from torch.utils.data import Subset
from transformers import AutoImageProcessor, set_seed

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.interpretability import collect_factor_thumbnails, factor_gallery
from bndl_hf.interpretability.rows import GalleryRows
from bndl_hf.interpretability.survey import survey
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.tuned_training import layer_fields, replace_decision_layer
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import seconds_taken
from common import Arguments, parse, table, write_result


@dataclass(kw_only=True)
class GalleryArguments(Arguments):
    """Of which model on which images."""

    features: str = field(metadata={"help": "Features file (heads.py features) with train.features, train.labels."})
    model_name_or_path: str = field(metadata={"help": "Backbone of the features."})
    dataset: str = field(metadata={"help": "Hub id or folder of parquet files with the images."})
    split: str = field(default="test", metadata={"help": "Its split."})
    num_images: int = field(default=400, metadata={"help": "Images drawn at random from it."})
    presets: list[str] = field(
        default_factory=lambda: ["default", "interpretable"], metadata={"help": "Presets of the decision layer."}
    )
    top: int = field(default=8, metadata={"help": "Images a factor is shown by."})
    seed: int = field(default=0, metadata={"help": "Of the layers and of the images."})
    keep: str | None = field(default=None, metadata={"help": "Folder that keeps models and galleries."})
    output: str = field(default="outputs/bench/gallery.json", metadata={"help": "JSON file to write."})


def model_of(arguments: GalleryArguments, preset: str, names: list[str]) -> BNDLForImageClassification:
    """The backbone with a layer of one preset, trained on the features; "interpretable" is tuned, to be sparse."""
    held = load_file(arguments.features)
    set_seed(arguments.seed)
    model = BNDLForImageClassification.from_backbone_pretrained(
        arguments.model_name_or_path, id2label=dict(enumerate(names)), preset=preset
    )
    D = held["train.features"].shape[1]
    layer = fit_decision_layer(
        held["train.features"],
        held["train.labels"],
        BNDLConfig(feature_dim=D, num_labels=len(names), preset=preset),
        tune=preset == "interpretable",
        seed=arguments.seed,
        disable_tqdm=True,
    )
    replace_decision_layer(model, layer_fields(layer.config), layer.state_dict())
    return model.eval()


def measure(arguments: GalleryArguments, preset: str, data: Dataset, folder: Path) -> dict[str, Any]:
    """Seconds and bytes of one preset's gallery and thumbnails."""
    names = data.features["label"].names
    is_kept = (folder / "config.json").is_file()
    model = BNDLForImageClassification.from_pretrained(folder) if is_kept else model_of(arguments, preset, names)
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(arguments.seed))
    images = Subset(data, order[: arguments.num_images].tolist())
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    rows = GalleryRows(images, processor, None, None, names, names)
    pass_seconds = seconds_taken(lambda: survey(model, rows, arguments.top, 64, False), "cpu")
    made: list[Any] = []
    options: dict[str, Any] = {"label_names": names, "progress": not arguments.quiet}
    whole = seconds_taken(
        lambda: made.append(factor_gallery(model, processor, images, folder, top=arguments.top, **options)), "cpu"
    )
    small = seconds_taken(
        lambda: made.append(collect_factor_thumbnails(model, processor, images, progress=not arguments.quiet)), "cpu"
    )
    gallery, thumbnails = made
    thumbnails.save(folder)
    files = [gallery.page] if gallery.files is None else [gallery.page, *gallery.files.iterdir()]
    stored = list((folder / "factor_thumbnails").iterdir())
    return {
        "preset": preset,
        "images": len(images),
        "factors": gallery.num_factors,
        "cards": len(gallery.cards),
        "pass_seconds": round(pass_seconds, 1),
        "page_seconds": round(whole - pass_seconds, 1),
        "files": len(files),
        "page_bytes": gallery.page.stat().st_size,
        "all_bytes": sum(path.stat().st_size for path in files),
        "thumbnail_seconds": round(small, 1),
        "thumbnail_files": len(stored),
        "thumbnail_bytes": sum(path.stat().st_size for path in stored),
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, make the galleries, print."""
    arguments = parse(GalleryArguments, __doc__, argv)
    data = load_dataset(arguments.dataset, split=arguments.split)
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for preset in arguments.presets:
            folder = Path(arguments.keep or scratch) / preset
            folder.mkdir(parents=True, exist_ok=True)
            runs.append(measure(arguments, preset, data, folder))
            settings = {name: getattr(arguments, name) for name in ("num_images", "top", "seed")}
            write_result(arguments, {**settings, "threads": torch.get_num_threads(), "runs": runs})
    print(table(runs))


if __name__ == "__main__":
    run(main)
