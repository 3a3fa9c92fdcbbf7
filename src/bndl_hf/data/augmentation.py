"""Random changes to training images: flips, shifts, crops.

Pillow, numpy and torch only; no torchvision. An augmentation is a small picklable callable, RGB image in, RGB image
out, placed before the image processor. All of them draw from torch's global generator, which `Trainer` seeds in the
main process and torch seeds differently in every DataLoader worker: one seed repeats a run, and no two workers draw
the same numbers (a generator carried inside the callable would be copied into every worker and make them all alike).
Next to read: `pixel_values.py`, which decodes an image before and hands it to the processor after.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

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

    Classes named by single characters or numbers are digits, letters, or classes without names: they are never
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


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _uniform_integer(low: int, high: int) -> int:
    """Both ends included."""
    return int(torch.randint(low, high + 1, ()).item())
