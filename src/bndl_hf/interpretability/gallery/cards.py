"""What a gallery found: a card for every factor, and where page and picture were written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bndl_hf.interpretability.identifiability import IdentifiabilityReport
from bndl_hf.interpretability.maps.evidence_maps import POOLED_AVERAGE
from bndl_hf.interpretability.purity import FactorPurity


@dataclass(frozen=True)
class FactorCard:
    """One factor of a gallery.

    Attributes:
        factor: its index.
        evidence_share: its part of everything that all factors added to the answers over the dataset, in [0, 1].
        active_share: share of the images on which it is above zero, in [0, 1].
        classes: names of the classes it feeds, largest loading first.
        loadings: E[Phi_kc] of those classes, > 0.
        purity: share of its top images that have their commonest label, in (0, 1]; None without labels.
        images: the top images' rows in the dataset, most active first.
        labels: their labels' names; None without labels.
        scores: E[theta_k] on them, > 0.
        pictures: what the model saw of them, [n, H, W, 3], uint8.
        maps: [n, H, W], where they show the factor (`FactorMaps.maps`).
    """

    factor: int
    evidence_share: float
    active_share: float
    classes: list[str]
    loadings: list[float]
    purity: float | None
    images: list[int]
    labels: list[str] | None
    scores: list[float]
    pictures: np.ndarray
    maps: np.ndarray


@dataclass(frozen=True)
class FactorGallery:
    """A gallery and where it was written.

    Attributes:
        cards: the factors shown, most evidence first.
        num_active, num_factors: how many factors any image showed and any class has a loading for, of how many.
        num_images: how many images were looked at.
        purity: of the top images of every factor that some class has a loading for; None without labels.
        identifiability: what Prop. 1 certifies on these images.
        method: of the maps (`FactorMaps.method`).
        page, sheet: the HTML page and the PNG.
    """

    cards: list[FactorCard]
    num_active: int
    num_factors: int
    num_images: int
    purity: FactorPurity | None
    identifiability: IdentifiabilityReport
    method: str
    page: Path
    sheet: Path

    @property
    def exact(self) -> bool:
        """Whether the maps are exact, not approximations."""
        return self.method == POOLED_AVERAGE
