"""What each factor stands for, in pictures: the images that show it most, where they show it, the classes it feeds.

One pass over a dataset finds the images, a second over those alone finds the places (survey.py); memory does not grow
with the dataset. page.py writes what was found as an HTML page, `plots.factor_sheet` as one picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor

from bndl_hf.interpretability.choices import check_sees_images
from bndl_hf.interpretability.gallery.cards import FactorCard, FactorGallery
from bndl_hf.interpretability.gallery.page import write_page
from bndl_hf.interpretability.identifiability import IdentifiabilityCheck
from bndl_hf.interpretability.maps.factor_maps import factor_maps
from bndl_hf.interpretability.rows import GalleryRows
from bndl_hf.interpretability.survey import ShownImages, Survey, look_again, survey
from bndl_hf.model.factor_names import factor_names
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.plots import factor_sheet, save_figure
from bndl_hf.plots.style import figure_class

# Larger pictures are made smaller for the page, in pixels: some 5 kB each.
_LARGEST_PICTURE = 128


def factor_gallery(
    model: BNDLPreTrainedModel,
    processor: BaseImageProcessor,
    dataset: Any,
    output_dir: str | os.PathLike[str],
    *,
    top: int = 8,
    max_factors: int | None = None,
    sheet_factors: int = 12,
    image_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    title: str = "What the factors stand for",
    tolerance: float = 1e-3,
    batch_size: int = 64,
    progress: bool = True,
    single_file: bool | None = None,
) -> FactorGallery:
    """Show every active factor by its top images, as a page to search, sort and scroll, and as one picture.

    Writes `gallery.html`, which needs no network and no server, and `gallery.png`. A large gallery keeps its images
    and cards in `gallery_files` beside the page, which loads them as one scrolls; a small one is a single file.

    Args:
        model: a `BNDLForImageClassification`.
        processor: its image processor.
        dataset: rows {image column: a PIL image, label column: a class}, a `datasets.Dataset` or any sequence.
        output_dir: folder to write into.
        top: images a factor is shown by.
        max_factors: show only so many, those with the most evidence over the dataset; None shows every active one.
        sheet_factors: factors in the picture.
        image_column, label_column: None finds the column that holds PIL images, and "label", "labels" or the only
            column that ends in "label".
        label_names: names of the dataset's labels; None takes those of its ClassLabel column, else the model's.
        title: of page and picture.
        tolerance: of `identifiability_report`.
        batch_size: images at a time.
        progress: show progress bars.
        single_file: put everything into the page; None does so up to 100 factors and 4 MB of images.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: for a decision layer alone.
        ValueError: a dataset without images, an unknown column, labels without names, or numbers below 1; a backbone
            without a map of two positions or more; no factor that any image shows and any
            class has a loading for.

    Example:
        >>> gallery = factor_gallery(model, processor, cifar10["test"], "outputs/gallery")
        >>> gallery.page
        PosixPath('outputs/gallery/gallery.html')
    """
    for name, value in (
        ("top", top),
        ("max_factors", max_factors),
        ("batch_size", batch_size),
        ("sheet_factors", sheet_factors),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} shows nothing; pass 1 or more.")
    names = [model.config.id2label[c] for c in range(model.config.num_labels)]
    rows = GalleryRows(dataset, processor, image_column, label_column, label_names, names)
    # What would stop it at the end is tried before the pass over the dataset: a map, a figure, a folder.
    check_sees_images(model, first := rows.pixel_values([0]))
    factor_maps(model, first.to(model.device), factors=0)
    figure_class()
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    identifiability = IdentifiabilityCheck(model.decision_layer.factor_loadings.detach(), tolerance)
    seen = survey(model, rows, top, batch_size, progress, identifiability)
    shown = seen.by_evidence[:max_factors]
    if not shown:
        raise ValueError(
            f"None of the {len(seen.evidence)} factors is above zero on any of {len(rows)} images and feeds a class."
        )
    found = look_again(model, rows, {k: seen.images_of(k) for k in shown}, _LARGEST_PICTURE, batch_size, progress)
    gallery = FactorGallery(
        cards=_cards(model, rows, seen, shown, found, names),
        num_active=len(seen.by_evidence),
        num_factors=len(seen.evidence),
        num_images=len(rows),
        purity=None if seen.labels is None else seen.top_images,
        identifiability=identifiability.report(),
        method=", ".join(sorted(found.methods)),
        page=Path(output_dir) / "gallery.html",
        sheet=Path(output_dir) / "gallery.png",
        files=Path(output_dir) / "gallery_files",
    )
    on_sheet = gallery.cards[:sheet_factors]
    figure = factor_sheet(
        [card.pictures for card in on_sheet],
        [card.maps for card in on_sheet],
        [_heading(card) for card in on_sheet],
        [card.classes[:3] for card in on_sheet],
        [card.purity for card in on_sheet],
        title=title,
    )
    gallery = write_page(gallery, title, single_file)
    save_figure(figure, gallery.sheet)
    return gallery


def _heading(card: FactorCard) -> str:
    """The number, and the user's name where there is one: the sheet says which classes a factor feeds anyway."""
    return f"factor {card.factor}" if card.name.startswith("feeds ") else f"{card.name} ({card.factor})"


def _cards(
    model: BNDLPreTrainedModel,
    rows: GalleryRows,
    seen: Survey,
    shown: list[int],
    found: ShownImages,
    class_names: list[str],
) -> list[FactorCard]:
    """A card for each of the factors `shown`."""
    share = seen.evidence / seen.evidence.sum().clamp_min(torch.finfo(torch.float64).tiny)
    fed = model.decision_layer.factor_loadings.detach().cpu().sort(dim=1, descending=True)  # [K, C]
    counts = (fed.values > 0).sum(dim=1).tolist()
    cards = []
    for factor, name in zip(shown, factor_names(model, shown), strict=True):
        images, n = seen.images_of(factor), counts[factor]
        cards.append(
            FactorCard(
                factor=factor,
                name=name,
                evidence_share=share[factor].item(),
                mean_contribution=seen.evidence[factor].item() / len(rows),
                active_share=seen.num_active[factor].item() / len(rows),
                classes=[class_names[c] for c in fed.indices[factor, :n].tolist()],
                loadings=fed.values[factor, :n].tolist(),
                purity=None if seen.labels is None else seen.top_images.purity[factor].item(),
                images=images,
                labels=None if seen.labels is None else [rows.label_names[c] for c in seen.labels[images].tolist()],
                scores=[found.scores[factor, row] for row in images],
                grids=torch.stack([found.grids[factor, row] for row in images]),
                image_size=found.image_size,
                all_pictures=found.pictures,
            )
        )
    return cards
