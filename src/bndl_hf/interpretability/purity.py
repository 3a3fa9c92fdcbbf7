"""What a factor stands for, in labels: whether the images that show it most are of one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bndl_hf.interpretability.checks import check_labels, check_matrix, check_non_negative

# Images taken in at a time: bounds the memory.
_BATCH_SIZE = 2048
# Random sets of top images behind the level of chance: its standard error is at most 0.5 / sqrt(10,000) = 0.005.
_NUM_CHANCE_DRAWS = 10_000


@dataclass(frozen=True)
class FactorPurity:
    """The images that show each factor most, and the class most of them have.

    Attributes:
        purity: [K] share of a factor's top images that have its commonest class, in (0, 1]; NaN where it is dead.
        classes: [K] that class, the smallest of equally common ones; -1 where the factor is dead.
        top_images: [K, top] their numbers in the order the images came, most active first; -1 where the factor is
            active on fewer.
        num_top: [K] how many there are; 0 where the factor is dead, that is, active on no image.
        chance: what `purity` is, on average, of as many images drawn at random from those given; always above the
            share of the commonest class.
        top: how many images a factor is judged by.
        num_images: N.
    """

    purity: Tensor
    classes: Tensor
    top_images: Tensor
    num_top: Tensor
    chance: float
    top: int
    num_images: int

    def __str__(self) -> str:
        alive = self.num_top > 0
        average = f"{self.purity[alive].mean().item():.1%}" if alive.any() else "nothing"
        return (
            f"The {self.top} images that show a factor most are of one class to {average} on average over "
            f"{int(alive.sum())} factors (chance {self.chance:.1%}); {int((~alive).sum())} of {len(alive)} are silent."
        )


class FactorPurityCheck:
    """`factor_purity` of scores that come batch by batch, in memory for [K, top] images and one batch.

    Args:
        top: how many images a factor is judged by.

    Raises:
        ValueError: top below 1.

    Example:
        >>> check = FactorPurityCheck(top=20)
        >>> for batch in batches:
        ...     check.update(model(batch["pixel_values"]).factor_scores, batch["labels"])
        >>> report = check.report()
    """

    def __init__(self, top: int = 10) -> None:
        if top < 1:
            raise ValueError(f"top={top} must be 1 image or more.")
        self._top = top
        self._scores: Tensor | None = None  # [K, <= top]
        self._images = self._labels = torch.empty(0, 0, dtype=torch.long)
        self._class_sizes = torch.zeros(0, dtype=torch.long)
        self._num_images = 0

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Take in the factor scores [B, K] and labels [B] of some images.

        Raises:
            ValueError: shapes that do not fit each other or what came before, NaN, negative values, or no image.
        """
        scores, labels = torch.as_tensor(scores).detach(), torch.as_tensor(labels).detach()
        check_matrix(scores, "scores", "N, K", None if self._scores is None else len(self._scores))
        check_non_negative(scores, "scores")
        check_labels(labels, len(scores))
        labels = labels.cpu().long()
        for rows, truth in zip(scores.cpu().split(_BATCH_SIZE), labels.split(_BATCH_SIZE), strict=True):
            self._take_in(rows.T, truth)
        sizes = torch.bincount(labels, minlength=len(self._class_sizes))
        sizes[: len(self._class_sizes)] += self._class_sizes
        self._class_sizes = sizes

    def _take_in(self, scores: Tensor, labels: Tensor) -> None:
        """Merge the scores [K, B] of some images with the largest so far."""
        K, B = scores.shape
        images = torch.arange(self._num_images, self._num_images + B).expand(K, B)
        labels = labels.expand(K, B)
        if self._scores is not None:
            scores = torch.cat([self._scores, scores], dim=1)
            images, labels = torch.cat([self._images, images], dim=1), torch.cat([self._labels, labels], dim=1)
        # Stable, so that of equal scores the first image counts, however the images were batched.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : self._top]
        self._scores, self._images, self._labels = (values.gather(1, order) for values in (scores, images, labels))
        self._num_images += B

    def report(self) -> FactorPurity:
        """What the images so far say.

        Raises:
            ValueError: there were none.
        """
        if self._scores is None:
            raise ValueError("No scores were seen; call update(scores, labels) first.")
        K, C = len(self._scores), len(self._class_sizes)
        is_shown = self._scores > 0  # [K, n]
        counts = torch.zeros(K, C, dtype=torch.long).scatter_add_(1, self._labels, is_shown.long())
        num_top = is_shown.sum(dim=1)
        most, classes = counts.max(dim=1)
        top_images = torch.full((K, self._top), -1)
        top_images[:, : is_shown.shape[1]] = self._images.where(is_shown, -1)
        return FactorPurity(
            purity=most.double() / num_top,  # 0 / 0 is the NaN of a dead factor
            classes=classes.where(num_top > 0, -1),
            top_images=top_images,
            num_top=num_top,
            chance=_chance_level(self._class_sizes, min(self._top, self._num_images)),
            top=self._top,
            num_images=self._num_images,
        )


def factor_purity(scores: Tensor, labels: Tensor, top: int = 10) -> FactorPurity:
    """For each factor the share of the images that show it most which are of one class.

    Only images that show a factor at all count; of equal scores the first image does. A dead factor has no purity.

    Args:
        scores: [N, K] factor scores, >= 0.
        labels: [N] classes, 0 and above.
        top: how many images to judge a factor by.

    Raises:
        ValueError: shapes that do not fit, NaN or negative scores, negative labels, no image, or top below 1.

    Example:
        >>> scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.1, 0.0]])
        >>> found = factor_purity(scores, torch.tensor([3, 3, 5]), top=2)
        >>> found.purity.tolist(), found.classes.tolist()
        ([1.0, nan], [3, -1])
    """
    check = FactorPurityCheck(top)
    check.update(scores, labels)
    return check.report()


def _chance_level(class_sizes: Tensor, top: int) -> float:
    """Mean share of the commonest class among `top` images drawn at random, without putting any back."""
    sizes = class_sizes[class_sizes > 0].numpy()
    generator, most = np.random.default_rng(0), 0
    for _ in range(_NUM_CHANCE_DRAWS // 100):  # in parts: with many classes a draw is large
        draws = generator.multivariate_hypergeometric(sizes, top, size=100, method="marginals")
        most += draws.max(axis=1).sum()
    return float(most / _NUM_CHANCE_DRAWS / top)
