"""The gallery's page in a browser, from a disk: it loads as one scrolls, searches, sorts, and stays local."""

import numpy as np
import pytest
import torch
from PIL import Image

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.interpretability import factor_gallery
from export.browser import chromium
from model.tiny import tiny_backbone_config

HOSTILE = "</script><img src=x onerror=alert(1)>"
NAMES = [HOSTILE, *(f"kind-{c}" for c in range(1, 20))]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """120 factors, each feeding two classes, of twelve noisy images."""
    torch.manual_seed(0)
    backbone = tiny_backbone_config("resnet")
    config = BNDLConfig.from_backbone_config(
        backbone, id2label=dict(enumerate(NAMES)), num_factors=120, loading_threshold=0.0
    )
    model = BNDLForImageClassification(config).eval()
    loadings = torch.zeros(120, 20)
    for k in range(120):
        loadings[k, k % 20], loadings[k, (k + 1) % 20] = 2.0, 1.0
    with torch.no_grad():
        model.decision_layer.raw_loadings.copy_(loadings)
        model.decision_layer.projection.bias.fill_(1.0)  # every factor is shown
    model.set_factor_names({7: "fins and gills"})
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    rows = [{"image": Image.fromarray(image), "label": i % 20} for i, image in enumerate(pixels)]
    folder = tmp_path_factory.mktemp("gallery")
    options = {"top": 3, "sheet_factors": 1, "progress": False, "single_file": False}
    return factor_gallery(model, make_image_processor(32), rows, folder, **options)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, gallery):
    """The page, opened from the disk; what it asked for, and what went wrong, must stay empty or local."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(gallery.page.as_uri())
    page.wait_for_selector("article")
    yield page
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def factors(page):
    found = page.eval_on_selector_all("article", "all => all.map(article => article.id)")
    return [int(one.removeprefix("factor-")) for one in found]


def until(page, condition):
    page.wait_for_function(condition, timeout=5000)


def test_cards_come_as_one_scrolls_what_matters_first(page, gallery):
    order = [card.factor for card in gallery.cards]
    first = factors(page)
    assert first == order[: len(first)]
    assert 0 < len(first) < 60
    assert page.inner_text("#count") == "120 of 120 factors"
    for _ in range(30):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(20)
        if len(factors(page)) == 120:
            break
    assert factors(page) == order
    until(page, "[...document.images].slice(-3).every(image => image.complete && image.naturalWidth === 32)")


def test_search_class_and_order_narrow_and_sort(page):
    page.fill("#search", "gills")
    until(page, "document.querySelectorAll('article').length === 1")
    assert factors(page) == [7]
    assert page.inner_text("h2") == "fins and gills factor 7"
    page.fill("#search", "KIND-5")
    until(page, "document.getElementById('count').textContent === '12 of 120 factors'")
    page.fill("#search", "no such thing")
    until(page, "document.getElementById('more').textContent.startsWith('No factor')")
    page.fill("#search", "")
    page.select_option("#class", label="kind-9")
    until(page, "document.getElementById('count').textContent === '12 of 120 factors'")
    until(page, "document.querySelectorAll('article').length >= 8")
    assert {k % 20 for k in factors(page)[:6]} == {9}  # a loading of 2 before one of 1
    assert {k % 20 for k in factors(page)[6:8]} == {8}
    page.select_option("#class", value="")
    page.select_option("#order", "number")
    until(page, "document.querySelector('article').id === 'factor-0'")
    assert factors(page)[:4] == [0, 1, 2, 3]


def test_names_are_inert_and_pictures_have_words(page):
    page.select_option("#order", "number")
    until(page, "document.querySelector('article').id === 'factor-0'")
    assert page.inner_text("h2 >> nth=0").startswith(f"feeds {HOSTILE}, kind-1")
    assert page.eval_on_selector_all("img", "all => all.every(i => i.alt.includes('which shows factor'))")
    assert page.eval_on_selector_all("img[src='x']", "all => all.length") == 0


def test_keys_search_step_through_cards_and_hide_the_maps(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == f"factor-{factors(page)[1]}"
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == f"factor-{factors(page)[0]}"
    assert page.is_visible("canvas >> nth=0")
    page.keyboard.press("m")
    assert not page.is_visible("canvas >> nth=0")


def test_a_page_without_its_folder_says_so(browser, gallery, tmp_path):
    alone = tmp_path / "gallery.html"
    alone.write_bytes(gallery.page.read_bytes())
    page = browser.new_page()
    page.goto(alone.as_uri())
    until(page, "document.getElementById('more').textContent.includes('keep the folder gallery_files beside')")
    page.close()


def test_no_sideways_scrolling_on_a_telephone(browser, gallery):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(gallery.page.as_uri())
    page.wait_for_selector("article")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
