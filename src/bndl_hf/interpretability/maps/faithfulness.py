"""Whether a map shows what the model looks at: take away what it marks, or show nothing else, and see what the model
makes of it (deletion and insertion, Petsiuk et al. 2018, arXiv:1806.07421).

A faithful map makes a factor's score fall at once when its pixels go, and rise at once when they come. How fast is fast
is only known beside a random order, which is what a constant map gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bndl_hf.interpretability.checks import decision_layer_of
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

# Standard deviation of the blur as a share of the shorter side: coarse shapes stay, what a factor could be does not.
_BLUR_SHARE = 1 / 8
_BASELINES = ("blur", "mean")


@dataclass(frozen=True)
class FaithfulnessCurves:
    """What the model makes of images whose pixels go, or come, in the order of a map.

    Attributes:
        replaced: [steps + 1] fractions of the pixels that are gone (deletion) or there (insertion), from 0 to 1.
        deletion: [B, steps + 1] values while the most marked pixels give way to the baseline; begins with the image.
        insertion: [B, steps + 1] values while the most marked pixels come into the baseline; ends with the image.
        deletion_area: [B] mean height of the curve (trapezoids), in the unit of the values; a faithful map's is small.
        insertion_area: [B] likewise; a faithful map's is large.
        baseline: "blur" or "mean".
        seed: of the order among pixels the map marks alike.
    """

    replaced: Tensor
    deletion: Tensor
    insertion: Tensor
    deletion_area: Tensor
    insertion_area: Tensor
    baseline: str
    seed: int


@torch.no_grad()
def faithfulness_curves(
    evaluate: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    maps: Tensor,
    steps: int = 20,
    baseline: str = "blur",
    seed: int = 0,
) -> FaithfulnessCurves:
    """Deletion and insertion curves of one map for each image, from 2 (steps + 1) evaluations of the batch.

    Args:
        evaluate: what is watched, [B, channels, H, W] -> [B]; `factor_score` and `class_probability` make one.
        pixel_values: [B, channels, H, W] as the model reads them.
        maps: [B, H, W] of either sign, larger where more is marked. Pixels marked alike go in random order, so a
            constant map is the random control: `torch.zeros_like(maps)`.
        steps: in how many equal steps the pixels are replaced.
        baseline: what replaces them: "blur", the image under a Gaussian of an eighth of its shorter side, or "mean",
            its own mean colour.
        seed: of the order among pixels marked alike.

    Raises:
        ValueError: shapes that do not fit, NaN in a map, an unknown baseline, steps out of range, or values that are
            not one finite number for each image.

    Example:
        >>> watched = factor_score(model, factors)  # [B] factors, one for each image
        >>> curves = faithfulness_curves(watched, pixel_values, maps)
        >>> control = faithfulness_curves(watched, pixel_values, torch.zeros_like(maps))
        >>> gain = control.deletion_area - curves.deletion_area  # above zero: the map is better than chance
    """
    B, H, W = _check_maps(pixel_values, maps)
    if not 1 <= steps <= H * W:
        raise ValueError(f"steps={steps} must lie between 1 and the number of pixels, {H * W}.")
    if baseline not in _BASELINES:
        raise ValueError(f"baseline={baseline!r} is unknown; choose one of {', '.join(map(repr, _BASELINES))}.")
    image = pixel_values.float()
    without = _blurred(image) if baseline == "blur" else image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    place = _places(maps, seed).view(B, 1, H, W).to(image.device)  # 0 for the most marked pixel
    counts = [round(step * H * W / steps) for step in range(steps + 1)]

    def values(shown: Tensor) -> Tensor:
        found = evaluate(shown.to(pixel_values.dtype))
        if found.shape != (B,):
            raise ValueError(f"evaluate returned {list(found.shape)}; one number for each of {B} images, [{B}], fits.")
        if not found.isfinite().all():
            raise ValueError("evaluate returned NaN or infinity; its value must be finite for every image.")
        return found.float()

    deletion = torch.stack([values(torch.where(place < count, without, image)) for count in counts], dim=1)
    insertion = torch.stack([values(torch.where(place < count, image, without)) for count in counts], dim=1)
    replaced = torch.tensor(counts, device=deletion.device) / (H * W)
    deletion_area, insertion_area = (torch.trapezoid(curve, replaced, dim=1) for curve in (deletion, insertion))
    return FaithfulnessCurves(replaced, deletion, insertion, deletion_area, insertion_area, baseline, seed)


def factor_score(model: BNDLForImageClassification, factors: Tensor | int) -> Callable[[Tensor], Tensor]:
    """What `faithfulness_curves` watches: E[theta] of one factor, or of one for each image [B].

    Raises:
        ValueError: a factor out of range.
    """
    factors = _indices(factors, len(decision_layer_of(model).raw_loadings), "factors")

    def evaluate(pixel_values: Tensor) -> Tensor:
        return _pick(evaluation_view(model)(pixel_values).factor_scores, factors)

    return evaluate


def class_probability(model: BNDLForImageClassification, target: Tensor | int) -> Callable[[Tensor], Tensor]:
    """What `faithfulness_curves` watches: the probability of one class, or of one for each image [B].

    Raises:
        ValueError: a class out of range.
    """
    target = _indices(target, decision_layer_of(model).config.num_labels, "target")
    return lambda pixel_values: _pick(model.predict(pixel_values).probs, target)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b]] of [B, n], or values[b, index]."""
    if index.ndim and len(index) != len(values):
        raise ValueError(
            f"{len(index)} factors or classes were named for {len(values)} images; one, or one each, fits."
        )
    return values.gather(1, index.to(values.device).expand(len(values))[:, None]).squeeze(1)


def _indices(index: Tensor | int, count: int, name: str) -> Tensor:
    index = torch.as_tensor(index)
    if index.ndim > 1 or index.dtype.is_floating_point or not ((index >= 0) & (index < count)).all():
        raise ValueError(f"{name}={index.tolist()} must be one number, or one an image, between 0 and {count - 1}.")
    return index.long()


def _check_maps(pixel_values: Tensor, maps: Tensor) -> tuple[int, int, int]:
    """(B, H, W), once images and maps are known to fit each other."""
    if pixel_values.ndim != 4 or 0 in pixel_values.shape:
        raise ValueError(
            f"pixel_values have shape {list(pixel_values.shape)}; [B, channels, H, W], not empty, fits. Backbones that "
            "read patches have no pixels to take away."
        )
    B, _, H, W = pixel_values.shape
    if maps.shape != (B, H, W):
        raise ValueError(
            f"maps have shape {list(maps.shape)}; one for each image, [{B}, {H}, {W}], fits. Resize them with "
            "torch.nn.functional.interpolate."
        )
    if maps.isnan().any():
        raise ValueError(f"maps hold {int(maps.isnan().sum())} NaN, which has no place in an order.")
    return B, H, W


def _places(maps: Tensor, seed: int) -> Tensor:
    """[B, H W]: the place of each pixel when the most marked come first; ties in random order."""
    flat = maps.detach().flatten(1).cpu()  # [B, H W]
    shuffle = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    order = shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1)


def _blurred(images: Tensor) -> Tensor:
    """Images [B, channels, H, W] under a Gaussian, their edges continued."""
    sigma = _BLUR_SHARE * min(images.shape[2:])
    blurred = gaussian_filter(images.cpu().numpy(), sigma, mode="nearest", truncate=3.0, axes=(2, 3))
    return torch.from_numpy(blurred).to(images.device)
