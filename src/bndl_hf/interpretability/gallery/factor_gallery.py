"""What each factor stands for, in pictures: the images that show it most, where they show it, the classes it feeds.

One pass over a dataset finds the images, a second over those alone finds the places (factor_maps.py); memory does not
grow with the dataset. page.py writes what was found as one HTML page, `plots.factor_sheet` as one picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from bndl_hf.interpretability.choices import check_sees_images
from bndl_hf.interpretability.gallery.cards import FactorCard, FactorGallery
from bndl_hf.interpretability.gallery.page import write_page
from bndl_hf.interpretability.gallery.rows import GalleryRows
from bndl_hf.interpretability.identifiability import IdentifiabilityCheck, IdentifiabilityReport
from bndl_hf.interpretability.maps.factor_maps import factor_maps
from bndl_hf.interpretability.pictures import denormalized_images
from bndl_hf.interpretability.purity import FactorPurity, FactorPurityCheck
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.plots import factor_sheet, save_figure
from bndl_hf.plots.style import figure_class

# Larger pictures are made smaller for the page, in pixels: 512 factors of eight then weigh some 15 MB.
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
) -> FactorGallery:
    """Show every active factor by its top images, as one self-contained page and one picture.

    Writes `gallery.html`, which needs no other file and no network, and `gallery.png`.

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
    seen = _look_at_all(model, rows, top, tolerance, batch_size, progress)
    shown = seen.by_evidence[:max_factors]
    if not shown:
        raise ValueError(
            f"None of the {len(seen.evidence)} factors is above zero on any of {len(rows)} images and feeds a class."
        )
    evidence_share = seen.evidence / seen.evidence.sum().clamp_min(torch.finfo(torch.float64).tiny)
    loadings = model.decision_layer.factor_loadings.detach().cpu()
    cards: list[FactorCard] = []
    methods: set[str] = set()
    for factor in tqdm(shown, desc="Factors", disable=not progress):
        n = int(seen.purity.num_top[factor])
        images = seen.purity.top_images[factor, :n].tolist()
        pixel_values = rows.pixel_values(images).to(model.device)
        found = factor_maps(model, pixel_values, factors=factor)
        methods.add(found.method)
        fed = loadings[factor].sort(descending=True)
        num_fed = int((fed.values > 0).sum())
        cards.append(
            FactorCard(
                factor=factor,
                evidence_share=evidence_share[factor].item(),
                active_share=seen.num_active_images[factor].item() / len(rows),
                classes=[names[c] for c in fed.indices[:num_fed].tolist()],
                loadings=fed.values[:num_fed].tolist(),
                purity=None if rows.label_column is None else seen.purity.purity[factor].item(),
                images=images,
                labels=rows.names_of_labels(images),
                scores=found.scores[:, 0].tolist(),
                **_pictures(processor, pixel_values, found.maps[:, 0]),
            )
        )
    gallery = FactorGallery(
        cards=cards,
        num_active=len(seen.by_evidence),
        num_factors=len(seen.evidence),
        num_images=len(rows),
        purity=None if rows.label_column is None else seen.purity,
        identifiability=seen.identifiability,
        method=", ".join(sorted(methods)),
        page=Path(output_dir) / "gallery.html",
        sheet=Path(output_dir) / "gallery.png",
    )
    on_sheet = cards[:sheet_factors]
    figure = factor_sheet(
        [card.pictures for card in on_sheet],
        [card.maps for card in on_sheet],
        [f"factor {card.factor}" for card in on_sheet],
        [card.classes[:3] for card in on_sheet],
        [card.purity for card in on_sheet],
        title=title,
    )
    write_page(gallery, title)
    save_figure(figure, gallery.sheet)
    return gallery


@dataclass(frozen=True)
class _Seen:
    """What one pass over the dataset found: sums of evidence [K], active images [K], top images."""

    evidence: Tensor
    num_active_images: Tensor
    purity: FactorPurity
    identifiability: IdentifiabilityReport

    @property
    def by_evidence(self) -> list[int]:
        """Active factors, most evidence first; of equal ones the most often active."""
        active = self.identifiability.is_alive.nonzero().flatten().tolist()
        return sorted(active, key=lambda k: (-self.evidence[k].item(), -self.num_active_images[k].item()))


@torch.no_grad()
def _look_at_all(
    model: BNDLPreTrainedModel, rows: GalleryRows, top: int, tolerance: float, batch_size: int, progress: bool
) -> _Seen:
    loadings = model.decision_layer.factor_loadings.detach().double().cpu()  # [K, C]
    evidence = torch.zeros(len(loadings), dtype=torch.float64)
    num_active = torch.zeros(len(loadings), dtype=torch.long)
    purity = FactorPurityCheck(top)
    identifiability = IdentifiabilityCheck(loadings, tolerance)
    is_used = (loadings > 0).any(dim=1)
    model = evaluation_view(model)
    for pixel_values, labels in rows.batches(batch_size, progress):
        output = model(pixel_values.to(model.device))
        scores, answers = output.factor_scores.cpu(), output.logits.argmax(dim=-1).cpu()
        evidence += (scores.double() * loadings.T[answers]).sum(0)
        num_active += (scores > 0).sum(0)
        purity.update(scores * is_used, answers if labels is None else labels)
        identifiability.update(scores)
    return _Seen(evidence, num_active, purity.report(), identifiability.report())


def _pictures(processor: BaseImageProcessor, pixel_values: Tensor, maps: Tensor) -> dict[str, np.ndarray]:
    """What the model saw and maps of the same size, both made smaller where they are large."""
    if (largest := max(maps.shape[-2:])) > _LARGEST_PICTURE:
        size = [round(side * _LARGEST_PICTURE / largest) for side in maps.shape[-2:]]
        pixel_values = F.interpolate(pixel_values.float(), size, mode="area")
        maps = F.interpolate(maps[:, None].float(), size, mode="area")[:, 0]
    return {"pictures": denormalized_images(processor, pixel_values), "maps": maps.float().cpu().numpy()}
