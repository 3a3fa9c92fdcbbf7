"""The page in Chromium: the same answers as Python, for images of every kind, and nothing asked of anybody."""

import csv
import io
import json
import re
from importlib.resources import files as package_files

import numpy as np
import pytest
import torch
from PIL import Image

from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.export import export_page
from bndl_hf.export.page_pictures import example_pictures, thumbnail_sheets
from bndl_hf.export.runtime import find_runtime
from bndl_hf.export.web_page import joined_code
from bndl_hf.interpretability.thumbnails import FactorThumbnails
from bndl_hf.model.input_images import read_image
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.model.verdicts import VerdictRule, as_percentage
from export.browser import Visit, chromium, served
from model.tiny import IMAGE_SIZE, NUM_LABELS, tiny_model

LABELS = ["cat", "dog", "</script><img src=x onerror=alert(1)>", "=HYPERLINK(1)", "owl, or “bird”"]
RISK_CURVE = ((0.0, 0.3, 1.0), (0.35, 0.1, 0.8), (0.9, 0.02, 0.5), (0.99, 0.005, 0.2))


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


@pytest.fixture(scope="module")
def model():
    model = tiny_model("resnet", id2label=dict(enumerate(LABELS)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # answers that differ from image to image
        loadings = model.decision_layer.raw_loadings
        loadings.copy_(3 * torch.rand(loadings.shape, generator=generator))
    rule = VerdictRule(0.02, 0.05, 0.9, 0.95, None, None, 500, RISK_CURVE).to_dict()
    sets = ConformalPredictor("aps", 0.95, 0.8, 500, NUM_LABELS).to_dict()
    for config in (model.config, model.decision_layer.config):
        config.verdict, config.conformal = rule, sets
    model.set_factor_names({0: "<b>fins</b>"})
    return model


@pytest.fixture(scope="module")
def thumbnails(model):
    K = len(model.decision_layer.raw_loadings)
    sheet = Image.new("RGB", (8 * 2 * 32, 8 * 32), "teal")
    return FactorThumbnails(K, 32, 2, dict.fromkeys(range(K), 2), lambda _: sheet)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, processor, thumbnails, browser):
    if not find_runtime().files:
        pytest.skip("needs onnxruntime-web: npm and a network, once")
    path = tmp_path_factory.mktemp("page")
    examples = {"a meadow": photograph(1), "<i>a lake</i>": photograph(2)}
    for name in ("example-9.png", "mine.png"):  # of an earlier page, and somebody's own
        (path / name).touch()
    export_page(model, processor, examples, path, thumbnails=thumbnails)
    return path


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def opened(browser, address):
    visit = Visit(browser, address)
    visit.wait_for(lambda: visit.said("asked"))  # the first example is answered by itself
    return visit


@pytest.fixture
def visit(opened, address):
    """The page, open for all tests."""
    yield opened
    assert opened.complaints == []
    assert all(url.startswith((address, "blob:", "data:")) for url in opened.requests)


def photograph(seed, width=61, height=43):
    """Smooth colours: what JPEG keeps."""
    generator = np.random.default_rng(seed)
    rough = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return rough.resize((width, height), Image.Resampling.BICUBIC)


def odd_images(folder):
    """{file: whether Python's and the page's pixels are the same} of many kinds."""
    image = photograph(4)
    kinds = {
        "plain.png": (image, {}),
        "plain.bmp": (image, {}),
        "palette.png": (image.quantize(31), {}),
        "palette.gif": (image.quantize(31), {}),
        "grey.png": (image.convert("L"), {}),
        "grey.jpg": (image.convert("L"), {"quality": 90}),
        "one-bit.png": (image.convert("1"), {}),
        "opaque-alpha.png": (image.convert("RGBA"), {}),
        "plain.jpg": (image, {"quality": 90}),
        "progressive.jpg": (image, {"quality": 90, "progressive": True}),
        "cmyk.jpg": (image.convert("CMYK"), {"quality": 95}),
        "lossless.webp": (image, {"lossless": True}),
        "lossy.webp": (image, {"quality": 80}),
        "one-pixel.png": (photograph(5, 1, 1), {}),
        "wide.png": (photograph(6, 700, 3), {}),
        "high.png": (photograph(7, 2, 500), {}),
        "as-large-as-the-model.png": (photograph(8, IMAGE_SIZE, IMAGE_SIZE), {}),
        "large.png": (photograph(9, 900, 800), {}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / name, **options)
    rotated = image.getexif()
    rotated[0x0112] = 6
    image.save(folder / "rotated.jpg", quality=90, exif=rotated)
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "sixteen-bit.png")
    frames = [photograph(seed).quantize(16) for seed in (10, 11)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    return [*kinds, "rotated.jpg", "sixteen-bit.png", "animated.gif"]


def python_answer(model, processor, file):
    return model.predict(processor(read_image(file), return_tensors="pt")["pixel_values"])


def test_images_of_every_kind_get_pythons_answer(visit, tmp_path, model, processor):
    names = odd_images(tmp_path)
    visit.ask(*(tmp_path / name for name in names))
    rows = {row["image"]: row for row in csv.DictReader(io.StringIO(visit.csv()))}
    assert set(rows) == set(names)
    seen = set()
    for name, row in rows.items():
        prediction = python_answer(model, processor, tmp_path / name)
        assert not row["problem"], row
        assert row["answer"].lstrip("'") == LABELS[prediction.probs.argmax()], name
        assert float(row["probability"]) == pytest.approx(prediction.probs.max().item(), abs=1e-4), name
        assert float(row["total_nats"]) == pytest.approx(prediction.total.item(), abs=1e-3), name
        assert row["verdict"] == ("sure", "torn", "unfamiliar")[prediction.verdict], name
        assert len(row["set"].split("; ")) == prediction.prediction_sets.sum()
        seen.add(row["probability"])
    assert len(seen) > len(names) // 2  # answers that do not differ would prove nothing


def test_the_sentence_is_that_of_describe(visit, tmp_path, model, processor):
    photograph(12).save(tmp_path / "one.png")
    visit.ask(tmp_path / "one.png")
    prediction = python_answer(model, processor, tmp_path / "one.png")
    assert visit.page.inner_text("#spoken") == f"one.png: {prediction.describe(model.config.id2label)[0]}."


def test_a_larger_accepted_risk_makes_more_answers_sure(visit, tmp_path, model, processor):
    probability = python_answer(model, processor, _saved(photograph(13), tmp_path / "one.png")).probs.max().item()
    assert 0.35 < probability < 0.9
    visit.ask(tmp_path / "one.png")
    assert visit.page.inner_text("#reason .verdict").split() == ["◐", "torn"]
    slider = visit.page.locator("#risk")
    assert slider.get_attribute("aria-valuetext") == "at most 2 % errors"
    slider.focus()
    visit.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "at most 30 % errors"
    assert visit.page.inner_text("#reason .verdict").split() == ["●", "sure"]
    assert "at most 30 % of answers this sure are wrong" in visit.page.inner_text("#spoken")
    visit.page.keyboard.press("Home")
    assert "99 %" in visit.page.inner_text("#risk-note")
    assert "torn" in visit.page.inner_text("#spoken")
    while visit.page.inner_text("#risk-value") != "2 %":
        visit.page.keyboard.press("ArrowRight")


def _saved(image, path):
    image.save(path)
    return path


def test_an_example_is_answered_by_keyboard_and_the_map_is_shown_on_demand(visit):
    visit.wait_for(lambda: visit.page.locator(".example").count() == 2)
    visit.page.locator(".example").nth(1).focus()
    visit.page.keyboard.press("Enter")
    visit.wait_for(lambda: visit.page.inner_text("#caption") == "<i>a lake</i>")
    assert visit.page.is_hidden("#map")
    visit.page.click("#map-toggle")
    assert visit.page.get_attribute("#map-toggle", "aria-pressed") == "true"
    drawn = "[...document.getElementById('map').getContext('2d').getImageData(0, 0, 400, 200).data].some(Boolean)"
    assert visit.page.evaluate(drawn)


def test_parts_add_up_and_have_names_and_thumbnails(visit, tmp_path, model, processor):
    photograph(14).save(tmp_path / "one.png")
    visit.ask(tmp_path / "one.png")
    values = [float(text.replace("−", "-")) for text in visit.page.locator("#parts .value").all_inner_texts()]
    prediction = python_answer(model, processor, tmp_path / "one.png")
    assert len(values) == 7
    assert sum(values) == pytest.approx(prediction.logits_mean.max().item(), abs=0.04)  # seven roundings of .005
    visit.wait_for(lambda: visit.page.locator("#parts .thumbnail").count() == 10)


def test_names_are_text_and_never_markup_or_a_formula(visit, tmp_path):
    photograph(15).save(tmp_path / "=1+1.png")
    photograph(16).save(tmp_path / "<img src=x onerror=alert(1)>.png")
    visit.ask(*sorted(tmp_path.iterdir()))
    assert visit.page.locator("img").count() == 2  # the examples
    assert visit.page.locator("#parts b, #caption i").count() == 0
    text = visit.csv()
    assert not re.search(r"(^|,)=", text, flags=re.MULTILINE)
    assert "'=1+1.png" in text


def test_what_is_no_image_is_said_in_a_sentence(visit, tmp_path):
    photograph(17).save(tmp_path / "whole.png")
    photograph(18, 300, 200).save(tmp_path / "whole.jpg")
    whole, jpeg = (tmp_path / "whole.png").read_bytes(), (tmp_path / "whole.jpg").read_bytes()
    giant = whole[:16] + (50000).to_bytes(4, "big") * 2 + whole[24:]
    hostile = {
        "empty.png": (b"", "is empty"),
        "cut.png": (whole[: len(whole) // 2], "is cut off"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "is cut off"),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>" * 9, "is not an image"),
        "page.png": (b"<!doctype html><script>alert(1)</script>" * 9, "is not an image"),
        "giant.png": (giant, "2500 million"),
        "damaged.png": (whole[:60] + bytes(40) + whole[100:], "is damaged"),
    }
    for name, (content, message) in hostile.items():
        (tmp_path / name).write_bytes(content)
        visit.ask(tmp_path / name)
        assert message in visit.page.inner_text("#problem"), name
    visit.ask(*(tmp_path / name for name in hostile), tmp_path / "whole.png")
    assert visit.page.locator("#table td.problem").count() == len(hostile)
    assert "7 of 8 images could not be read" in visit.page.inner_text("#problem")
    visit.ask(tmp_path / "whole.png")
    assert visit.page.is_hidden("#problem")


def test_the_table_puts_doubt_first_and_sorts_by_its_heads(visit, tmp_path):
    for seed in range(6):
        photograph(20 + seed).save(tmp_path / f"{seed}.png")
    visit.ask(*sorted(tmp_path.iterdir()))
    rows = list(csv.DictReader(io.StringIO(visit.csv())))
    doubts = [(row["verdict"] == "torn", -float(row["probability"])) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    visit.page.click("#table th:first-child button")
    assert visit.page.get_attribute("#table th:first-child", "aria-sort") == "ascending"
    assert visit.page.locator(".row-name").all_inner_texts() == [f"{seed}.png" for seed in range(6)]
    visit.page.click(".row-name >> nth=3")
    visit.wait_for(lambda: visit.page.inner_text("#caption") == "3.png")


def test_one_file_opens_without_a_server_on_a_phone_in_the_dark(browser, folder, tmp_path, model, processor):
    page = export_page(model, processor, [photograph(1)], tmp_path / "page.html", single_file=True)
    assert page.is_runtime_embedded
    assert list(page.files) == ["page.html"]
    shape = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    visit = Visit(browser, (tmp_path / "page.html").as_uri(), **shape)
    visit.wait_for(lambda: visit.said("asked"))
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "blob", "data"}
    assert "Example 1: " in visit.page.inner_text("#spoken")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    visit.page.context.close()


@pytest.mark.parametrize("size", [(2, 500), (700, 3), (61, 43), (1, 1), (30, 24), (20, 24), (30, 90)], ids=str)
def test_resize_is_pillows_byte_for_byte(browser, size):
    code = re.sub(r"^export ", "", package_files("bndl_hf.export").joinpath("page/resize.js").read_text(), flags=re.M)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    page = browser.new_page()
    for name in ("bilinear", "bicubic", "lanczos", "box"):
        data = np.asarray(image.convert("RGBA")).ravel().tolist()
        call = (
            f"resize({{data: Uint8ClampedArray.from({data}), width: {size[0]}, height: {size[1]}}}, 30, 24, '{name}')"
        )
        found = page.evaluate(f"() => {{ {code}; return [...{call}.data]; }}")
        wanted = image.resize((30, 24), Image.Resampling[name.upper()]).convert("RGBA")
        assert found == np.asarray(wanted).ravel().tolist(), name
    page.close()


def test_percentages_are_rounded_as_python_rounds_them(browser):
    code = re.sub(
        r"^export ", "", package_files("bndl_hf.export").joinpath("page/decisions.js").read_text(), flags=re.M
    )
    values = [n / 800 for n in range(801)] + [n / 4000 for n in range(80)] + [1e-4, 0.99999]
    page = browser.new_page()
    found = page.evaluate(f"(values) => {{ {code}; return values.map(asPercentage); }}", values)
    page.close()
    assert found == [as_percentage(value) for value in values]


def test_joined_modules_declare_each_name_once():
    code = joined_code()
    assert not re.search(r"^(import|export)\b", code, flags=re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:const|let|function|class) (\w+)", code, flags=re.MULTILINE)
    assert len(names) > 40
    assert len(names) == len(set(names))
    assert "</script" not in code


def test_a_folder_imports_its_own_code_alone_and_names_whose_it_is(folder):
    page = (folder / "index.html").read_text()
    assert "script-src &#39;self&#39; &#39;wasm-unsafe-eval&#39;;" in page
    assert "onnxruntime-web 1.30.0, © Microsoft Corporation, MIT License" in page
    assert (folder / "ort.wasm.bundle.min.mjs").read_bytes()[:2] != b"\x1f\x8b"


def test_files_of_an_earlier_page_go_and_others_stay(folder):
    assert not (folder / "example-9.png").exists()
    assert (folder / "mine.png").exists()


@pytest.mark.parametrize("single_file", [True, False])
def test_a_path_of_the_other_kind_is_refused(single_file, tmp_path, model, processor):
    path = tmp_path if single_file else tmp_path / "file"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="it must be a"):
        export_page(model, processor, [], path, single_file=single_file)


def test_without_a_runtime_of_its_own_the_page_names_pinned_files(tmp_path, model, processor, caplog):
    page = export_page(model, processor, [], tmp_path / "page.html", single_file=True, runtime="cdn")
    assert (page.is_runtime_embedded, page.runtime) == (False, "cdn")
    text = page.page.read_text()
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text, flags=re.DOTALL)[1])
    assert facts["labels"] == LABELS
    for entry in facts["remote"].values():
        assert "@1.30.0/" in entry["url"]
        assert entry["integrity"].startswith("sha384-")
    assert len(text) < 1e6


def test_examples_carry_no_metadata(tmp_path):
    image = photograph(1, 200, 100)
    exif = image.getexif()
    exif[0x010F] = "A camera"
    image.save(tmp_path / "where.jpg", exif=exif)
    entries, files = example_pictures([tmp_path / "where.jpg"])
    assert entries == [{"name": "where", "file": "example-1.jpeg"}]
    assert b"A camera" not in files["example-1.jpeg"]


def test_a_sheet_holds_the_thumbnails_of_thirty_two_factors(thumbnails, model):
    facts, files = thumbnail_sheets(thumbnails)
    K = len(model.decision_layer.raw_loadings)
    assert len(files) == -(-K // 32)
    assert facts["places"]["1"] == [0, 1, 2]
    assert thumbnail_sheets(None) == (None, {})
