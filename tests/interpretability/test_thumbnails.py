"""Thumbnails of factors: the right images, stored beside the checkpoint, read a sheet at a time."""

import json

import numpy as np
import pytest
import torch

from bndl_hf.interpretability import collect_factor_thumbnails, factor_gallery, load_factor_thumbnails, prune
from bndl_hf.interpretability.thumbnails import THUMBNAILS_FOLDER
from interpretability.gallery.test_factor_gallery import PROCESSOR, STRENGTHS, Rows, classifier
from interpretability.quadrants import quadrant

SIZE = 64


def collected(model=None, **kwargs):
    rows = Rows(labels=[-1] * len(STRENGTHS))  # labels are not looked at
    return collect_factor_thumbnails(model or classifier(), PROCESSOR, rows, progress=False, **kwargs)


def brightness(image, factor):
    """Mean red of one quadrant."""
    return np.asarray(image)[(*quadrant(factor, SIZE), 0)].mean()


def test_thumbnails_are_the_images_that_show_the_factor_most(tmp_path):
    thumbnails = collected()
    assert thumbnails.factors == [0, 1, 2, 3]
    for factor, rows in {0: [1, 0, 3], 1: [5, 2], 2: [4, 0], 3: [4, 5, 2]}.items():
        images = thumbnails.images(factor)
        assert [image.size for image in images] == [(SIZE, SIZE)] * len(rows)
        found = [brightness(image, factor) for image in images]
        np.testing.assert_allclose(found, STRENGTHS[rows, factor] / 2, atol=1)  # half of a block is red
    assert len(thumbnails.images(0)) == 3
    assert len(collected(top=1).images(0)) == 1


def test_they_are_what_the_gallery_shows(tmp_path):
    gallery = factor_gallery(classifier(), PROCESSOR, Rows(), tmp_path, sheet_factors=1, progress=False)
    small = collected(size=32)
    for card in gallery.cards:
        found = small.images(card.factor)
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in found]), card.pictures[: len(found)])


def test_saved_beside_a_checkpoint_they_are_read_a_sheet_at_a_time(tmp_path):
    assert load_factor_thumbnails(tmp_path) is None
    thumbnails = collected()
    folder = thumbnails.save(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"index.json", "sheet-0.webp"}
    loaded = load_factor_thumbnails(tmp_path)
    (folder / "sheet-0.webp").rename(folder / "elsewhere.webp")
    assert (loaded.factors, loaded.num_factors, loaded.top, len(loaded)) == ([0, 1, 2, 3], 4, 3, 4)  # without a sheet
    (folder / "elsewhere.webp").rename(folder / "sheet-0.webp")
    for factor in range(4):
        for one, two in zip(thumbnails.images(factor), loaded.images(factor), strict=True):
            assert brightness(two, factor) == pytest.approx(brightness(one, factor), abs=8)  # WebP is lossy
    again = loaded.save(tmp_path)  # over itself
    assert again == folder
    assert load_factor_thumbnails(tmp_path).factors == [0, 1, 2, 3]


def test_factors_beyond_a_sheet_are_on_the_next(tmp_path):
    many = collected().renumbered([k % 4 for k in range(70)])
    many.save(tmp_path)
    assert (tmp_path / THUMBNAILS_FOLDER / "sheet-1.webp").is_file()
    loaded = load_factor_thumbnails(tmp_path)
    assert (len(loaded), loaded.num_factors) == (70, 70)
    assert [len(loaded.images(k)) for k in (66, 67, 68, 69)] == [2, 3, 3, 2]
    assert brightness(loaded.images(67)[0], 3) == pytest.approx(255 / 2, abs=8)


def test_silent_factors_have_none_and_numbers_follow_pruning():
    model = classifier()
    with torch.no_grad():
        model.decision_layer.raw_loadings[1] = 0
    thumbnails = collected(model)
    assert 1 not in thumbnails
    assert thumbnails.images(1) == []
    kept = (model.decision_layer.factor_loadings > 0).any(dim=1).nonzero().flatten().tolist()
    smaller = thumbnails.renumbered(kept)
    assert smaller.num_factors == prune(model).config.num_factors == 3
    assert smaller.images(1) == thumbnails.images(2)


@pytest.mark.parametrize("changes", [{"top": 0}, {"top": 9}, {"size": 15}, {"size": 257}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="a factor has 1 to 8 thumbnails of 16 to 256 pixels"):
        collected(**changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not JSON", "is not an index of thumbnails"),
        ("{}", "is not an index of thumbnails"),
        (json.dumps({"num_factors": 4, "size": 10**6, "top": 3, "factors": []}), "numbers that no thumbnails have"),
        (json.dumps({"num_factors": 4, "size": 64, "top": 3, "factors": [[9, 3]]}), "numbers that no thumbnails have"),
        (json.dumps({"num_factors": 4, "size": 64, "top": 3, "factors": [["0", 3]]}), "numbers that no thumbnails"),
    ],
)
def test_a_damaged_index_is_an_error_and_so_is_a_sheet_of_another_size(tmp_path, text, says):
    index = collected().save(tmp_path) / "index.json"
    index.write_text(index.read_text().replace('"size": 64', '"size": 32'))
    with pytest.raises(ValueError, match="Sheet 0 of the thumbnails is"):
        load_factor_thumbnails(tmp_path).images(0)
    with pytest.raises(ValueError, match="Factor 4 is out of range; the thumbnails are of 4 factors"):
        load_factor_thumbnails(tmp_path).images(4)
    index.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_factor_thumbnails(tmp_path)
