"""Curves of images whose answer is known by hand, pixel by pixel."""

import re

import pytest
import torch

from bndl_hf.interpretability import class_probability, factor_score, faithfulness_curves
from model.tiny import IMAGE_SIZE, NUM_LABELS, tiny_model


def top_left(pixel_values):
    """What a model that looks at one pixel alone would say."""
    return pixel_values[:, 0, 0, 0]


def test_curves_of_four_pixels_are_those_made_by_hand():
    images = torch.tensor([[[[8.0, 0.0], [0.0, 4.0]]], [[[1.0, 1.0], [1.0, 5.0]]]])  # [2, 1, 2, 2], means 3 and 2
    maps = torch.tensor([[[4.0, 3.0], [2.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])  # top left first, and last
    curves = faithfulness_curves(lambda x: x.sum(dim=(1, 2, 3)), images, maps, steps=4, baseline="mean")
    assert curves.replaced.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.deletion.tolist() == [[12, 7, 10, 13, 12], [8, 5, 6, 7, 8]]
    assert curves.insertion.tolist() == [[12, 17, 14, 11, 12], [8, 11, 10, 9, 8]]
    assert curves.deletion_area.tolist() == pytest.approx([(6 + 7 + 10 + 13 + 6) / 4, (4 + 5 + 6 + 7 + 4) / 4])
    assert curves.insertion_area.tolist() == pytest.approx([(6 + 17 + 14 + 11 + 6) / 4, (4 + 11 + 10 + 9 + 4) / 4])
    assert (curves.baseline, curves.seed) == ("mean", 0)


def test_a_map_that_knows_beats_the_random_order_and_that_beats_a_map_that_is_wrong():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    images[:, 0, 0, 0] = 5.0
    right = torch.zeros(6, 8, 8)
    right[:, 0, 0] = 1.0
    areas = {}
    for name, maps in (("right", right), ("random", torch.zeros_like(right)), ("wrong", -right)):
        curves = faithfulness_curves(top_left, images, maps, steps=16)
        areas[name] = curves.deletion_area.mean(), curves.insertion_area.mean()
    assert areas["right"][0] < areas["random"][0] < areas["wrong"][0]
    assert areas["right"][1] > areas["random"][1] > areas["wrong"][1]


def test_a_constant_map_orders_at_random_by_its_seed():
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 1, 8, 8)
    maps = torch.ones(200, 8, 8)
    curves = [faithfulness_curves(top_left, images + 1, maps, steps=64, baseline="mean", seed=s) for s in (0, 0, 1)]
    assert torch.equal(curves[0].deletion, curves[1].deletion)
    assert not torch.equal(curves[0].deletion, curves[2].deletion)
    # The top left pixel goes at a uniformly random one of 64 steps: on average half way, within four standard errors.
    gone = (curves[0].deletion == 1.0).sum(dim=1).float() / 65
    assert abs(gone.mean().item() - 0.5) < 4 * (1 / 12 / 200) ** 0.5


def test_steps_that_do_not_divide_the_pixels_still_end_with_all_of_them():
    images, maps = torch.rand(2, 1, 5, 5), torch.rand(2, 5, 5)
    curves = faithfulness_curves(lambda x: x.std(dim=(1, 2, 3)), images, maps, steps=7, baseline="mean")
    torch.testing.assert_close(curves.replaced, torch.tensor([0, 4, 7, 11, 14, 18, 21, 25]) / 25)
    torch.testing.assert_close(curves.deletion[:, -1], torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(curves.insertion[:, -1], curves.deletion[:, 0])
    torch.testing.assert_close(curves.insertion[:, 0], curves.deletion[:, -1])


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 3, 9, 24), (1, 3, 2, 2), (1, 1, 1, 1)])
def test_the_blur_is_a_gaussian_that_keeps_even_areas_even(shape):
    seen = []

    def keep(pixel_values):
        seen.append(pixel_values.clone())
        return pixel_values.mean(dim=(1, 2, 3))

    maps = torch.zeros(shape[0], *shape[2:])
    faithfulness_curves(keep, torch.full(shape, 3.0), maps, steps=1)
    torch.testing.assert_close(seen[1], torch.full(shape, 3.0))
    if shape[2] == 16:  # a point becomes the product of two normal densities of standard deviation 2
        image = torch.zeros(shape)
        image[0, 0, 8, 8] = 1.0
        seen.clear()
        faithfulness_curves(keep, image, maps, steps=1)
        offset = torch.arange(-6, 7.0)
        density = torch.exp(-(offset**2) / 8) / torch.exp(-(offset**2) / 8).sum()
        torch.testing.assert_close(seen[1][0, 0, 2:15, 2:15], density[:, None] * density)


def test_a_model_s_factors_and_classes_can_be_watched(pixel_values):
    model = tiny_model("vit").train()
    maps = torch.rand(4, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    scores, probs = model.eval()(pixel_values).factor_scores, model.predict(pixel_values).probs
    model.train()
    several = torch.tensor([3, 0, 1, 2])
    for watched, expected in (
        (factor_score(model, 5), scores[:, 5]),
        (factor_score(model, several), scores[range(4), several]),
        (class_probability(model, 2), probs[:, 2]),
        (class_probability(model, several), probs[range(4), several]),
    ):
        curves = faithfulness_curves(watched, pixel_values, maps, steps=3)
        torch.testing.assert_close(curves.deletion[:, 0], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(curves.insertion[:, -1], expected, rtol=1e-4, atol=1e-5)
        assert curves.deletion.shape == (4, 4)
    assert model.training


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pixel_values": torch.rand(2, 5, 5)}, "pixel_values have shape [2, 5, 5]; [B, channels, H, W]"),
        ({"maps": torch.rand(2, 7, 7)}, "maps have shape [2, 7, 7]; one for each image, [2, 5, 5], fits."),
        ({"maps": torch.full((2, 5, 5), torch.nan)}, "maps hold 50 NaN, which has no place in an order."),
        ({"steps": 0}, "steps=0 must lie between 1 and the number of pixels, 25."),
        ({"steps": 26}, "steps=26 must lie between"),
        ({"baseline": "black"}, "baseline='black' is unknown; choose one of 'blur', 'mean'."),
        ({"evaluate": lambda x: x.mean()}, "evaluate returned []; one number for each of 2 images, [2], fits."),
        ({"evaluate": lambda x: x[:, 0, 0, 0] / 0}, "evaluate returned NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    inputs = {"evaluate": top_left, "pixel_values": torch.rand(2, 3, 5, 5), "maps": torch.rand(2, 5, 5), "steps": 5}
    with pytest.raises(ValueError, match=re.escape(says)):
        faithfulness_curves(**{**inputs, **changes})


@pytest.mark.parametrize("kind", ["factor", "class"])
@pytest.mark.parametrize("index", [-1, 64, [0, 99], 1.0])
def test_a_factor_or_class_out_of_range_is_an_error(kind, index):
    watch, count, name = (
        (factor_score, 64, "factors") if kind == "factor" else (class_probability, NUM_LABELS, "target")
    )
    says = f"{name}={index} must be one number, or one an image, between 0 and {count - 1}."
    with pytest.raises(ValueError, match=re.escape(says)):
        watch(tiny_model("vit"), torch.tensor(index))
