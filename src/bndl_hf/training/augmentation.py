"""What happens to one image on its way to the model: decoded to RGB, changed at random, made into pixel values.

Pillow, numpy and torch only; no torchvision. An augmentation is a small picklable callable, RGB image in, RGB image
out, placed before the image processor. All of them draw from torch's global generator, which `Trainer` seeds in the
main process and torch seeds differently in every DataLoader worker: one seed repeats a run, and no two workers draw
the same numbers (a generator carried inside the callable would be copied into every worker and make them all alike).
Next to read: `data.py`, which finds the images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTImageProcessorPil

_DECODER = ImageFeature()

Augmentation = Callable[[Image.Image], Image.Image]

AUGMENTATIONS = ("auto", "none", "flip", "shift", "crop_flip", "resized_crop_flip")

# Pixels. Up to here an object fills the frame (CIFAR: 32, STL-10: 96) and is moved a little; a photograph is cropped.
_SMALL_IMAGE_SIDE = 96


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with `probability` (fraction in [0, 1])."""

    probability: float = 0.5

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image or its mirror image."""
        if torch.rand(()).item() < self.probability:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


@dataclass(frozen=True)
class RandomShift:
    """Move the image by up to `fraction` of each side and fill with black: zero-pad, then crop to the old size.

    1/8 is the CIFAR recipe, 4 of 32 pixels on each side (He et al. 2016, Sec. 4.2).
    """

    fraction: float = 1 / 8

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, moved, at its old size."""
        shift = [_uniform_integer(-reach, reach) for reach in (round(side * self.fraction) for side in image.size)]
        shifted = Image.new(image.mode, image.size)
        shifted.paste(image, (shift[0], shift[1]))
        return shifted


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random window of the image, resized to `output_size`: the ImageNet recipe (Szegedy et al. 2015, Sec. 6).

    Args:
        output_size: height and width in pixels; None keeps the size of the image that comes in.
        scale: range of the window's area, as a fraction of the image's.
        ratio: range of width / height of the window, drawn log-uniformly.
    """

    output_size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The window, at `output_size`."""
        height, width = self.output_size or (image.height, image.width)
        return image.resize((width, height), Image.Resampling.BILINEAR, box=self._window(image.width, image.height))

    def _window(self, width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):  # a drawn shape may not fit into the image; torchvision tries ten times as well
            area = width * height * _uniform(*self.scale)
            ratio = math.exp(_uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = _uniform_integer(0, width - w), _uniform_integer(0, height - h)
                return left, top, left + w, top + h
        # The largest centred window of an allowed shape.
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclass(frozen=True)
class Compose:
    """One augmentation after the other."""

    steps: tuple[Augmentation, ...]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image after the last step."""
        for step in self.steps:
            image = step(image)
        return image


def choose_augmentation(label_names: Sequence[str], image_size: tuple[int, int] | None = None) -> str:
    """The name that "auto" stands for.

    Classes named by single characters or numbers are digits, letters, or classes nobody has named: they are never
    mirrored, only shifted. Other images are moved and mirrored up to 96 pixels, cropped and mirrored above.

    Args:
        label_names: the C class names.
        image_size: height and width of a typical image in pixels; None is taken for a photograph.
    """
    if label_names and all(len(name) == 1 or name.isdecimal() for name in label_names):
        return "shift"
    return "crop_flip" if image_size and max(image_size) <= _SMALL_IMAGE_SIDE else "resized_crop_flip"


def make_augmentation(
    name: str,
    output_size: tuple[int, int] | None = None,
    label_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
) -> Augmentation | None:
    """The augmentation called `name`, or None for "none".

    Args:
        name: one of `AUGMENTATIONS`.
        output_size: height and width the model sees, in pixels; only "resized_crop_flip" uses it.
        label_names: the C class names; only "auto" uses them (see `choose_augmentation`).
        image_size: height and width of a typical image in pixels; only "auto" uses it.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> augment = make_augmentation("crop_flip")
        >>> augment(Image.new("RGB", (32, 32))).size
        (32, 32)
    """
    check_augmentation_name(name)
    if name == "auto":
        name = choose_augmentation(label_names, image_size)
    by_name: dict[str, Augmentation | None] = {
        "none": None,
        "flip": RandomFlip(),
        "shift": RandomShift(),
        "crop_flip": Compose((RandomShift(), RandomFlip())),
        "resized_crop_flip": Compose((RandomResizedCrop(output_size), RandomFlip())),
    }
    return by_name[name]


def check_augmentation_name(name: str) -> None:
    """Raise a ValueError that lists the augmentations there are, unless `name` is one of them."""
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"augmentation={name!r} is unknown. Augmentations here: {', '.join(AUGMENTATIONS)}. Pass one of them as "
            "--augmentation."
        )


def decode_image(encoded: Mapping[str, Any] | None, name: str) -> Image.Image:
    """The RGB image, upright (EXIF), of any file Pillow reads: grey, palette, transparent, CMYK, 16-bit grey.

    Transparency is dropped, as in transformers' pipelines. Departure: those turn every 16-bit grey value above 255
    white; here 16 bits are scaled by 1 / 257, so that 65535 becomes 255.

    Args:
        encoded: {"bytes", "path"} as `datasets` stores an image that it does not decode.
        name: what to call the image in the error.

    Raises:
        ValueError: the image cannot be read; the sentence names it and the reason.
    """
    try:
        if encoded is None:
            raise ValueError("there is no image in this row")
        image = _DECODER.decode_example(dict(encoded))
        if image.mode == "F":
            raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
        if image.mode.startswith("I"):  # I;16, I;16B, I: whole numbers 0..65535
            image = Image.fromarray(np.clip(np.asarray(image) / 257 + 0.5, 0, 255).astype(np.uint8))
        elif image.mode == "P":  # by way of RGBA: a palette may carry transparency
            image = image.convert("RGBA")
        return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything from OSError to SyntaxError and struct.error
        raise ValueError(
            f"Cannot read {name} ({type(error).__name__}: {error}). Repair it, remove it, or pass --skip_bad_images to "
            "leave such images out."
        ) from error


def image_name(encoded: Mapping[str, Any] | None, row: int, where: str) -> str:
    """How a person finds the image: its file, or its row in `where` ("split 'train' of cifar10")."""
    path = encoded.get("path") if encoded else None
    if encoded and path and encoded.get("bytes") is None:
        return f"image {path}"
    return f"the image in row {row} of {where}" + (f" ({path})" if path else "")


class PixelValues:
    """Rows of encoded images to what the model takes, one processor call per batch; for `Dataset.with_transform`.

    Args:
        processor: a transformers image processor.
        image_column: column with the encoded images, `Image(decode=False)`.
        label_column: column with the labels.
        where: name of the split, for errors.
        row_column: column with the row of the image in that split, for errors.
        augment: called on every RGB image before the processor; None while judging.
    """

    def __init__(
        self,
        processor: Any,
        image_column: str,
        label_column: str,
        where: str,
        row_column: str,
        augment: Augmentation | None = None,
    ) -> None:
        self.processor, self.augment, self.where = processor, augment, where
        self.image_column, self.label_column, self.row_column = image_column, label_column, row_column

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """{"pixel_values": list of [3, H, W], "labels": list of int}, one of each per row.

        Raises:
            ValueError: an image cannot be read.
        """
        images = [
            decode_image(encoded, image_name(encoded, row, self.where))
            for encoded, row in zip(rows[self.image_column], rows[self.row_column], strict=True)
        ]
        if self.augment is not None:
            images = [self.augment(image) for image in images]
        arrays = self.processor(images=images)["pixel_values"]
        return {"pixel_values": [torch.as_tensor(array) for array in arrays], "labels": rows[self.label_column]}


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch: {"pixel_values": [B, 3, H, W], "labels": [B] int64}.

    Raises:
        ValueError: the images differ in size.
    """
    images = [row["pixel_values"] for row in rows]
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"The image processor gave images of {len(sizes)} sizes, {sizes[0]} and {sizes[1]} among them; a batch "
            'needs one. Give it a fixed size: processor.size = {"height": 224, "width": 224}.'
        )
    return {
        "pixel_values": torch.stack(images),  # B x [3, H, W] -> [B, 3, H, W]
        "labels": torch.tensor([int(row["labels"]) for row in rows], dtype=torch.int64),
    }


def make_image_processor(
    image_size: int, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> ViTImageProcessorPil:
    """The image processor of a model built from a config: resize to a square, scale to [0, 1], normalise.

    Args:
        image_size: side in pixels.
        mean: of each of the 3 channels, as a fraction of 255. Default: ViT's, which maps to [-1, 1].
        std: likewise, positive.

    Raises:
        ValueError: a size or a std that is not positive, or not 3 channels.
    """
    if image_size < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"image_size={image_size}, mean={mean}, std={std} describe no RGB image. Pass a size of at least 1 pixel, "
            "3 means and 3 positive deviations."
        )
    size = {"height": image_size, "width": image_size}
    return ViTImageProcessorPil(size=size, image_mean=list(mean), image_std=list(std))


def output_size(processor: Any) -> tuple[int, int] | None:
    """Height and width in pixels that an image processor gives, if known; its shortest edge where it does not crop."""
    cropped = getattr(processor, "do_center_crop", False)
    size = dict((processor.crop_size if cropped else processor.size) or {})
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    return (size["shortest_edge"], size["shortest_edge"]) if "shortest_edge" in size else None


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _uniform_integer(low: int, high: int) -> int:
    """Both ends included."""
    return int(torch.randint(low, high + 1, ()).item())
