"""Small images held decoded on the device that trains on them: cropped, mirrored and scaled there, batch by batch.

Reading a row the usual way decodes, augments and processes one image in about a millisecond, which an accelerator that
trains on a thousand images in ten milliseconds would wait for. Fifty thousand images of 32 x 32 pixels are 150 MB as
bytes. The changes are those of `crop_flip` in augmentation.py, drawn for every image and epoch by the seed alone, so
that they do not depend on batches, on workers or on where a training was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from bndl_hf.utils.files import written_whole

# What may be done to training images here, by the names of augmentation.py.
IN_MEMORY_AUGMENTATIONS = ("none", "flip", "crop_flip")
_ROWS_AT_ONCE = 256
# Random changes drawn for seed, epoch and this number are others than those a user draws for seed and epoch.
_STREAM = 1105


class RawPixels:
    """Stands where an image processor does and gives the bytes of resized images, [H, W, 3].

    Args:
        size: side in pixels; images of another size are resized as `make_image_processor` does (bilinear).
    """

    def __init__(self, size: int) -> None:
        self.size = {"height": size, "width": size}

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, list[np.ndarray]]:
        """{"pixel_values": one uint8 array [H, W, 3] per RGB image}."""
        shape = (self.size["width"], self.size["height"])
        resized = [i if i.size == shape else i.resize(shape, Image.Resampling.BILINEAR) for i in images]
        return {"pixel_values": [np.array(image) for image in resized]}


def read_pixels(
    dataset: Any, cache_dir: str | os.PathLike[str] | None = None, num_threads: int | None = None
) -> tuple[Tensor, Tensor]:
    """Every image of a dataset as bytes [N, H, W, 3] and its labels [N], decoded once.

    Args:
        dataset: rows of `RawPixels`: `images.with_pixel_values(part, RawPixels(32))`, or what `load_unlabelled_images`
            gives with it.
        cache_dir: folder where the bytes are kept under the fingerprint of the dataset; None keeps nothing.
        num_threads: that decode; None takes one a processor core.

    Raises:
        ValueError: an image cannot be read; the sentence names it.
    """
    transform = dataset.format["format_kwargs"]["transform"]
    size = transform.processor.size
    path = None
    if cache_dir is not None:
        name = f"{dataset._fingerprint}_{size['height']}x{size['width']}.safetensors"
        path = Path(cache_dir) / name
        if path.is_file():
            kept = load_file(path)
            return kept["pixels"], kept["labels"]
    starts = range(0, len(dataset), _ROWS_AT_ONCE)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        parts = list(pool.map(lambda start: dataset[start : start + _ROWS_AT_ONCE], starts))
    pixels = torch.cat([torch.stack(part["pixel_values"]) for part in parts])
    labels = torch.tensor([label for part in parts for label in part["labels"]], dtype=torch.int64)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            save_file({"pixels": pixels, "labels": labels}, partial)
    return pixels, labels


class ImagesInMemory(Dataset[dict[str, Tensor]]):
    """Images to train on; a DataLoader asks for a whole batch at once and gets it made on the device.

    Use it with `data_collator=whole_batch`, no workers and `dataloader_pin_memory=False`.

    Args:
        pixels: bytes [N, H, W, 3], on the device where batches are to be.
        labels: [N].
        mean, std: of each of the 3 channels, as a fraction of 255; batches hold (pixels / 255 - mean) / std.
        augmentation: "none"; "flip" mirrors every other image; "crop_flip" also pads by an eighth with black and crops
            (the CIFAR recipe).
        seed: of the random changes.

    Raises:
        ValueError: another shape or kind of numbers, or an unknown augmentation.

    Example:
        >>> images = ImagesInMemory(torch.zeros(6, 32, 32, 3, dtype=torch.uint8), torch.arange(6), [0.5] * 3, [0.5] * 3)
        >>> images.__getitems__([0, 5])["pixel_values"].shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: str = "none",
        seed: int = 0,
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or len(labels) != len(pixels):
            raise ValueError(
                f"pixels are {pixels.dtype} {list(pixels.shape)} with {len(labels)} labels; pass bytes [N, H, W, 3] "
                "and N labels."
            )
        if augmentation not in IN_MEMORY_AUGMENTATIONS:
            raise ValueError(
                f"augmentation={augmentation!r} is not made in memory; choose one of "
                f"{', '.join(IN_MEMORY_AUGMENTATIONS)}."
            )
        self.labels = labels.cpu()
        self.augmentation, self.seed = augmentation, seed
        self._side = pixels.shape[1:3]
        self._margin = max(self._side) // 8 if augmentation == "crop_flip" else 0
        self._device = pixels.device
        self._labels = labels.to(self._device)
        margins = (0, 0, *[self._margin] * 4)  # of the last axis first: none for channels
        self._pixels = torch.nn.functional.pad(pixels, margins)
        # (x / 255 - mean) / std = x * scale - shift
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._scale, self._shift = (t.float().to(self._device) for t in (scale, shift))
        self._rows, self._columns = (torch.arange(side, device=self._device) for side in self._side)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the changes of every image for this pass; accelerate calls it."""
        seed = np.random.SeedSequence([self.seed, epoch, _STREAM]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) % 2**63)
        N, span = len(self.labels), 2 * self._margin + 1
        offsets = torch.randint(span, (2, N), generator=generator)
        is_mirrored = torch.rand(N, generator=generator) < (0.0 if self.augmentation == "none" else 0.5)
        self._offsets, self._is_mirrored = offsets.to(self._device), is_mirrored.to(self._device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch: {"pixel_values": float [B, 3, H, W] in channels-last order, "labels": [B]}."""
        index = torch.tensor(indices).to(self._device, non_blocking=True)
        top, left = self._offsets[:, index]
        rows = top[:, None] + self._rows  # [B, H]
        columns = torch.where(self._is_mirrored[index, None], self._columns.flip(0), self._columns)
        columns = left[:, None] + columns  # [B, W]
        pixels = self._pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, 3]
        values = pixels.float() * self._scale - self._shift
        return {"pixel_values": values.permute(0, 3, 1, 2), "labels": self._labels[index]}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}


def whole_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The collator of `ImagesInMemory`: its batches are whole already."""
    return batch


def channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of bytes [N, H, W, 3], as fractions of 255, to four digits."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = [torch.bincount(pixels[..., c].flatten().long(), minlength=256).double() for c in range(3)]
    means = [float((count * values).sum() / count.sum()) for count in counts]
    squares = [float((count * values.square()).sum() / count.sum()) for count in counts]
    return (
        [round(mean, 4) for mean in means],
        [round((square - mean**2) ** 0.5, 4) for mean, square in zip(means, squares, strict=True)],
    )
