"""What an image processor does to an image, as a recipe the page repeats: resize, crop, scale, normalise.

The recipe is read from the processor's fields and then tried: what the page would compute is compared with what the
processor makes of images of several shapes. So a processor that does more than its fields say is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor

# Filters of resize.js by Pillow's numbers; nearest (0) and hamming (5) are not there.
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
_TRIED = ((31, 47), (64, 64), (301, 17), (5, 9), (200, 333))  # height, width in pixels
# ConvNeXt's processor crops below this size and warps from it on.
_CROPPED_BELOW = 384
_FIT = "export_page repeats a resize (bilinear, bicubic, lanczos or box), a centre crop, scaling and normalising."


def page_recipe(processor: BaseImageProcessor) -> dict[str, Any]:
    """The recipe of a processor, as JSON holds it.

    Returns:
        "resize": None, {"height", "width"} or {"shortest_edge"}, pixels; "filter"; "crop": None or {"height", "width"};
        "scale", "mean" [3], "std" [3]: a byte b of channel c becomes (b scale - mean_c) / std_c.

    Raises:
        ValueError: the processor does something the page cannot repeat.
    """
    values = processor.to_dict()
    if values.get("do_pad"):
        raise ValueError(f"The image processor pads its images (do_pad). {_FIT}")
    resize, crop = _resize_and_crop(values)
    resample = values.get("resample")
    code = 2 if resample is None else int(resample)
    if resize is not None and code not in _FILTERS:
        raise ValueError(f"The image processor resizes with resample={code}. {_FIT}")
    channels = {"mean": values.get("image_mean"), "std": values.get("image_std")}
    if not values.get("do_normalize"):
        channels = {"mean": 0.0, "std": 1.0}
    recipe = {
        "resize": resize,
        "filter": _FILTERS.get(code, "bilinear"),
        "crop": crop,
        "scale": float(values["rescale_factor"]) if values.get("do_rescale") else 1.0,
        **{name: _of_three(name, value) for name, value in channels.items()},
    }
    _check_repeats(processor, recipe)
    return recipe


def apply_recipe(recipe: Mapping[str, Any], image: Image.Image) -> np.ndarray:
    """What the page makes of an RGB image: pixel values [3, height, width], float32."""
    width, height = image.size
    resize = recipe["resize"]
    if resize is not None and "shortest_edge" in resize:
        edge, longest = resize["shortest_edge"], int(resize["shortest_edge"] * max(width, height) / min(width, height))
        width, height = (edge, longest) if width <= height else (longest, edge)
    elif resize is not None:
        width, height = resize["width"], resize["height"]
    filters = {name: Image.Resampling(code) for code, name in _FILTERS.items()}
    pixels = np.asarray(image.resize((width, height), filters[recipe["filter"]]) if resize else image)
    if crop := recipe["crop"]:
        top, left = (height - crop["height"]) // 2, (width - crop["width"]) // 2
        pixels = pixels[top : top + crop["height"], left : left + crop["width"]]
    mean, std = np.asarray(recipe["mean"]), np.asarray(recipe["std"])
    return ((pixels * recipe["scale"] - mean) / std).astype(np.float32).transpose(2, 0, 1)


def _resize_and_crop(values: Mapping[str, Any]) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """Size to resize to, and to crop to, both None where that is not done."""
    size = _sides("size", values.get("size")) if values.get("do_resize") else None
    crop = _sides("crop_size", values.get("crop_size")) if values.get("do_center_crop") else None
    if crop is not None and "shortest_edge" in crop:
        raise ValueError(f"The image processor crops to {crop}, which is no height and width. {_FIT}")
    if size is not None and "shortest_edge" in size and values.get("crop_pct") is not None:
        edge = size["shortest_edge"]
        square = {"height": edge, "width": edge}
        if edge >= _CROPPED_BELOW:
            return square, crop
        return {"shortest_edge": int(edge / values["crop_pct"])}, square
    if crop is not None and (size is None or min(size.values()) < max(crop.values())):
        raise ValueError(
            f"The image processor crops to {crop['height']} x {crop['width']} pixels from an image that may be "
            f"smaller ({size}). {_FIT} The crop must fit into the resized image."
        )
    if crop is None and (size is None or "shortest_edge" in size):
        raise ValueError(
            "The image processor gives images of different sizes, and the exported graph reads one. Set a fixed size, "
            'as in processor.size = {"height": 224, "width": 224}.'
        )
    return size, crop


def _sides(name: str, size: Any) -> dict[str, int]:
    """A size as {"height", "width"} or {"shortest_edge"}."""
    given = {key: int(value) for key, value in dict(size or {}).items() if value is not None}
    if set(given) not in ({"height", "width"}, {"shortest_edge"}):
        raise ValueError(f"The image processor has {name}={size}; height and width, or shortest_edge, fit. {_FIT}")
    return given


def _of_three(name: str, value: Any) -> list[float]:
    numbers = [float(value)] * 3 if isinstance(value, int | float) else [float(number) for number in value or ()]
    if len(numbers) != 3:
        raise ValueError(f"The image processor has image_{name}={value}; the page reads images of three channels.")
    return numbers


def _check_repeats(processor: BaseImageProcessor, recipe: Mapping[str, Any]) -> None:
    """Raise ValueError where the recipe differs from the processor by more than rounding.

    torchvision's resize may round a pixel the other way, by one of 256 levels; Pillow's is repeated byte for byte.
    """
    levels = 1e-3 if getattr(processor, "backend", "pil") == "pil" else 1.01
    accepted = levels * recipe["scale"] / min(recipe["std"])
    generator = np.random.default_rng(0)
    for height, width in _TRIED:
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        wanted = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        found = apply_recipe(recipe, image)
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= accepted:
            raise ValueError(
                f"{type(processor).__name__} makes something else of an image of {height} x {width} pixels than its "
                f"fields say (shape {list(wanted.shape)}, where {list(found.shape)} follows from them). {_FIT}"
            )
