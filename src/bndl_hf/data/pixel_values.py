"""From an encoded image to what the model takes: decoded to RGB, augmented, processed, batched."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTImageProcessorPil

from bndl_hf.data.augmentation import Augmentation

_DECODER = ImageFeature()


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


class RGBImages:
    """Rows of encoded images to rows of RGB images; for `Dataset.with_transform`.

    Args:
        image_column: column with the encoded images, `Image(decode=False)`.
        where: name of the split, for errors.
        row_column: column with the row of the image in that split, for errors.
    """

    def __init__(self, image_column: str, where: str, row_column: str) -> None:
        self.image_column, self.where, self.row_column = image_column, where, row_column

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The same rows with their images decoded.

        Raises:
            ValueError: an image cannot be read.
        """
        images = [
            decode_image(encoded, image_name(encoded, row, self.where))
            for encoded, row in zip(rows[self.image_column], rows[self.row_column], strict=True)
        ]
        return {**rows, self.image_column: images}


class PixelValues:
    """Rows of encoded images to what the model takes, one processor call per batch; for `Dataset.with_transform`.

    Args:
        processor: a transformers image processor.
        image_column: column with the encoded images, `Image(decode=False)`.
        label_column: column with the labels.
        where: name of the split, for errors.
        row_column: column with the row of the image in that split, for errors.
        augment: any callable from an RGB PIL image to a PIL image, called on every image before the processor: one of
            augmentation.py, a function, a transform of torchvision. None while judging.
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
        self.processor, self.label_column, self.augment = processor, label_column, augment
        self.decode = RGBImages(image_column, where, row_column)

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """{"pixel_values": list of [3, H, W], "labels": list of int}, one of each per row.

        Raises:
            ValueError: an image cannot be read.
            TypeError: `augment` returned something that is not a PIL image.
        """
        images = self.decode(rows)[self.decode.image_column]
        if self.augment is not None:
            images = [self.augment(image) for image in images]
            for image in images:
                if not isinstance(image, Image.Image):
                    raise TypeError(
                        f"The augmentation returned {type(image).__name__}; it must return a PIL image. Leave out "
                        "steps that make tensors or normalise: the image processor does that."
                    )
        arrays = self.processor(images=images)["pixel_values"]
        return {"pixel_values": [torch.as_tensor(array) for array in arrays], "labels": rows[self.label_column]}


def collate(rows: Sequence[Any]) -> dict[str, torch.Tensor]:
    """A batch: {"pixel_values": [B, 3, H, W], "labels": [B] int64}.

    Args:
        rows: each {"pixel_values": [3, H, W], "labels": int}, or a tuple (pixel_values, label), as the datasets of
            torchvision give where their transform ends in the image processor.

    Raises:
        ValueError: a row of another kind, images of different sizes, or a label that is not one whole number.

    Example:
        >>> collate([(torch.zeros(3, 8, 8), 1), (torch.ones(3, 8, 8), 0)])["labels"]
        tensor([1, 0])
    """
    pairs = [_image_and_label(row) for row in rows]
    images = [image for image, _ in pairs]
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"The image processor gave images of {len(sizes)} sizes, {sizes[0]} and {sizes[1]} among them; a batch "
            'needs one. Give it a fixed size: processor.size = {"height": 224, "width": 224}.'
        )
    return {
        "pixel_values": torch.stack(images),  # B x [3, H, W] -> [B, 3, H, W]
        "labels": torch.tensor([label for _, label in pairs], dtype=torch.int64),
    }


def _image_and_label(row: Any) -> tuple[torch.Tensor, int]:
    """What one row holds, see `collate`."""
    if isinstance(row, Mapping) and {"pixel_values", "labels"} <= set(row):
        image, label = row["pixel_values"], row["labels"]
    elif isinstance(row, tuple | list) and len(row) == 2:
        image, label = row
    else:
        held = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise ValueError(
            f"A row holds {held}; collate takes rows of pixel_values and labels, or (pixel_values, label). Use "
            "ImageDataset.with_pixel_values, or rename the columns."
        )
    if not isinstance(image, torch.Tensor | np.ndarray):
        raise ValueError(
            f"A row holds its image as {type(image).__name__}; collate takes what an image processor made of it. Give "
            'the dataset transform=lambda image: processor(image, return_tensors="pt")["pixel_values"][0].'
        )
    if np.ndim(label) != 0 or int(label) != label:
        raise ValueError(
            f"A row has the label {label!r}; a label is one whole number, the place of the image's class. Several "
            "classes per image (multi-hot labels) are not supported."
        )
    return torch.as_tensor(image), int(label)


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
            f"image_size={image_size}, mean={mean}, std={std} do not describe an RGB image. Pass a size of at least "
            "1 pixel, 3 means and 3 positive deviations."
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
