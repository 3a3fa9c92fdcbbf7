"""Conformal prediction: sets of classes that hold the true one as often as asked, however good the model is.

Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv:2107.07511): on n held-out images a
threshold is put at the ceil((n + 1) coverage)-th smallest score of the true class; a new image's set is every class
whose score is no larger. If held-out and new images are exchangeable, the set holds the true class with at least that
probability, over both. The scores are in `bndl_hf.model.prediction_sets`, because they travel with the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.model.prediction_sets import SET_METHODS, ConformalPredictor, edge_mass, set_scores
from bndl_hf.model.predictive import BNDLPrediction

from .validation import check_choice, check_labels, check_probs

# Set sizes that are judged together, as Angelopoulos et al. 2021 do (Sec. 5).
SIZE_STRATA = ((0, 1), (2, 3), (4, 10), (11, 100), (101, 1000))


def fit_conformal(
    prediction: BNDLPrediction | Tensor,
    labels: Tensor,
    coverage: float = 0.9,
    method: str = "raps",
    *,
    penalty: float = 0.01,
    free_ranks: int = 5,
    randomized: bool = False,
    class_conditional: bool = False,
    allow_empty: bool = False,
    generator: torch.Generator | None = None,
) -> ConformalPredictor:
    """A predictor whose sets hold the true class of a new image with probability `coverage` or more.

    The probability is over calibration images and new image together. With one calibration set of n images, the share
    of new images covered scatters about it with a standard deviation of sqrt(coverage (1 - coverage) / n).

    Args:
        prediction: of held-out images, or their probabilities [N, C]. Recalibrate first: a later change of temperature
            makes the threshold mean something else.
        labels: [N] true classes.
        coverage: in (0, 1).
        method: "lac" (smallest sets on average), "aps" (adapts to hard images) or "raps" (that without long tails).
        penalty: added for every rank beyond `free_ranks`, "raps" only; 0 is "aps".
        free_ranks: k_reg, ranks without a penalty, "raps" only.
        randomized: "aps" and "raps": whether the class at a set's edge is drawn at random (Romano et al. 2020). With
            `allow_empty` the coverage is then exact also where the most probable class alone covers more; but sets
            differ from call to call, so such a predictor is not stored with a model.
        class_conditional: a threshold for each class (Mondrian): the coverage holds within every class. Needs images of
            every class.
        allow_empty: whether a set may be empty. Otherwise the most probable class is always in it, which only adds to
            the coverage: a model that is right in 95 of 100 cannot be made to cover less.
        generator: of those draws.

    Returns:
        ConformalPredictor; `predict_sets(probs)` applies it, `model.set_conformal(predictor)` stores it.

    Raises:
        ValueError: probs not probabilities, labels out of range or of another length, coverage outside (0, 1), an
            unknown method, or too few images for the coverage, saying how many it takes.

    Example:
        >>> probs = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]])
        >>> predictor = fit_conformal(probs, torch.tensor([0, 1, 2, 0]), coverage=0.8, method="lac")
        >>> predictor.predict_sets(torch.tensor([[0.5, 0.45, 0.05], [0.9, 0.06, 0.04]])).tolist()
        [[True, True, False], [True, False, False]]
    """
    check_choice(method, "method", SET_METHODS)
    _check_coverage(coverage)
    if not (math.isfinite(penalty) and penalty >= 0 and free_ranks >= 0):
        raise ValueError(f"penalty={penalty} and free_ranks={free_ranks} must be zero or above.")
    probs = torch.as_tensor(prediction.probs if isinstance(prediction, BNDLPrediction) else prediction).detach()
    _, truth = check_probs(probs, labels)
    if method != "raps":
        penalty, free_ranks = 0.0, 0
    num_images, num_classes = probs.shape
    mass = edge_mass(num_images, randomized, generator)
    scores = set_scores(probs, method, penalty, free_ranks, mass)
    of_truth = scores.gather(1, truth.to(scores.device)[:, None]).squeeze(1)  # [N]
    if class_conditional:
        counts = torch.bincount(truth, minlength=num_classes)
        fewest = int(counts.argmin())
        _check_enough(int(counts[fewest]), coverage, f" of class {fewest}")
        classes = truth.to(of_truth.device)
        threshold: float | tuple[float, ...] = tuple(
            _quantile(of_truth[classes == c], coverage) for c in range(num_classes)
        )
    else:
        _check_enough(num_images, coverage)
        threshold = _quantile(of_truth, coverage)
    return ConformalPredictor(
        method, coverage, threshold, num_images, num_classes, penalty, free_ranks, randomized, allow_empty
    )


def set_coverage(sets: Tensor, labels: Tensor) -> float:
    """Share of images whose set holds the true class.

    Args:
        sets: [B, C] bool.
        labels: [B] true classes.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: sets not booleans [B, C], labels out of range or of another length.

    Example:
        >>> set_coverage(torch.tensor([[True, False], [True, True]]), torch.tensor([1, 1]))
        0.5
    """
    return _covered(*_check_sets(sets, labels)).double().mean().item()


def mean_set_size(sets: Tensor) -> float:
    """Mean number of classes in a set, in [0, C]; small sets of the right coverage are good ones.

    Args:
        sets: [B, C] bool.

    Raises:
        ValueError: sets not booleans [B, C].

    Example:
        >>> mean_set_size(torch.tensor([[True, False], [True, True]]))
        1.5
    """
    return _check_sets(sets)[0].sum(dim=-1).double().mean().item()


@dataclass(frozen=True)
class CoverageBySize:
    """Coverage of the images whose sets have the same number of classes; sizes that do not occur are left out."""

    size: tuple[int, ...]  # ascending
    count: tuple[int, ...]  # images
    coverage: tuple[float, ...]  # share of them whose set holds the true class


def coverage_by_set_size(sets: Tensor, labels: Tensor) -> CoverageBySize:
    """Whether large sets, the model's word for "hard", are as trustworthy as small ones.

    Args:
        sets: [B, C] bool.
        labels: [B] true classes.

    Raises:
        ValueError: as `set_coverage`.

    Example:
        >>> coverage_by_set_size(torch.tensor([[True, False], [True, True], [False, True]]), torch.tensor([1, 1, 1]))
        CoverageBySize(size=(1, 2), count=(2, 1), coverage=(0.5, 1.0))
    """
    checked, truth = _check_sets(sets, labels)
    sizes, covered = checked.sum(dim=-1), _covered(checked, truth).double()
    found = sizes.unique().tolist()
    groups = [covered[sizes == size] for size in found]
    return CoverageBySize(tuple(found), tuple(map(len, groups)), tuple(group.mean().item() for group in groups))


def size_stratified_violation(
    sets: Tensor, labels: Tensor, coverage: float, strata: Sequence[tuple[int, int]] = SIZE_STRATA
) -> float:
    """Largest distance of any size group's coverage from the one promised (SSCV, Angelopoulos et al. 2021, Sec. 5).

    Args:
        sets: [B, C] bool.
        labels: [B] true classes.
        coverage: the promised one, in (0, 1).
        strata: (smallest, largest) set size of each group, both inclusive; sizes in no group are not judged.

    Returns:
        A fraction in [0, 1], smaller is better. A group of few images is far off by chance.

    Raises:
        ValueError: as `set_coverage`; coverage outside (0, 1); no set's size lies in any group.

    Example:
        >>> sets = torch.tensor([[True, False], [True, False], [True, True], [True, True]])
        >>> size_stratified_violation(sets, torch.tensor([0, 1, 1, 1]), coverage=0.75)
        0.25
    """
    _check_coverage(coverage)
    checked, truth = _check_sets(sets, labels)
    sizes, covered = checked.sum(dim=-1), _covered(checked, truth).double()
    groups = [covered[(sizes >= low) & (sizes <= high)] for low, high in strata]
    distances = [abs(group.mean().item() - coverage) for group in groups if len(group)]
    if not distances:
        raise ValueError(f"strata={list(strata)} holds none of the set sizes {sizes.unique().tolist()}; widen them.")
    return max(distances)


def _quantile(scores: Tensor, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score."""
    return scores.kthvalue(_rank(len(scores), coverage)).values.item()


def _rank(num_images: int, coverage: float) -> int:
    return math.ceil((num_images + 1) * coverage - 1e-9)  # 0.07 * 100 is 7.000000000000001 in float64


def images_for_coverage(coverage: float) -> int:
    """How many images it takes: the least n with ceil((n + 1) coverage) <= n.

    Example:
        >>> images_for_coverage(0.95), images_for_coverage(0.99)
        (19, 99)
    """
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def _check_enough(num_images: int, coverage: float, where: str = "") -> None:
    if num_images < (needed := images_for_coverage(coverage)):
        raise ValueError(
            f"coverage={coverage} takes at least {needed} held-out images{where}; there are {num_images}. Pass more, "
            "or ask for less."
        )


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ValueError(f"coverage={coverage} is not in (0, 1); 0.9 puts the true class in 9 sets of 10.")


def _check_sets(sets: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`sets` [B, C] and int64 labels [B] (zeros without any) on one device, or ValueError."""
    checked = torch.as_tensor(sets).detach()
    if checked.ndim != 2 or checked.dtype != torch.bool or not len(checked):
        raise ValueError(
            f"sets has shape {list(checked.shape)} and dtype {checked.dtype}; booleans, images by classes, [B, C], "
            "fit. Pass predictor.predict_sets(probs)."
        )
    if labels is None:
        return checked, torch.zeros(len(checked), dtype=torch.long, device=checked.device)
    return checked, check_labels(labels, *checked.shape).to(checked.device)


def _covered(sets: Tensor, labels: Tensor) -> Tensor:
    return sets.gather(1, labels[:, None]).squeeze(1)
