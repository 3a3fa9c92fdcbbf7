"""Names and thumbnails beside bars and maps: all there, on two lines at most, of the right factors."""

import numpy as np
import pytest
from PIL import Image

from bndl_hf.plots import map_overlays, waterfall_plot
from bndl_hf.plots.factor_labels import on_two_lines

PARTS = {"parts": [2.0, -1.5], "rest": 0.5, "bias": -0.25, "factors": [7, 3]}
LONG = "feeds brontosaurus, crocodile_head, sea_horse +35 more (296)"


def thumbnails_of(figure):
    return [one for one in figure.axes[0].artists if one.get_gid() == "thumbnail"]


def test_a_long_name_is_on_two_lines_and_ends_in_an_ellipsis_where_it_is_longer():
    assert on_two_lines("fins", 30) == "fins"
    assert on_two_lines("feeds bass, crocodile +12 more", 20) == "feeds bass,\ncrocodile +12 more"
    lines = on_two_lines(LONG, 20).split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 20
    assert lines[1].endswith("…")


def test_a_waterfall_draws_each_factor_s_thumbnails_in_its_row():
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ("red", "green"))
    figure = waterfall_plot(**PARTS, names=["fins (7)", LONG], thumbnails=[[red, green], [green]], dpi=50)
    rows = [(box.xy[1], tuple(box.offsetbox.get_data()[0, 0])) for box in thumbnails_of(figure)]
    assert rows == [(0, (255, 0, 0)), (0, (0, 128, 0)), (1, (0, 128, 0))]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "fins (7)"
    assert labels[1].count("\n") == 1
    assert figure.get_figheight() > waterfall_plot(**PARTS, dpi=50).get_figheight()
    assert thumbnails_of(waterfall_plot(**PARTS, thumbnails=[[], []], dpi=50)) == []


@pytest.mark.parametrize(
    ("thumbnails", "says"),
    [([[]], "thumbnails of 1 factors; 2 parts need a list each"), ([[], [np.zeros((2, 2, 4))]], "shape \\[2, 2, 4\\]")],
)
def test_thumbnails_that_do_not_fit_are_refused(thumbnails, says):
    with pytest.raises(ValueError, match=says):
        waterfall_plot(**PARTS, thumbnails=thumbnails)


def test_long_captions_of_maps_make_the_row_higher():
    images, maps = np.zeros((1, 8, 8)), np.zeros((1, 1, 8, 8))
    one, two = (map_overlays(images, maps, [[words]], dpi=50) for words in ("fins", LONG))
    assert two.axes[1].get_title().count("\n") == 1
    assert two.get_figheight() > one.get_figheight()
