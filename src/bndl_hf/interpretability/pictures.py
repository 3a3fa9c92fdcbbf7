"""What a model saw, as pictures: pixel values with the processor's normalisation undone, to lay maps over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BaseImageProcessor


def denormalized_images(processor: BaseImageProcessor, pixel_values: Tensor) -> np.ndarray:
    """Pixel values [B, channels, H, W] as pictures [B, H, W, 3] or, of one channel, [B, H, W]; uint8.

    Crops and changes of size stay: this is what the model saw.

    Args:
        processor: the image processor that made them; its `image_mean`, `image_std`, `rescale_factor` and order of
            channels are undone, as far as it says that it applied them.
        pixel_values: as the model reads them.
    """
    channels, pixels = pixel_values.shape[1], pixel_values.float().cpu()

    def says(name: str, default: Any = False) -> Any:
        value = getattr(processor, name, None)
        return default if value is None else value

    if says("do_normalize") and says("image_mean"):
        mean, std = (torch.tensor(says(name)).float().expand(channels) for name in ("image_mean", "image_std"))
        if says("include_top"):  # EfficientNet's divides by the deviation once more
            pixels = pixels * std[:, None, None]
        pixels = pixels * std[:, None, None] + mean[:, None, None]
    if says("rescale_offset"):  # to -1 .. 1
        pixels = pixels + 1
    pixels = pixels / (says("rescale_factor", 1 / 255) if says("do_rescale", True) else 1)  # 0 .. 255
    if says("do_flip_channel_order"):
        pixels = pixels.flip(1)
    pictures = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pictures[..., 0] if channels == 1 else pictures
