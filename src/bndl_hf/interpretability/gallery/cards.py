"""What a gallery found: a card for every factor, and where page and picture were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bndl_hf.interpretability.identifiability import IdentifiabilityReport
from bndl_hf.interpretability.maps.evidence_maps import POOLED_AVERAGE
from bndl_hf.interpretability.maps.token_grid import spread_over_image
from bndl_hf.interpretability.purity import FactorPurity


@dataclass(frozen=True)
class FactorCard:
    """One factor of a gallery.

    Attributes:
        factor: its index.
        name: the user's (`set_factor_names`), else the classes it feeds.
        evidence_share: its part of everything that all factors added to the answers over the dataset, in [0, 1].
        mean_contribution: what it added to the logit of an answer, on average over the dataset.
        active_share: share of the images on which it is above zero, in [0, 1].
        classes: names of the classes it feeds, largest loading first.
        loadings: E[Phi_kc] of those classes, > 0.
        purity: share of its top images that have their commonest label, in (0, 1]; None without labels.
        images: the top images' rows in the dataset, most active first.
        labels: their labels' names; None without labels.
        scores: E[theta_k] on them, > 0.
        grids: [n, h, w], evidence by position of the backbone's last map (`FactorMaps.evidence`).
        image_size: (height, width) of what the model saw, in pixels.
    """

    factor: int
    name: str
    evidence_share: float
    mean_contribution: float
    active_share: float
    classes: list[str]
    loadings: list[float]
    purity: float | None
    images: list[int]
    labels: list[str] | None
    scores: list[float]
    grids: Tensor
    image_size: tuple[int, int]
    all_pictures: Mapping[int, np.ndarray] = field(repr=False)  # shared by all cards: an image is kept once

    @property
    def pictures(self) -> np.ndarray:
        """What the model saw of the top images, made smaller where that is large, [n, H, W, 3], uint8."""
        return np.stack([self.all_pictures[row] for row in self.images])

    @property
    def maps(self) -> np.ndarray:
        """Where they show the factor, [n, H, W] of the size of `pictures` (`FactorMaps.maps`)."""
        size = self.all_pictures[self.images[0]].shape[:2]
        maps = spread_over_image(self.grids, self.image_size)
        if size != self.image_size:
            maps = F.interpolate(maps[:, None], size, mode="area")[:, 0]
        return maps.to(torch.float32).numpy()


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
        files: the folder of what the page loads as one scrolls; None where all of it is in the page.
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
    files: Path | None

    @property
    def exact(self) -> bool:
        """Whether the maps are exact, not approximations."""
        return self.method == POOLED_AVERAGE
