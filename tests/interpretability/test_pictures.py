"""Pixel values turned back into the pictures they were made of, whatever the processor did to them."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bndl_hf.interpretability import denormalized_images

SIZES = {"size": {"height": 16, "width": 16}, "crop_size": {"height": 16, "width": 16}}
PROCESSORS = {
    "ViT": {},
    "ViT, not normalised": {"do_normalize": False},
    "ViT, not rescaled": {"do_rescale": False, "do_normalize": False},
    "ViT, to -1 .. 1": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "MobileViT": {"size": {"shortest_edge": 16}, "do_flip_channel_order": True},
    "EfficientNet": {"do_center_crop": False},
    "EfficientNet, without its top": {"do_center_crop": False, "include_top": False},
    "CLIP": {"size": {"shortest_edge": 16}},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_come_back_as_they_were(name):
    kind = getattr(transformers, f"{name.split(',')[0]}ImageProcessor")
    processor = kind(**{**SIZES, **PROCESSORS[name]})
    pixels = np.random.default_rng(0).integers(0, 128, (16, 16, 3), dtype=np.uint8)  # fits -1 .. 1, too
    pixel_values = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 16, 16)
    found = denormalized_images(processor, pixel_values)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[0].astype(int), pixels.astype(int), atol=1)


def test_one_channel_is_a_grey_picture():
    processor = transformers.ViTImageProcessor(image_mean=[0.4], image_std=[0.25])
    assert denormalized_images(processor, torch.zeros(2, 1, 5, 7)).shape == (2, 5, 7)
    assert (denormalized_images(processor, torch.zeros(2, 1, 5, 7)) == 102).all()
