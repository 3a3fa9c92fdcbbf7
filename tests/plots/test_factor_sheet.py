"""A sheet has a row for each factor: its words, its images, and each of them again under its own map."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bndl_hf.plots import FACTOR_COLOR, UNCERTAIN_COLOR, factor_sheet, save_figure

# Two factors, shown by two images and by one.
IMAGES = [np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.full((1, 4, 4, 3), 255, np.uint8)]
MAPS = [np.zeros((2, 4, 4)), np.zeros((1, 4, 4))]
MAPS[0][0, 1, 2], MAPS[0][1, 3, 0], MAPS[0][1, 0, 0] = 4.0, -1.0, 0.5
SHEET = {"images": IMAGES, "maps": MAPS, "names": ["factor 7", "factor $3"]}


def words(figure):
    """What is written beside each factor."""
    return [[text.get_text() for text in axes.texts] for axes in figure.axes if axes.texts]


def layers(figure):
    """RGBA of every map, in order."""
    return [np.asarray(axes.images[1].get_array()) for axes in figure.axes if len(axes.images) == 2]


def test_every_image_stands_above_itself_in_grey_under_its_map():
    figure = factor_sheet(**SHEET)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    assert len(shown) == 2 * 3
    np.testing.assert_allclose(shown[0], IMAGES[0][0] / 255)
    np.testing.assert_allclose(shown[1], 0.35 + 0.65 * (IMAGES[0][0] / 255) @ (0.299, 0.587, 0.114))
    np.testing.assert_allclose(shown[4], np.ones((4, 4, 3)))
    grey = factor_sheet([IMAGES[0][..., 0] / 255], MAPS[:1], ["a"])
    np.testing.assert_allclose(grey.axes[1].images[0].get_array(), IMAGES[0][0, ..., 0] / 255)


def test_sign_is_colour_and_every_map_has_a_scale_of_its_own():
    first, second, silent = layers(factor_sheet(**SHEET))
    np.testing.assert_allclose(first[1, 2], [*to_rgb(FACTOR_COLOR), 0.85], atol=1e-6)
    np.testing.assert_allclose(second[3, 0], [*to_rgb(UNCERTAIN_COLOR), 0.85], atol=1e-6)
    np.testing.assert_allclose(second[0, 0], [*to_rgb(FACTOR_COLOR), 0.85 / 4], atol=1e-6)
    assert not silent[..., 3].any()


def test_the_words_say_which_factor_what_it_feeds_and_how_pure_it_is(tmp_path):
    figure = factor_sheet(**SHEET, classes=[["cat", "dog $1"], []], purity=[0.875, None], title="Cats & $")
    assert words(figure) == [["factor 7", "feeds cat, dog $1\none class: 88%"], ["factor $3", "feeds no class"]]
    assert figure.get_suptitle() == "Cats & $"
    assert words(factor_sheet(**SHEET)) == [["factor 7", ""], ["factor $3", ""]]
    assert save_figure(figure, tmp_path / "sheet.png").stat().st_size > 0


def test_it_is_as_high_as_it_has_factors_and_as_wide_as_the_longest_row():
    two, one = factor_sheet(**SHEET), factor_sheet(IMAGES[1:], MAPS[1:], ["a"])
    (width, height), (narrow, low) = two.get_size_inches(), one.get_size_inches()
    assert width > narrow
    assert height - low == pytest.approx(2 * (width - narrow))  # two cells of one size for a factor


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": [], "maps": [], "names": []}, "images of 0, maps of 0 and names of 0 factors; give each all three"),
        ({"names": ["a"]}, "images of 2, maps of 2 and names of 1 factors"),
        ({"maps": [MAPS[0][:1], MAPS[1]]}, "factor 7: images of shape [2, 4, 4, 3] and maps of shape [1, 4, 4] do not"),
        ({"images": [IMAGES[0], IMAGES[1][:, :2]]}, "factor $3: images of shape [1, 2, 4, 3]"),
        (
            {"images": [IMAGES[0][:0], IMAGES[1]], "maps": [MAPS[0][:0], MAPS[1]]},
            "factor 7: images of shape [0, 4, 4, 3]",
        ),
        ({"images": [IMAGES[0][..., :2], IMAGES[1]]}, "factor 7: images of shape [2, 4, 4, 2]"),
        ({"maps": [MAPS[0] * np.nan, MAPS[1]]}, "factor 7: its maps hold NaN or infinite values"),
        ({"classes": [["cat"]]}, "classes of 1 and purity of 2 factors; 2 factors need 2"),
        ({"purity": [1.0, 0.5, 0.1]}, "classes of 2 and purity of 3 factors; 2 factors need 2"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        factor_sheet(**{**SHEET, **changes})
