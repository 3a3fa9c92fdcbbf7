"""Scores of single images, kept by name while batches stream by: the p-value, the entropy, the scores of `ood_scores`.

A rank needs every image's score, so 8 bytes an image and score stay, and nothing else. For a set without labels, such
as out-of-distribution images, this is all there is to keep; streaming.py keeps the same beside the metrics of a
labelled set.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .validation import check_scores


class StreamingScores:
    """Named scores of every image so far, 8 bytes each, on the CPU; `merge` adds another process's share.

    Example:
        >>> import torch
        >>> images, ood = StreamingScores(), StreamingScores()
        >>> images.update({"entropy": torch.tensor([0.1, 0.2])})
        >>> images.update({"entropy": torch.tensor([0.7])})
        >>> ood.update({"entropy": torch.tensor([0.5, 0.9])})
        >>> from bndl_hf.uncertainty import ood_auroc
        >>> round(ood_auroc(images.scores["entropy"], ood.scores["entropy"]), 4)  # all pairs but (.7, .5)
        0.8333
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._parts: dict[str, array[float]] = {}

    def update(self, scores: Mapping[str, Tensor], num_images: int | None = None) -> None:
        """Take in one batch: name -> [B]; the names are those of the earlier batches.

        Raises:
            ValueError: a score holds NaN or is not a vector, lengths differ (from `num_images`, if given), other names.
        """
        checked = {name: check_scores(values, name) for name, values in scores.items()}
        if num_images is None:
            num_images = len(next(iter(checked.values()))) if checked else 0
        check_lengths(checked, num_images)
        self._check_names(checked)
        self.num_images += num_images
        for name, values in checked.items():
            append(self._parts.setdefault(name, array("d")), values)

    def merge(self, other: StreamingScores) -> None:
        """Take in what another accumulator has seen; `other` is left as it is.

        Raises:
            ValueError: `other` has other scores.
        """
        if other.num_images == 0:
            return
        self._check_names(other._parts)
        self.num_images += other.num_images
        for name, part in other._parts.items():
            self._parts.setdefault(name, array("d")).extend(part)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Every score of every image so far, each [B] float64, in order of arrival."""
        return {name: joined(part) for name, part in self._parts.items()}

    def _check_names(self, names: Mapping[str, object]) -> None:
        if self.num_images > 0 and names.keys() != self._parts.keys():
            raise ValueError(
                f"scores has {_listed(names)}; earlier batches had {_listed(self._parts)}. "
                "Pass the same scores for every batch."
            )


# Numbers of single images are kept in arrays of the standard library, which grow in place. A tensor for each batch
# would lie between the large temporary ones and keep the allocator from giving their memory back: 2.4 GB for a million
# images of a thousand classes.


def append(kept: array[Any], values: Tensor) -> None:
    """Add one number an image, [B] on the CPU, at the end."""
    kept.frombytes(values.numpy().tobytes())


def joined(kept: array[Any]) -> Tensor:
    """All numbers kept so far, in order of arrival."""
    return torch.from_numpy(np.array(kept))


def check_lengths(scores: Mapping[str, Tensor], num_images: int) -> None:
    """ValueError unless every score has one value for each image."""
    for name, values in scores.items():
        if len(values) != num_images:
            raise ValueError(f"{name} has {len(values)} values for {num_images} images. Pass one for each image.")


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"
