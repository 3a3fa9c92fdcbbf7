"""The gallery of a classifier whose every factor is known: the right images in the right order, shares of a naive sum,
a page that stands alone, and no more images in memory than a batch."""

import base64
import json
import platform
import re
import weakref
from html.parser import HTMLParser

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.interpretability import denormalized_images, factor_gallery
from interpretability.maps.test_factor_maps import model_of
from interpretability.quadrants import BLOCK, LOADINGS, SIZE, quadrant, quadrants_model
from model.tiny import tiny_model

PROCESSOR = make_image_processor(SIZE, mean=(0, 0, 0), std=(1, 1, 1))
# Edges of each quadrant, 0..255: factor f of row n has the score STRENGTHS[n, f] / 255 / 4.
STRENGTHS = np.array(
    [[200, 0, 10, 0], [250, 0, 0, 0], [0, 40, 0, 160], [200, 0, 0, 90], [0, 0, 30, 255], [0, 80, 0, 255], [0, 0, 0, 0]]
)
LABELS = [0, 0, 1, 0, 1, 1, 0]
NAMES = ["<b>cats & dogs</b>", 'it\'s a "bird"']


class Rows:
    """Images that are made when asked for by their number; counts how many are alive at once."""

    def __init__(self, strengths=STRENGTHS, labels=LABELS, mode="RGB", **columns):
        self.strengths, self.labels, self.mode, self.columns = strengths, labels, mode, columns
        self.read, self.alive, self.most_alive = [], 0, 0

    def __len__(self):
        return len(self.strengths)

    def __iter__(self):
        raise AssertionError("the dataset was read whole")

    def __getitem__(self, number):
        self.read.append(number)
        labels = {} if self.labels is None else {"label": self.labels[number]}
        return {"image": self.image(number), **labels, **self.columns}

    def image(self, number):
        red = np.zeros((SIZE, SIZE), np.uint8)
        for f, strength in enumerate(self.strengths[number]):
            red[quadrant(f, SIZE)] = strength
        red[:, np.arange(SIZE) % BLOCK >= BLOCK // 2] = 0
        image = Image.fromarray(np.stack([red, red * 0, red * 0], axis=-1))
        if self.mode == "L":
            image = Image.fromarray(red)
        if self.mode == "I;16":
            image = Image.fromarray(red.astype(np.uint16) * 257)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(image, self._one_less)
        return image

    def _one_less(self):
        self.alive -= 1


def classifier(**bndl_config_kwargs):
    model = quadrants_model(bias="none", **bndl_config_kwargs)
    model.config.id2label = dict(enumerate(NAMES))
    return model


def gallery_of(folder, rows=None, model=None, processor=PROCESSOR, **kwargs):
    rows = Rows() if rows is None else rows
    kwargs = {"sheet_factors": 1, **kwargs}  # drawing takes longest
    return factor_gallery(model or classifier(), processor, rows, folder, progress=False, **kwargs)


def by_factor(gallery):
    return {card.factor: card for card in gallery.cards}


# ---- what it finds ----


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_top_images_are_the_right_rows_in_the_right_order(tmp_path, batch_size):
    gallery = gallery_of(tmp_path, top=3, batch_size=batch_size)
    found = {card.factor: card.images for card in gallery.cards}
    assert found == {0: [1, 0, 3], 1: [5, 2], 2: [4, 0], 3: [4, 5, 2]}  # of equal scores the first row
    for factor, card in by_factor(gallery).items():
        np.testing.assert_allclose(card.scores, STRENGTHS[card.images, factor] / 255 / 4, rtol=1e-5)
    assert (gallery.num_images, gallery.num_active, gallery.num_factors) == (7, 4, 4)


def test_shares_are_those_of_a_naive_sum(tmp_path):
    gallery = gallery_of(tmp_path, batch_size=2)
    evidence, active = np.zeros(4), np.zeros(4)
    for row in STRENGTHS:
        scores = [strength / 255 / 4 for strength in row]
        logits = [sum(scores[k] * LOADINGS[k, c].item() for k in range(4)) for c in range(2)]
        answer = int(np.argmax(logits))
        for k in range(4):
            evidence[k] += scores[k] * LOADINGS[k, answer].item()
            active[k] += scores[k] > 0
    cards = by_factor(gallery)
    np.testing.assert_allclose([cards[k].evidence_share for k in range(4)], evidence / evidence.sum(), rtol=1e-6)
    np.testing.assert_allclose([cards[k].active_share for k in range(4)], active / 7)
    np.testing.assert_allclose([cards[k].mean_contribution for k in range(4)], evidence / 7, rtol=1e-6)
    assert sum(card.evidence_share for card in gallery.cards) == pytest.approx(1)
    assert [card.factor for card in gallery.cards] == np.argsort(-evidence).tolist()


def test_a_factor_is_shown_with_the_classes_it_feeds_and_not_the_others(tmp_path):
    model = classifier()
    with torch.no_grad():
        model.decision_layer.raw_loadings.copy_(torch.tensor([[1.0, 2.0], [0.5, 0.0], [0.0, 0.0], [0.0, 3.0]]))
    gallery = gallery_of(tmp_path, model=model)
    cards = by_factor(gallery)
    assert cards[0].classes == [NAMES[1], NAMES[0]]
    assert cards[0].loadings == pytest.approx([2, 1])
    assert (cards[1].classes, cards[1].loadings) == ([NAMES[0]], pytest.approx([0.5]))
    assert sorted(cards) == [0, 1, 3]  # factor 2 feeds none
    assert (gallery.num_active, gallery.num_factors, int(gallery.purity.num_top[2])) == (3, 4, 0)


def test_a_model_whose_factors_feed_nothing_has_no_gallery(tmp_path):
    model = classifier()
    with torch.no_grad():
        model.decision_layer.raw_loadings.zero_()
    with pytest.raises(ValueError, match="and feeds a class"):
        gallery_of(tmp_path, model=model)


def test_purity_is_that_of_the_labels_and_there_is_none_without(tmp_path):
    labels = [0, 1, 1, 1, 1, 0, 0]
    cards = by_factor(gallery_of(tmp_path, Rows(labels=labels), label_names=["a", "b"]))
    assert {factor: card.purity for factor, card in cards.items()} == pytest.approx(
        {0: 2 / 3, 1: 1 / 2, 2: 1 / 2, 3: 0.75}
    )
    assert cards[3].labels == ["b", "a", "b", "b"]
    without = gallery_of(tmp_path, Rows(labels=None))
    assert without.purity is None
    assert all(card.purity is None and card.labels is None for card in without.cards)
    assert '"purity":null' in without.page.read_text()
    assert "purest first" not in without.page.read_text()


def test_pictures_are_what_the_model_saw_and_maps_lie_in_the_factor_s_quadrant(tmp_path):
    rows = Rows()
    gallery = gallery_of(tmp_path, rows)
    assert gallery.exact
    for factor, card in by_factor(gallery).items():
        np.testing.assert_array_equal(card.pictures[0], np.asarray(rows.image(card.images[0])))
        inside = card.maps[0][quadrant(factor, SIZE)].sum()
        assert card.maps[0].sum() == pytest.approx(card.scores[0], rel=1e-5)
        assert inside == pytest.approx(card.scores[0], rel=0.2)  # the grid is drawn smoothly over its borders
    assert by_factor(gallery)[0].maps.shape == (3, SIZE, SIZE)


def test_grey_images_are_looked_at_as_colour_ones(tmp_path):
    grey = gallery_of(tmp_path, Rows(mode="L"))
    assert by_factor(grey)[0].images == [1, 0, 3]
    assert by_factor(grey)[0].pictures.shape == (3, SIZE, SIZE, 3)


def test_sixteen_bits_of_grey_are_looked_at_as_the_same_eight(tmp_path):
    eight, sixteen = (by_factor(gallery_of(tmp_path, Rows(mode=mode))) for mode in ("L", "I;16"))
    assert {factor: card.images for factor, card in sixteen.items()} == {k: card.images for k, card in eight.items()}
    np.testing.assert_array_equal(sixteen[0].pictures, eight[0].pictures)


def test_large_pictures_and_their_maps_are_made_smaller_alike(tmp_path):
    processor = make_image_processor(160)
    (card, *_) = gallery_of(tmp_path, model=tiny_model("resnet"), processor=processor, max_factors=1, top=2).cards
    assert card.pictures.shape == (2, 128, 128, 3)
    assert card.maps.shape == (2, 128, 128)


def test_only_so_many_factors_as_asked_for_those_with_most_evidence(tmp_path):
    everything, some = gallery_of(tmp_path / "all"), gallery_of(tmp_path / "some", max_factors=2)
    assert [card.factor for card in some.cards] == [card.factor for card in everything.cards][:2]
    assert some.num_active == 4
    assert "the 2 with the most evidence of 4" in some.page.read_text()
    assert some.cards[0].evidence_share == everything.cards[0].evidence_share  # of all, not of those shown


def test_approximate_maps_are_said_to_be(tmp_path):
    model = classifier()
    model.backbone.classifier.register_forward_hook(lambda *given: given[-1] * 1.01)  # no longer an average
    gallery = gallery_of(tmp_path, model=model)
    assert (gallery.exact, gallery.method) == (False, "grad_cam")
    assert "approximately (grad cam)" in gallery.page.read_text()


def test_no_more_images_are_in_memory_than_a_batch_and_the_first(tmp_path):
    rows = Rows(np.tile(STRENGTHS, (20, 1)), LABELS * 20)
    gallery_of(tmp_path, rows, batch_size=5, top=3)
    assert len(rows) == 140
    assert rows.most_alive <= 5 + 1
    assert rows.alive <= 1


# ---- what it writes ----


class Page(HTMLParser):
    """Options, links and texts of a page, and the data in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.options, self.text, self.open = [], [], "", None
        self.feed(text)
        (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
        self.data = json.loads(data)

    def handle_starttag(self, tag, attrs):
        attrs, self.open = dict(attrs), tag
        self.links += [attrs[name] for name in ("src", "href", "srcset", "action", "data") if name in attrs]
        if tag == "option":
            self.options.append(attrs)

    def handle_data(self, data):
        self.text += data if self.open not in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.open = None


def chunks_of(text):
    return [json.loads(chunk) for chunk in re.findall(r"^bndlCards\(\d+, (.*)\);$", text, flags=re.MULTILINE)]


def test_a_small_page_needs_no_other_file(tmp_path):
    gallery = gallery_of(tmp_path, title="Cats & <dogs>")
    text = gallery.page.read_text()
    page = Page(text)
    assert gallery.files is None
    assert {path.name for path in tmp_path.iterdir()} == {"gallery.html", "gallery.png"}
    assert [card["k"] for card in page.data["cards"]] == [card.factor for card in gallery.cards]
    (chunk,) = chunks_of(text)
    assert [one["images"] for one in chunk] == [card.images for card in gallery.cards]
    assert set(page.data["images"]) == {str(row) for card in gallery.cards for row in card.images}
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.data["images"].values())
    assert page.links == ["data:,"]  # of an icon, which a browser would ask for
    assert not re.search(r"url\(|@import|https?:|innerHTML", text)
    assert "Cats & <dogs>" in page.text


def test_a_large_page_has_its_cards_and_images_beside_it(tmp_path):
    inside = gallery_of(tmp_path / "one")
    gallery = gallery_of(tmp_path / "two", single_file=False)
    page = Page(gallery.page.read_text())
    assert (page.data["folder"], page.data["images"]) == ("gallery_files", None)
    shown = {row for card in gallery.cards for row in card.images}
    assert {path.name for path in gallery.files.iterdir()} == {"cards-0.js", *(f"{row}.jpg" for row in shown)}
    assert chunks_of((gallery.files / "cards-0.js").read_text()) == chunks_of(inside.page.read_text())
    (gallery.files / "notes.txt").touch()
    gallery_of(tmp_path / "two")  # a single file again: what it does not need goes, what is not ours stays
    assert [path.name for path in gallery.files.iterdir()] == ["notes.txt"]


def test_maps_are_stored_by_position_with_the_largest_at_127(tmp_path):
    gallery = gallery_of(tmp_path)
    for card, found in zip(gallery.cards, chunks_of(gallery.page.read_text())[0], strict=True):
        height, width, packed = found["maps"][0]
        values = np.frombuffer(base64.b64decode(packed), np.int8).reshape(height, width)
        grid = card.grids[0].numpy()
        np.testing.assert_allclose(values, 127 * grid / np.abs(grid).max(), atol=0.51)
        assert values.max() == 127


def test_names_of_classes_and_factors_are_text_whatever_is_in_them(tmp_path):
    model = classifier()
    model.set_factor_names({1: "</script><script>alert(1)</script>"})
    gallery = gallery_of(tmp_path, model=model)
    text = gallery.page.read_text()
    page = Page(text)
    names = page.data["classes"]
    assert names == sorted(NAMES)
    assert [[names[c] for c in card["classes"]] for card in page.data["cards"]] == [c.classes for c in gallery.cards]
    assert {card["k"]: card["name"] for card in page.data["cards"]}[1] == "</script><script>alert(1)</script>"
    assert [option["value"] for option in page.options][:3] == ["", "0", "1"]
    assert "<b>cats" not in text
    assert "<script>alert" not in text
    assert all(name in page.text for name in NAMES)


def test_the_page_says_nothing_of_the_machine_and_is_the_same_again(tmp_path):
    one, two = gallery_of(tmp_path / "one"), gallery_of(tmp_path / "two", batch_size=2)
    assert one.page.read_bytes() == two.page.read_bytes()
    assert one.sheet.read_bytes() == two.sheet.read_bytes()
    assert one.page.read_bytes() == gallery_of(tmp_path / "one").page.read_bytes()  # over the old one
    words = re.sub(r"data:image[^\"]*", "", one.page.read_text())
    assert str(tmp_path) not in words
    assert platform.node() not in words.split()
    with Image.open(one.sheet) as image:
        assert set(image.info) <= {"dpi"}


def test_the_picture_has_a_row_for_each_factor_it_was_asked_for(tmp_path):
    heights = []
    for n in (1, 2, 12):
        with Image.open(gallery_of(tmp_path, sheet_factors=n).sheet) as image:
            heights.append(image.height)
    assert heights[1] - heights[0] > 100
    # Four factors are all there are; matplotlib before 3.11 rounds every height.
    assert heights[2] - heights[1] == pytest.approx(2 * (heights[1] - heights[0]), abs=4)


@pytest.mark.parametrize("name", ["gallery.html", "gallery.png"])
def test_a_file_that_cannot_be_written_leaves_nothing_half_written(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=name):
        gallery_of(tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert {path.name for path in tmp_path.iterdir()} <= {"gallery.html", "gallery.png"}


# ---- errors ----


def test_what_would_stop_it_at_the_end_stops_it_before_the_first_pass(tmp_path):
    (tmp_path / "file").touch()
    rows = Rows()
    with pytest.raises(OSError, match="file"):
        gallery_of(tmp_path / "file" / "folder", rows)
    perceiver, _ = model_of("perceiver")
    with pytest.raises(ValueError, match="makes no map of two positions or more of an image of 8x8 pixels"):
        gallery_of(tmp_path, rows, model=perceiver, processor=make_image_processor(8))
    assert set(rows.read) == {0}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_without_an_active_factor_has_no_gallery(tmp_path):
    with pytest.raises(ValueError, match="None of the 4 factors is above zero on any of 7 images"):
        gallery_of(tmp_path, model=classifier(score_threshold=2.0))
    assert not list(tmp_path.iterdir())


def test_a_decision_layer_alone_sees_no_images(tmp_path):
    with pytest.raises(TypeError, match="A BNDLDecisionLayer reads features, which have no place in an image"):
        gallery_of(tmp_path, model=classifier().decision_layer)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": []}, "The dataset is empty; pass one with images"),
        ({"rows": [3]}, "A row of the dataset is a int; pass rows that name their columns"),
        ({"rows": [{"text": "a", "label": 0}]}, "no images: its columns are text, label. A column of PIL images"),
        ({"image_column": "img"}, "image_column='img' is not a column of the dataset; its columns are image, label"),
        ({"label_column": "class"}, "label_column='class' is not a column of the dataset"),
        ({"image_column": "label"}, "image_column='label' holds a int, not PIL images"),
        ({"rows": Rows(labels=["cat"] * 7)}, "Column 'label' holds 'cat', and labels are places in label_names"),
        ({"rows": Rows(labels=[0, 1, 2, 0, 0, 0, 0])}, "labels run from 0 to 2; classes are 0 to 1"),
        ({"rows": Rows(labels=[0, -1, 0, 0, 0, 0, 0])}, "labels run from -1 to 0; .* Leave ignored images out"),
        ({"top": 0}, "top=0 shows nothing; pass 1 or more"),
        ({"max_factors": 0}, "max_factors=0 shows nothing"),
        ({"sheet_factors": 0}, "sheet_factors=0 shows nothing"),
        ({"batch_size": -1}, "batch_size=-1 shows nothing"),
        ({"tolerance": 1}, r"tolerance=1 is a share of the largest part; it lies in \[0, 1\)"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        gallery_of(tmp_path, **changes)


def test_columns_are_found_by_what_they_hold_or_by_their_name(tmp_path):
    rows = Rows(labels=None, note="a", fine_label=1)
    assert by_factor(gallery_of(tmp_path, rows))[0].labels == [NAMES[1]] * 3  # the only column that ends in "label"
    rows = Rows(labels=None, coarse_label=0, fine_label=1)
    assert gallery_of(tmp_path, rows).purity is None
    assert by_factor(gallery_of(tmp_path, rows, label_column="coarse_label"))[0].labels == [NAMES[0]] * 3


# ---- pictures ----


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "changes", [{}, {"do_normalize": False}, {"do_rescale": False}, {"do_rescale": False, "do_normalize": False}]
)
def test_denormalized_images_are_what_the_processor_was_given(changes):
    processor = make_image_processor(SIZE, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    for name, value in changes.items():
        setattr(processor, name, value)
    images = noise(2, SIZE, SIZE, 3)
    pixel_values = processor(images=list(images), return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(denormalized_images(processor, pixel_values), images)


def test_a_processor_that_says_nothing_of_normalising_does_not():
    images = noise(2, 4, 6, 3)
    pixel_values = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(denormalized_images(object(), pixel_values), images)
    np.testing.assert_array_equal(denormalized_images(object(), pixel_values[:, :1]), images[..., 0])  # grey


def test_labels_have_the_names_of_the_dataset_s_own_column(tmp_path):
    data = datasets.Dataset.from_list([{"image": Rows()[i]["image"], "label": i % 2} for i in range(4)])
    data = data.cast_column("label", datasets.ClassLabel(names=["zebra", "cat"]))
    (card,) = [card for card in gallery_of(tmp_path, data).cards if card.factor == 0]
    assert card.labels == [["zebra", "cat"][row % 2] for row in card.images]


def test_streams_and_missing_images_are_errors(tmp_path):
    with pytest.raises(ValueError, match="a generator without a length; rows are read by their number"):
        gallery_of(tmp_path, (row for row in [{}]))
    rows = [Rows()[0], {**Rows()[0], "image": None}]
    with pytest.raises(ValueError, match="Column 'image' holds a NoneType among its images"):
        gallery_of(tmp_path, rows)
