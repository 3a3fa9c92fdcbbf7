"""What an image processor does, as the page repeats it: read from its fields, tried on images, or refused."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil

from bndl_hf.export.recipe import apply_recipe, page_recipe

IMAGE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 30, "width": 20}),
        ViTImageProcessorPil(size={"height": 30, "width": 30}, resample=3, do_normalize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    ],
    ids=["exact", "bicubic", "cropped", "crop_pct", "warped"],
)
def test_a_recipe_repeats_its_processor(processor):
    wanted = processor(IMAGE, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(apply_recipe(page_recipe(processor), IMAGE), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resample": 0}, "resample=0"),
        ({"size": {"shortest_edge": 30}}, "different sizes"),
        ({"size": {"longest_edge": 30}}, "size="),
        ({"do_center_crop": True, "crop_size": {"height": 60, "width": 60}}, "must fit into"),
        ({"image_mean": [0.5]}, "three channels"),
    ],
)
def test_what_the_page_cannot_repeat_is_refused(values, message):
    processor = ViTImageProcessorPil(**{"size": {"height": 30, "width": 30}, **values})
    with pytest.raises(ValueError, match=message):
        page_recipe(processor)


def test_a_processor_that_does_more_than_its_fields_say_is_refused():
    class Mirrored(ViTImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            return super()._preprocess([image[..., ::-1].copy() for image in images], **kwargs)

    with pytest.raises(ValueError, match="makes something else of an image"):
        page_recipe(Mirrored(size={"height": 30, "width": 30}))
