"""LIME on a factor (App. A.1; Ribeiro et al. 2016, arXiv:1602.04938): which super-pixels keep it active.

Super-pixels are hidden at random, and a weighted ridge regression maps which of them are shown to the factor's score,
relative to that of the whole image. captum runs it, scikit-image cuts the super-pixels. It asks nothing of the backbone
but costs `num_samples` passes; factor_maps.py is exact and costs one where features are an average over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bndl_hf.interpretability.choices import check_sees_images, chosen_factors, largest_parts
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.logit_posterior import Posterior
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel

# Width of the exponential kernel on the cosine distance of which super-pixels are shown: Ribeiro et al.'s for images.
_KERNEL_WIDTH = 0.25


@dataclass
class LimeExplanation:
    """What LIME found about one factor of one image, on the CPU.

    Attributes:
        map: [H, W], each pixel its super-pixel's weight.
        weights: [M], what showing a super-pixel adds to the factor's score, as a share of the whole image's score.
        segments: [H, W], the super-pixel of each pixel, 0 .. M - 1.
        factor: the factor explained.
        factor_score: E[theta_k] of the whole image.
        r2: how much of the (weighted) variance of the score the linear model explains; 1 is all of it, NaN says
            that hiding super-pixels changes nothing.
    """

    map: Tensor
    weights: Tensor
    segments: Tensor
    factor: int
    factor_score: float
    r2: float

    def top_segments(self, n: int = 10) -> Tensor:
        """Where the `n` super-pixels of largest weight are, [H, W] booleans; only weights above zero count.

        10: what the paper shows, App. A.1.
        """
        largest = self.weights.topk(min(n, len(self.weights))).indices
        return torch.isin(self.segments, largest[self.weights[largest] > 0])


def lime_factor(
    model: BNDLPreTrainedModel,
    image: Tensor,
    factor: int | None = None,
    seed: int = 0,
    *,
    segments: Tensor | None = None,
    num_segments: int = 50,
    num_samples: int = 1000,
    batch_size: int = 32,
    ridge_strength: float = 1.0,
    progress: bool = True,
) -> LimeExplanation:
    """Which super-pixels of an image keep a factor active.

    A hidden super-pixel is filled with its mean colour.

    Args:
        model: a `BNDLForImageClassification` or a `BNDLModel`.
        image: pixel values as the model reads them, [channels, H, W] or [1, channels, H, W]; of a PIL image,
            `processor(image, return_tensors="pt")["pixel_values"]`.
        factor: None takes the largest part theta_k Phi_kc of the top class's logit.
        seed: of the random hiding; the same seed gives the same bits, and no other random numbers change.
        segments: [H, W], a super-pixel number per pixel; None cuts the image with SLIC (Achanta et al. 2012).
        num_segments: about how many super-pixels SLIC cuts.
        num_samples: how many times super-pixels are hidden; 1000: Ribeiro et al.'s.
        batch_size: images the model sees at a time.
        ridge_strength: of the ridge penalty; 1: Ribeiro et al.'s.
        progress: show a bar.

    Raises:
        ImportError: captum, scikit-image or scikit-learn is missing.
        TypeError: for a decision layer alone, or an image that is not a tensor.
        ValueError: for more than one image, segments of another size or only one, a factor out of range or whose
            score is zero on this image, or too few samples.

    Example:
        >>> explanation = lime_factor(model, pixel_values[0])
        >>> explanation.map.shape
        torch.Size([64, 64])
        >>> shown = explanation.top_segments().float().mean()  # share of the image
    """
    images = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
    check_sees_images(model, images)
    if len(images) != 1:
        raise ValueError(f"image is a batch of {len(images)}; LIME explains one image, [channels, H, W], at a time.")
    if num_segments < 2:
        raise ValueError(f"num_segments={num_segments}: LIME compares super-pixels, two or more (50 by default).")
    if num_samples < 2 or batch_size < 1:
        raise ValueError(
            f"num_samples={num_samples} and batch_size={batch_size}: a regression needs 2 samples or more (Ribeiro et "
            "al. take 1000), and a batch 1 or more."
        )
    Lime, SkLearnRidge = _captum()
    model = evaluation_view(model)
    with torch.no_grad():
        factor, whole = _factor_and_score(model, images, factor)
        segments = _numbered(_superpixels(images[0], num_segments) if segments is None else segments, images)
        M = int(segments.max()) + 1
        hidden = _mean_colours(images, segments, M)
        generator = torch.Generator().manual_seed(seed)
        shown: list[Tensor] = []  # of each sample, [1, M]
        scores: list[Tensor] = []

        def show_half(*_: Any, **__: Any) -> Tensor:
            shown.append(torch.randint(2, (1, M), generator=generator))
            return shown[-1].to(images.device)

        def score(perturbed: Tensor) -> Tensor:  # [B, channels, H, W] -> [B]
            scores.append(_score_posterior(model, perturbed).mean[:, factor] / whole)
            return scores[-1]

        ridge = SkLearnRidge(alpha=ridge_strength)
        lime = Lime(score, ridge, lambda _, __, z, **___: _proximity(z), show_half)
        with torch.random.fork_rng(devices=[]):  # captum's DataLoader draws a number
            weights = lime.attribute(
                images,
                baselines=hidden,
                feature_mask=segments[None, None],
                n_samples=num_samples,
                perturbations_per_eval=batch_size,
                return_input_shape=False,
                show_progress=progress,
            )[0].cpu()
    samples, segments = torch.cat(shown).float(), segments.cpu()
    r2 = _weighted_r2(ridge(samples).detach().flatten(), torch.cat(scores).cpu(), _proximity(samples))
    return LimeExplanation(weights[segments], weights, segments, factor, float(whole), r2)


def _captum() -> tuple[Any, Any]:
    """captum's Lime and its ridge regression."""
    try:
        import skimage.segmentation  # noqa: F401
        import sklearn.linear_model  # noqa: F401
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr import Lime
    except ImportError as error:
        raise ImportError(
            'LIME needs captum, scikit-image and scikit-learn, which are not all there; pip install "bndl-hf[explain]".'
        ) from error
    return Lime, SkLearnRidge


def _score_posterior(model: BNDLPreTrainedModel, images: Tensor) -> Posterior:
    """q(theta | h) of a batch of images."""
    features = model.extract_features(images)
    with torch.autocast(device_type=images.device.type, enabled=False):
        return model.decision_layer.score_posterior(features)


def _proximity(shown: Tensor) -> Tensor:
    """How near each sample [S, M] of zeros and ones is to the whole image, in (0, 1]: an exponential kernel, [S]."""
    distance = 1 - shown.float().mean(dim=1).sqrt()  # cosine distance to the vector of ones
    return torch.exp(-distance.square() / (2 * _KERNEL_WIDTH**2))


def _factor_and_score(model: BNDLPreTrainedModel, images: Tensor, factor: int | None) -> tuple[int, Tensor]:
    """The factor to explain and its score of the whole image, which is above zero."""
    layer = model.decision_layer
    posterior = _score_posterior(model, images)
    if factor is None:
        factor = int(largest_parts(posterior, layer, None, top_k=1).factors)
    chosen = chosen_factors(factor, 1, layer)
    if chosen.numel() > 1:
        raise ValueError(f"factor names {chosen.numel()} factors; LIME explains one at a time.")
    factor = int(chosen)
    score = posterior.mean[0, factor]
    if not score > 0:
        raise ValueError(
            f"Factor {factor} has a score of zero on this image, so no part of it keeps the factor active; pass one of "
            "explain(image).factors, or leave factor out."
        )
    return factor, score


def _superpixels(image: Tensor, num_segments: int) -> Tensor:
    """SLIC's super-pixels of an image [channels, H, W] whose values are first brought into [0, 1]."""
    from skimage.segmentation import slic

    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp_min(1e-12)).permute(1, 2, 0).float().cpu().numpy()
    return torch.from_numpy(slic(pixels, n_segments=num_segments, convert2lab=pixels.shape[-1] == 3, channel_axis=-1))


def _numbered(segments: Tensor, images: Tensor) -> Tensor:
    """`segments` numbered 0 .. M - 1, on the images' device."""
    segments, size = torch.as_tensor(segments), tuple(images.shape[-2:])
    if tuple(segments.shape) != size:
        raise ValueError(f"segments have shape {list(segments.shape)}; the image's pixels are {list(size)}.")
    numbers, numbered = torch.unique(segments, return_inverse=True)
    if len(numbers) < 2:
        raise ValueError(
            "segments hold one super-pixel only, and LIME compares several; pass a mask of two or more, or a larger "
            "num_segments if it was cut from a nearly uniform image."
        )
    return numbered.to(images.device)


def _mean_colours(images: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """The image [1, channels, H, W] with every super-pixel filled with its mean colour."""
    pixels, places = images[0].flatten(1), segments.flatten()
    sums = torch.zeros(len(pixels), num_segments, dtype=pixels.dtype, device=pixels.device).index_add_(
        1, places, pixels
    )
    means = sums / places.bincount(minlength=num_segments)  # [channels, M]
    return means[:, places].view_as(images)


def _weighted_r2(predicted: Tensor, scores: Tensor, weights: Tensor) -> float:
    """1 - weighted squared error / weighted variance."""
    mean = (weights * scores).sum() / weights.sum()
    return 1 - float((weights * (scores - predicted).square()).sum() / (weights * (scores - mean).square()).sum())
