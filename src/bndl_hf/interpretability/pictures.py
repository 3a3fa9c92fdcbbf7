"""What a model saw, as pictures: pixel values with the processor's normalisation undone, to lay maps over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def denormalized_images(processor: Any, pixel_values: Tensor) -> np.ndarray:
    """Pixel values [B, channels, H, W] as pictures [B, H, W, 3] or, of one channel, [B, H, W]; uint8.

    Crops and changes of size stay: this is what the model saw.

    Args:
        processor: the image processor that made them; one without `image_mean` and `image_std` is taken not to
            normalise.
        pixel_values: as the model reads them.
    """
    channels, pixels = pixel_values.shape[1], pixel_values.float().cpu()
    if getattr(processor, "do_normalize", True) and getattr(processor, "image_mean", None) is not None:
        mean, std = (
            torch.tensor(values).float().expand(channels) for values in (processor.image_mean, processor.image_std)
        )
        pixels = pixels * std[:, None, None] + mean[:, None, None]
    if not getattr(processor, "do_rescale", True):
        pixels = pixels / 255
    pictures = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pictures[..., 0] if channels == 1 else pictures
