"""Overlays draw what they are given: sign as colour, size as opacity, one scale an image."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from bndl_hf.plots import FACTOR_COLOR, UNCERTAIN_COLOR, map_overlays, save_figure

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
MAPS = np.zeros((2, 2, 4, 4))
MAPS[0, 0, 1, 2], MAPS[0, 1, 3, 0], MAPS[1, 1, 0, 0] = 4.0, -1.0, 0.5


def layer(figure, row, column):
    """RGBA of the map in a cell; the image lies below it."""
    axes = figure.axes[row * 3 + column]
    assert len(axes.images) == 2
    return np.asarray(axes.images[1].get_array())


def test_sign_is_colour_and_size_is_opacity_on_one_scale_an_image():
    figure = map_overlays(IMAGES, torch.from_numpy(MAPS))
    first, second = layer(figure, 0, 1), layer(figure, 0, 2)
    np.testing.assert_allclose(first[1, 2], [*to_rgb(FACTOR_COLOR), 0.85], atol=1e-6)
    np.testing.assert_allclose(second[3, 0], [*to_rgb(UNCERTAIN_COLOR), 0.85 / 16], atol=1e-6)
    assert first[..., 3].sum() == pytest.approx(0.85)  # elsewhere transparent
    assert not layer(figure, 1, 1)[..., 3].any()
    assert layer(figure, 1, 2)[0, 0, 3] == pytest.approx(0.85)


def test_the_image_itself_stands_first_in_its_row():
    figure = map_overlays(IMAGES, MAPS[:, 0])
    assert len(figure.axes) == 4
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), IMAGES[1] / 255)
    grey = map_overlays(IMAGES[..., 0] / 255, MAPS[:, 0])
    np.testing.assert_allclose(grey.axes[0].images[0].get_array(), IMAGES[0, ..., 0] / 255)


def test_captions_stand_above_and_a_dollar_sign_is_no_formula(tmp_path):
    figure = map_overlays(IMAGES, MAPS, [["a", "b $1"], ["c", "d"]], ["cat", "dog"], title="Why")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat", "a", "b $1", "dog", "c", "d"]
    assert figure.get_suptitle() == "Why"
    assert save_figure(figure, tmp_path / "maps.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": IMAGES[0, 0]}, r"images have shape \[4, 3\]; pass \[B, H, W\] grey"),
        ({"images": IMAGES[:0]}, r"images have shape \[0, 4, 4, 3\]"),
        ({"maps": MAPS[:1]}, r"maps have shape \[1, 2, 4, 4\]; 2 images of 4x4 pixels need"),
        ({"maps": MAPS[..., :2]}, r"need \[2, k, 4, 4\] or \[2, 4, 4\]"),
        ({"maps": MAPS * np.nan}, "maps hold NaN or infinite values"),
        ({"captions": [["a", "b"]]}, "captions must be 2 rows of 2, one for each map"),
        ({"image_captions": ["a"]}, "image_captions are 1; 2 images need 2"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    with pytest.raises(ValueError, match=says):
        map_overlays(**{"images": IMAGES, "maps": MAPS, **changes})
