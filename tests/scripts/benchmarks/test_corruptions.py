"""benchmarks/corruptions.py: known answers of single corruptions, and what all of them have in common."""

import numpy as np
import pytest
from PIL import Image

from script_modules import load_script

corruptions = load_script("benchmarks/corruptions")
GREY = np.full((32, 32, 3), 0.5)


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def image():
    h, w = np.mgrid[:32, :32]
    waves = np.stack([h / 31, (w % 8) / 7, (h + w) % 4 / 3], axis=-1)  # slow and fast ones
    return Image.fromarray((255 * waves).round().astype(np.uint8))


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_severity_0_is_the_image_and_others_leave_it(name, image):
    assert corruptions.corrupt(image, name, 0, rng()) is image
    clean = np.asarray(image).astype(float)
    moved = [np.abs(np.asarray(corruptions.corrupt(image, name, s, rng())) - clean).mean() for s in (1, 5)]
    assert moved[0] > 0
    # Colours fade at severities 1 and 2 and are too bright later; a warp bends less of the image, but more sharply.
    assert moved[0] < moved[1] or name in ("saturate", "elastic_transform")
    again = corruptions.corrupt(image, name, 5, rng())
    assert (again.size, again.mode) == ((32, 32), "RGB")
    assert np.array_equal(again, corruptions.corrupt(image, name, 5, rng()))


@pytest.mark.parametrize(
    "name", ["gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast"]
)
def test_a_blur_and_a_contrast_leave_one_colour_as_it_is(name):
    function, parameters = corruptions.CORRUPTIONS[name]
    for one in parameters:
        np.testing.assert_allclose(function(GREY, one, rng()), GREY, atol=1e-12)


def test_noise_has_the_spread_it_says():
    # 3,072 values: the standard error of a standard deviation is sd / sqrt(2 x 3,072), below 1.3 %; four of them.
    for name, parameter, sd in (
        ("gaussian_noise", 0.1, 0.1),
        ("shot_noise", 50, (0.5 / 50) ** 0.5),
        ("speckle_noise", 0.2, 0.1),
    ):
        noise = corruptions.CORRUPTIONS[name][0](GREY, parameter, rng()) - GREY
        assert noise.std() == pytest.approx(sd, rel=0.06)
    hit = corruptions.impulse_noise(GREY, 0.07, rng())
    assert set(np.unique(hit)) == {0.0, 0.5, 1.0}
    assert (hit != 0.5).mean() == pytest.approx(0.07, abs=4 * (0.07 * 0.93 / 3072) ** 0.5)


def test_a_trail_falls_off_as_half_a_gaussian():
    point = np.zeros((9, 9))
    point[4, 6] = 1
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    np.testing.assert_allclose(corruptions.trail(point, 2, 1.0, 0.0)[4, 2:7], (weights / weights.sum())[::-1])


def test_brightness_and_saturation_are_those_of_hsv():
    colour = np.array([[[0.2, 0.4, 0.6], [0.0, 0.0, 0.0], [0.3, 0.3, 0.3]]])
    # V .6 -> .7, the same hue and saturation; black becomes grey.
    brighter = corruptions.brightness(colour, 0.1, rng())
    np.testing.assert_allclose(brighter[0, :2], [[0.2 * 7 / 6, 0.4 * 7 / 6, 0.7], [0.1, 0.1, 0.1]])
    # S 2/3 -> 1/3: half way to grey; a grey pixel has the hue of red.
    paler = corruptions.saturate(colour, (0.5, 0.0), rng())
    np.testing.assert_allclose(paler[0, 0], [0.4, 0.5, 0.6])
    np.testing.assert_allclose(corruptions.saturate(colour, (1.0, 0.5), rng())[0, 2], [0.3, 0.15, 0.15])


def test_a_zoom_keeps_the_centre_and_enlarges_about_it():
    ramp = np.repeat((np.arange(33.0) - 16)[:, None], 33, axis=1)
    np.testing.assert_allclose(corruptions.zoomed(ramp, 2.0)[:, 5], (np.arange(33) - 16) / 2)


def test_plasma_fills_zero_to_one():
    cloud = corruptions.plasma(32, 2.0, rng())
    assert (cloud.shape, cloud.min(), cloud.max()) == ((32, 32), 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("frost", 1, "corruption 'frost' is unknown; corruptions are gaussian_noise"),
        ("fog", 6, "severity=6 is unknown"),
    ],
)
def test_unknown_corruptions_and_severities_are_named(name, severity, message, image):
    with pytest.raises(ValueError, match=message):
        corruptions.corrupt(image, name, severity, rng())
