"""Several views of every image in the cache: features a backbone has not memorised, and more of them.

`cached_views` computes them: view 0 is the plain image, every other the image under the random transform of the
training set, drawn with a seed of its own for each view and row. `FeatureViews` is the dataset of them: an epoch reads
one view of every image, so that an epoch, its steps and N of the ELBO (Eq. 12) mean what they mean without views.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback

from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.collating import FeatureBatch
from bndl_hf.training.features import FeatureDataset, cached_features, transform_of


class FeatureViews(FeatureDataset):
    """V views of N images; a row is one of its image's views, another one in the next epoch.

    An image shows its views in turn, every one once in V epochs. Which comes first is drawn for each image. It depends
    on the seed and the epoch alone, so a training that is resumed reads what it would have read.

    Args:
        views: features [V, N, D]; the first are those of the plain images.
        labels: [N].
        seed: of the view each image begins with.

    Raises:
        ValueError: as for `FeatureDataset`, or views of another shape.

    Example:
        >>> dataset = FeatureViews(torch.rand(4, 100, 8), torch.arange(100) % 3)
        >>> len(dataset), [tuple(rows.shape) for rows in dataset.all_rows()]
        (100, [(400, 8), (400,), (400,)])
    """

    def __init__(self, views: Tensor, labels: Tensor, seed: int = 0) -> None:
        if views.ndim != 3 or not len(views):
            raise ValueError(f"views have shape {list(views.shape)}; they must be [V, N, D], with one view or more.")
        for view in views:
            super().__init__(view, labels)
        self.views, self.features = views, views[0]
        self._first = torch.randint(len(views), (len(self),), generator=torch.Generator().manual_seed(seed))
        self.epoch = 0

    def __getitem__(self, index: int) -> FeatureBatch:
        return FeatureBatch(
            features=self.views[(self._first[index] + self.epoch) % len(self.views), index], labels=self.labels[index]
        )

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        rows = torch.as_tensor(indices)
        view = (self._first[rows] + self.epoch) % len(self.views)
        return FeatureBatch(features=self.views[view, rows], labels=self.labels[rows])

    def all_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features [V N, D] of every view, view by view, their labels [V N] and the image [V N] each of them shows."""
        V, N, _ = self.views.shape
        return self.views.flatten(0, 1), self.labels.repeat(V), torch.arange(N).repeat(V)


class TurnViews(TrainerCallback):
    """Turns to the next views of `FeatureViews` at every epoch; any other dataset is left alone."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the views of this epoch, which a training that is resumed may begin in the middle of."""
        self._turn(int(state.epoch or 0), **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Another training begins at the first views again."""
        self._turn(0, **kwargs)

    def _turn(self, epoch: int, train_dataloader: Any = None, **_: Any) -> None:
        dataset = getattr(train_dataloader, "dataset", None)
        if isinstance(dataset, FeatureViews):
            dataset.epoch = epoch


def cached_views(
    model: BNDLPreTrainedModel,
    dataset: Any,
    arguments: BNDLTrainingArguments,
    processor: Any = None,
    collate: Any = None,
    name: str = "train",
) -> FeatureViews:
    """`arguments.feature_views` views of every row of `dataset`, from the cache where it holds them.

    View 0 is the plain image. The others depend on the number of the
    view, the row and the transform: neither on the seed of the training nor on workers, processes or interruptions.
    More views of the same dataset are added to those that are there.

    Args:
        model, arguments, processor, collate, name: as for `cached_features`.
        dataset: rows of a random transform, as `ImageDataset.with_pixel_values("train", processor, augmentation=...)`
            gives.

    Raises:
        ValueError: the dataset has no random transform that can be left out, or cannot be cached.
    """
    transform = transform_of(dataset)
    if getattr(transform, "augment", None) is None:
        raise ValueError(
            f"feature_views={arguments.feature_views} keeps several views of each image, but the {name} dataset gives "
            "one: it has no augmentation. Make it with with_pixel_values(..., augmentation='auto') (--augmentation "
            "auto), or pass feature_views=1."
        )
    plain = copy.copy(transform)
    plain.augment = None
    first = cached_features(model, dataset.with_transform(plain), arguments, processor, collate, name)
    views = [first.features]
    for number in range(1, arguments.feature_views):
        view = OneView(dataset, number)
        views.append(cached_features(model, view, arguments, processor, collate, f"{name}, view {number}").features)
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    return FeatureViews(torch.stack(views), first.labels, seed)


class OneView(Dataset):
    """A dataset whose random transform draws the same for a row at every reading.

    torch, numpy and `random` are seeded for each row, and are afterwards as they were before.

    Args:
        dataset: a `datasets.Dataset`.
        number: of the view.
    """

    def __init__(self, dataset: Any, number: int) -> None:
        self.dataset, self.number = dataset, number
        self._fingerprint = f"{dataset._fingerprint}, view {number}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        torch_seed, numpy_seed = np.random.SeedSequence([self.number, index]).generate_state(2).tolist()
        generator = torch.default_generator
        # numpy's legacy state: the one that augmentations draw from.
        before = generator.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        generator.manual_seed(torch_seed)
        np.random.seed(numpy_seed)  # noqa: NPY002
        random.seed(numpy_seed)
        try:
            return self.dataset[index]
        finally:
            generator.set_state(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            random.setstate(before[2])
