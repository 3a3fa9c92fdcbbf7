r"""Look inside a trained BNDL classifier: what its factors stand for, and what single decisions consist of.

    python scripts/explain.py --model_name_or_path outputs/mine --dataset_name uoft-cs/cifar10 \
        --output_dir outputs/mine/explanations

    python scripts/explain.py --model_name_or_path outputs/mine --dataset_name ./images --images cat.png dog.png --lime

Writes below --output_dir: gallery.html (and, of many factors, the folder gallery_files that it loads), a page with
every active factor, the images that show it most, where they show it, and the classes it feeds; gallery.png, its first
factors as a picture; and explanations.json: sparsity, purity, what Prop. 1 of the paper certifies, and the gallery in
numbers. For each of --images and --rows it adds NAME_contributions.png, what the factors add to the answer's logit;
NAME_gap.png, what they add to the gap to the runner-up; and NAME_maps.png, where the factors of the gap find their
evidence.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification, plots
from bndl_hf.data.classes import load_images_to_judge
from bndl_hf.data.columns import ROW_COLUMN
from bndl_hf.data.image_dataset import DataArguments, ImageDataset
from bndl_hf.data.pixel_values import RGBImages, decode_image
from bndl_hf.interpretability import (
    FactorGallery,
    FactorThumbnails,
    denormalized_images,
    factor_gallery,
    factor_maps,
    factor_names,
    lime_factor,
    load_factor_thumbnails,
    sparsity_report,
)
from bndl_hf.model.evidence import Decomposition
from bndl_hf.utils.command_line import HelpFormatter, recorded_command, run
from bndl_hf.utils.privacy import public_text
from bndl_hf.utils.results import describe_environment, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class ExplainArguments:
    """Which model, which images one by one, and where the explanations go."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of a BNDL classifier and its processor."})
    output_dir: str = field(default="outputs/explain", metadata={"help": "Folder for everything that is written."})
    top: int = field(default=8, metadata={"help": "Images a factor is shown by."})
    max_factors: int | None = field(
        default=None, metadata={"help": "Factors on the page, those with most evidence; default: every active one."}
    )
    sheet_factors: int = field(default=12, metadata={"help": "Factors in gallery.png."})
    images: list[str] = field(default_factory=list, metadata={"help": "Image files to explain one by one."})
    rows: list[int] = field(
        default_factory=list, metadata={"help": "Images of the dataset to explain likewise, by the gallery's numbers."}
    )
    top_k: int = field(default=5, metadata={"help": "Contributions to a decision that are named."})
    lime: bool = field(
        default=False,
        metadata={"help": "Beside the maps, LIME for the largest contribution to each gap (1,000 passes)."},
    )
    tolerance: float = field(
        default=1e-3, metadata={"help": "Share of an image's scores that other factors may have in Prop. 1's window."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images at a time."})
    seed: int = field(default=0, metadata={"help": "Of LIME."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is an accelerator."})


def make_gallery(
    arguments: ExplainArguments, model: Any, processor: Any, data: ImageDataset, test: Dataset
) -> FactorGallery:
    """The gallery of the test part, written to the output folder."""
    return factor_gallery(
        model,
        processor,
        test,
        arguments.output_dir,
        top=arguments.top,
        max_factors=arguments.max_factors,
        sheet_factors=arguments.sheet_factors,
        image_column=data.image_column,
        label_column=data.label_column,
        label_names=data.label_names,
        tolerance=arguments.tolerance,
        batch_size=arguments.batch_size,
    )


def in_numbers(gallery: FactorGallery, model: Any) -> dict[str, Any]:
    """What the gallery says without its pictures, and the two reports."""
    loadings, certified, purity = sparsity_report(model), gallery.identifiability, gallery.purity
    pure = None if purity is None else purity.purity[purity.num_top > 0]
    return {
        "num_images": gallery.num_images,
        "num_factors": gallery.num_factors,
        "num_active_factors": gallery.num_active,
        "maps": {"method": gallery.method, "exact": gallery.exact},
        "sparsity": loadings.sparsity,
        "factors_per_class": loadings.factors_per_class.tolist(),
        "num_unused_factors": int(loadings.is_unused.sum()),
        "purity": None
        if purity is None or pure is None
        else {"mean": pure.mean().item(), "chance": purity.chance, "top": purity.top},
        "identifiability": {
            "selective_window": int(certified.selective_window.sum()),
            "sparsity": int(certified.sparsity.sum()),
            "identifiable": certified.identifiable.nonzero().flatten().tolist(),
            "alive": certified.num_factors,
            "rank": certified.rank,
            "tolerance": certified.tolerance,
        },
        "factors": [
            {
                "factor": card.factor,
                "evidence_share": card.evidence_share,
                "active_share": card.active_share,
                "purity": card.purity,
                "loadings": dict(zip(card.classes, card.loadings, strict=True)),
                "top_images": card.images,
            }
            for card in gallery.cards
        ],
    }


def read_images(paths: list[str], rows: list[int], test: Dataset, image_column: str) -> dict[str, Image.Image]:
    """Files and rows of the dataset, by the name of their figures.

    Raises:
        ValueError: a file is not an image, there is no such row, or two would have figures of one name.
    """
    if outside := [row for row in rows if not 0 <= row < len(test)]:
        raise ValueError(f"--rows {outside[0]} is not there; the dataset has rows 0 to {len(test) - 1}.")
    images = {f"row{row}": test[row][image_column] for row in rows}
    for path in paths:
        if Path(path).stem in images:
            raise ValueError(f"--images has two files called {Path(path).stem}; rename one, or explain them in turn.")
        try:
            images[Path(path).stem] = decode_image({"path": path, "bytes": None}, path)
        except ValueError as error:
            raise ValueError(f"--images {path} cannot be read as an image: {error.__cause__}") from error
    return images


def explain_image(name: str, image: Image.Image, arguments: ExplainArguments, model: Any, processor: Any) -> list[Path]:
    """Print what one decision consists of, and draw its contributions and where they lie."""
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    top_k = min(arguments.top_k, model.config.num_factors)
    prediction = model.predict(pixel_values)
    why = model.explain(pixel_values, top_k=top_k, against="runner_up")
    names, labels = model.config.id2label, factor_names(model)
    answer, other = names[why.target.item()], names[why.contrast.against.item()]
    surety = "certain" if prediction.is_certain.item() else "uncertain"
    print(f"\n{name}: {answer} with {prediction.probs.max():.1%}, {surety} (p = {prediction.p_value.item():.2g})")
    for factor, contribution, std, share in zip(
        why.factors[0].tolist(), why.contributions[0], why.contribution_std[0], why.share[0], strict=True
    ):
        print(f"  factor {factor:<5}{contribution:8.2f} +- {std:.2f}{share:8.1%}  {labels[factor]}")
    thumbnails = load_factor_thumbnails(arguments.model_name_or_path)
    for words, value in (("rest", why.rest), ("bias", why.bias), ("total", why.total)):
        print(f"  {words:<12}{value.item():8.2f}")
    gap = why.contrast
    contributions = waterfall(why, "logit", f"Why {answer}?", labels, thumbnails)
    against = waterfall(gap, "gap", f"Why {answer} and not {other}?", labels, thumbnails)
    num_shown = max(1, int((gap.contributions != 0).sum()))  # silent factors have no place
    found = factor_maps(model, pixel_values, factors=gap.factors[:, :num_shown])
    shown = list(found.maps[0].cpu())
    captions = [
        f"{k}: {contribution:+.2f}, {labels[k]}".replace("-", "−", 1)
        for k, contribution in zip(found.factors[0].tolist(), gap.contributions[0, :num_shown], strict=True)
    ]
    if arguments.lime:
        lime = lime_factor(model, pixel_values, factor=int(found.factors[0, 0]), seed=arguments.seed)
        shown.append(lime.map)
        captions.append(f"LIME, factor {lime.factor}")
    picture = denormalized_images(processor, pixel_values)[0]
    how = "exactly" if found.exact else f"approximately ({found.method.replace('_', ' ')})"
    each = torch.stack([one / one.abs().max().clamp_min(1e-12) for one in shown])  # the captions say how much
    maps = plots.map_overlays(
        picture[None], each[None], [captions], [answer], title=f"Where the factors find their evidence, {how}"
    )
    return [
        plots.save_figure(figure, Path(arguments.output_dir) / f"{name}_{kind}.png")
        for kind, figure in (("contributions", contributions), ("gap", against), ("maps", maps))
    ]


def waterfall(
    why: Decomposition, total: str, title: str, labels: list[str], thumbnails: FactorThumbnails | None
) -> Figure:
    """The figure of one image's logit or gap; `total` is what it is called, `labels` are the names of all factors."""
    factors = why.factors[0].tolist()
    return plots.waterfall_plot(
        why.contributions[0].cpu(),
        why.rest.item(),
        why.bias.item(),
        why.factors[0].cpu(),
        why.contribution_std[0].cpu(),
        why.rest_std.item(),
        why.total_std.item(),
        names=[f"{labels[k]} ({k})" for k in factors],
        total=total,
        title=title,
        thumbnails=None if thumbnails is None else [thumbnails.images(k) for k in factors],
    )


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line, look inside, write and print."""
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(
        (ExplainArguments, DataArguments),
        usage="explain.py --model_name_or_path NAME --dataset_name NAME [any flag below]",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    arguments, data_arguments = parser.parse_args_into_dataclasses(argv)
    name = arguments.model_name_or_path
    device = (None if arguments.use_cpu else torch.accelerator.current_accelerator(True)) or torch.device("cpu")
    model = BNDLForImageClassification.from_pretrained(name).to(device).eval()
    processor = AutoImageProcessor.from_pretrained(name)
    data = load_images_to_judge(data_arguments, model.config, name)
    decode = RGBImages(data.image_column, data.sources["test"], ROW_COLUMN)
    test = data.test.with_transform(decode)  # type: ignore[union-attr]
    images = read_images(arguments.images, arguments.rows, test, data.image_column)
    written = [
        path for stem, image in images.items() for path in explain_image(stem, image, arguments, model, processor)
    ]
    gallery = make_gallery(arguments, model, processor, data, test)
    results = {
        "evaluated_on": public_text(data.sources["test"]),
        **in_numbers(gallery, model),
        "command": recorded_command("scripts/explain.py", argv),
        "environment": {**describe_environment(), "device": device.type},
    }
    write_json(Path(arguments.output_dir) / "explanations.json", results)
    print(f"\n{sparsity_report(model)}")
    if gallery.purity is not None:
        print(gallery.purity)
    print(gallery.identifiability)
    print(
        "\n".join(map(str, [*written, gallery.sheet, Path(arguments.output_dir) / "explanations.json", gallery.page]))
    )
    return results


if __name__ == "__main__":
    run(main)
