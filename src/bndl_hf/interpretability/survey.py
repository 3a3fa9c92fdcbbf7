"""One pass over a dataset: how much each factor adds to the answers, and the images that show it most.

What a gallery and thumbnails are made of. Memory does not grow with the dataset: of its images only one batch is there
at a time, of each factor only the best so far. A second look, at the images that are shown alone, decodes each of them
once, whatever number of factors it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from bndl_hf.interpretability.identifiability import IdentifiabilityCheck
from bndl_hf.interpretability.maps.evidence_maps import evidence_on_grid
from bndl_hf.interpretability.maps.feature_trace import trace_features
from bndl_hf.interpretability.pictures import denormalized_images
from bndl_hf.interpretability.purity import FactorPurity, FactorPurityCheck
from bndl_hf.interpretability.rows import GalleryRows
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel

# Images of the second look at a time: one may show hundreds of factors, each with a map of its own.
_SHOWN_AT_A_TIME = 16


@dataclass(frozen=True)
class Survey:
    """What one pass over N images found.

    Attributes:
        evidence: [K], the sum over the images of what each factor added to the answer's logit.
        num_active: [K], images on which it is above zero.
        is_alive: [K], whether any image shows it and any class has a loading for it.
        top_images: purity and top images of every factor that feeds a class; judged by the answers where there are no
            labels.
        labels: [N], as the dataset has them; None without labels.
    """

    evidence: Tensor
    num_active: Tensor
    is_alive: Tensor
    top_images: FactorPurity
    labels: Tensor | None

    @property
    def by_evidence(self) -> list[int]:
        """Factors that are alive, most evidence first; of equal ones the most often active."""
        alive = self.is_alive.nonzero().flatten().tolist()
        return sorted(alive, key=lambda k: (-self.evidence[k].item(), -self.num_active[k].item()))

    def images_of(self, factor: int) -> list[int]:
        """Rows of the images that show a factor most, most active first."""
        return self.top_images.top_images[factor, : int(self.top_images.num_top[factor])].tolist()


@torch.no_grad()
def survey(
    model: BNDLPreTrainedModel,
    rows: GalleryRows,
    top: int,
    batch_size: int,
    progress: bool,
    also: IdentifiabilityCheck | None = None,
) -> Survey:
    """Look at every image once; `also` is shown the scores too."""
    loadings = model.decision_layer.factor_loadings.detach().double().cpu()  # [K, C]
    evidence = torch.zeros(len(loadings), dtype=torch.float64)
    num_active = torch.zeros(len(loadings), dtype=torch.long)
    best, is_used = FactorPurityCheck(top), (loadings > 0).any(dim=1)
    seen: list[Tensor] = []
    model = evaluation_view(model)
    for pixel_values, labels in rows.batches(batch_size, progress):
        output = model(pixel_values.to(model.device))
        scores, answers = output.factor_scores.cpu(), output.logits.argmax(dim=-1).cpu()
        evidence += (scores.double() * loadings.T[answers]).sum(0)
        num_active += (scores > 0).sum(0)
        best.update(scores * is_used, answers if labels is None else labels)
        seen += [] if labels is None else [labels]
        if also is not None:
            also.update(scores)
    labels = torch.cat(seen) if seen else None
    return Survey(evidence, num_active, is_used & (num_active > 0), best.report(), labels)


@dataclass
class ShownImages:
    """The images that are shown, each once.

    Attributes:
        pictures: {row: [H, W, 3] uint8}, what the model saw, made smaller where it is large.
        grids: {(factor, row): [h, w]}, evidence of a factor by position.
        scores: {(factor, row): E[theta_k]}.
        methods: of the maps.
        image_size: (height, width) of what the model saw, in pixels.
    """

    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    grids: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    methods: set[str] = field(default_factory=set)
    image_size: tuple[int, int] = (0, 0)


@torch.no_grad()
def look_again(
    model: BNDLPreTrainedModel,
    rows: GalleryRows,
    shown: Mapping[int, Sequence[int]],
    largest: int,
    batch_size: int,
    progress: bool,
    with_maps: bool = True,
) -> ShownImages:
    """Pictures of the images of `shown` and where they show their factors, in one pass over them.

    Args:
        model: a `BNDLForImageClassification`.
        rows: the dataset.
        shown: {factor: rows of its images}.
        largest: side that pictures have at most, in pixels.
        batch_size: images at a time.
        progress: show a progress bar.
        with_maps: False leaves out grids, scores and methods, and the model is not run.
    """
    factors_of: dict[int, list[int]] = {}
    for factor, images in shown.items():
        for image in images:
            factors_of.setdefault(image, []).append(factor)
    found, model, order = ShownImages(), evaluation_view(model), sorted(factors_of)
    step = min(batch_size, _SHOWN_AT_A_TIME)
    for start in tqdm(range(0, len(order), step), desc="Shown images", disable=not progress):
        numbers = order[start : start + step]
        pixel_values = rows.pixel_values(numbers).to(model.device)
        found.image_size = (pixel_values.shape[-2], pixel_values.shape[-1])
        pictures = denormalized_images(rows.processor, _made_smaller(pixel_values, largest))
        pictures = pictures if pictures.ndim == 4 else np.repeat(pictures[..., None], 3, axis=-1)
        found.pictures.update(zip(numbers, pictures, strict=True))
        if with_maps:
            _add_maps(found, model, pixel_values, numbers, [factors_of[number] for number in numbers])
    return found


def _add_maps(
    found: ShownImages, model: BNDLPreTrainedModel, pixel_values: Tensor, numbers: list[int], wanted: list[list[int]]
) -> None:
    """The maps of some images, of the factors `wanted` of each."""
    trace = trace_features(model, pixel_values)
    k = max(map(len, wanted))
    factors = torch.tensor([one + one[:1] * (k - len(one)) for one in wanted], device=trace.features.device)  # [B, k]
    with torch.autocast(device_type=pixel_values.device.type, enabled=False):
        scores = model.decision_layer.score_posterior(trace.features).mean  # [B, K]
        coefficients = scores.new_zeros(*factors.shape, scores.shape[1]).scatter_(2, factors[..., None], 1.0)
        evidence, method = evidence_on_grid(model, trace, scores, coefficients)
    found.methods.add(method)
    evidence, parts = evidence.float().cpu(), scores.gather(1, factors).tolist()
    for b, (number, one) in enumerate(zip(numbers, wanted, strict=True)):
        for i, factor in enumerate(one):
            found.grids[factor, number] = evidence[b, i].clone()  # not a view that keeps the padding alive
            found.scores[factor, number] = parts[b][i]


def _made_smaller(pixel_values: Tensor, largest: int) -> Tensor:
    if (side := max(pixel_values.shape[-2:])) <= largest:
        return pixel_values
    size = [max(1, round(edge * largest / side)) for edge in pixel_values.shape[-2:]]
    return F.interpolate(pixel_values.float(), size, mode="area")
