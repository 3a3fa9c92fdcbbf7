"""Example images and figures of a card: the model's own answers, words for each picture, hostile names inert."""

import re

import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin

from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.evaluation import judge_answers
from bndl_hf.hub import CardExample, CardFigure, answer_examples, create_model_card, draw_card_figures, push_to_hub
from bndl_hf.hub.card_figures import FIGURES, fingerprint
from bndl_hf.hub.contents import write_contents
from bndl_hf.uncertainty import fit_decisions
from model.tiny import IMAGE_SIZE, tiny_model

from .pages import check_page

HOSTILE = 'cat"><img src=x onerror=alert(1)>|[x](http://evil.example)`\n---\nwidget: no {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def model():
    """A tiny ResNet with verdicts, whose first class has a hostile name."""
    model = tiny_model("resnet")
    model.config.id2label = {**model.config.id2label, 0: HOSTILE}
    C = model.config.num_labels
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(400, model.config.feature_dim, generator=generator)
    labels = model.decision_layer.predict(features).predicted_labels.clone()
    labels[::10] = (labels[::10] + 1) % C
    model.set_decisions(fit_decisions(model, (features, labels), risk=0.2, progress=False))
    return model


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


def pictures(count=3):
    generator = torch.Generator().manual_seed(1)
    return [
        Image.fromarray(torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(count)
    ]


def test_examples_are_published_with_the_scores_of_the_very_files(tmp_path, model, processor):
    secret = PngImagePlugin.PngInfo()
    secret.add_text("where", "/home/somebody")
    images = pictures()
    images[2].save(tmp_path / "third image.png", pnginfo=secret)
    folder = tmp_path / "contents"
    folder.mkdir()
    write_contents(
        folder, model, processor, repo_id="alice/cats", examples=[*images[:2], tmp_path / "third image.png"],
        results={"accuracy": 0.9, "num_images": 400}, dataset_name="uoft-cs/cifar10",
    )  # fmt: skip
    metadata, shown = check_page(folder)
    assert [one["src"] for one in metadata["widget"]] == [f"examples/example-{n}.png" for n in (1, 2, 3)]
    for entry in metadata["widget"]:
        with Image.open(folder / entry["src"]) as stored:
            assert not stored.info
            pixel_values = processor(images=[stored.convert("RGB")], return_tensors="pt")["pixel_values"]
        probs = model.predict(pixel_values).probs[0]
        names = [one["label"] for one in entry["output"]]
        assert names[0] == model.config.id2label[int(probs.argmax())]
        values = [one["score"] for one in entry["output"]]
        assert values == pytest.approx(probs.sort(descending=True).values[: len(values)].tolist(), abs=1e-6)
    assert [one["src"] for one in shown] == ["figures/examples.webp", "figures/weights_per_class.webp"]
    assert (folder / ".eval_results" / "uoft-cs--cifar10.yaml").is_file()


def test_every_figure_of_what_was_measured_has_words_with_its_numbers(tmp_path, model, processor):
    features = torch.rand(60, model.config.feature_dim, generator=torch.Generator().manual_seed(5))
    prediction = model.decision_layer.predict(features)
    labels = torch.arange(60) % model.config.num_labels
    results = judge_answers(prediction, labels, {"noise": prediction})
    results |= {
        "weights_per_class": [3] * model.config.num_labels,
        "top_factors": [{"factor": 0, "name": HOSTILE, "share": 0.25}],
    }
    images = pictures(2)
    examples = answer_examples(model, processor, images, titles=[HOSTILE, "a cat"])
    figures = draw_card_figures(
        tmp_path, results, examples=examples, pictures=images, thumbnails={0: images}, sources=HOSTILE
    )
    assert [figure.file for figure in figures] == [f"figures/{name}.webp" for name in FIGURES]
    assert f"{results['expected_calibration_error']:.3f}" in figures[1].alt
    assert "(25.0%)" in figures[4].alt
    for figure in figures:
        with Image.open(tmp_path / figure.file) as picture:
            assert picture.mode == "RGBA"  # no background: for light pages and dark ones
            assert picture.getpixel((1, 1))[3] == 0
    card = create_model_card(model, results, figures=figures, examples=examples)
    card.save(tmp_path / "README.md")
    check_page(tmp_path)
    assert "49" not in re.findall(r"^# .*$", card.text, flags=re.M)[0]
    assert len(re.findall(r"^---$", str(card), flags=re.M)) == 2
    assert [CardExample.from_dict(one.to_dict()) for one in examples] == examples
    assert fingerprint(results, examples) != fingerprint(results | {"accuracy": 0.1}, examples)


def test_results_of_another_shape_cost_a_figure_and_not_the_push(tmp_path, caplog):
    results = {"accuracy": 0.9, "reliability": {"edges": "none"}, "deciles": [1], "risk_coverage": 3}
    assert draw_card_figures(tmp_path, results) == []
    assert caplog.text.count("The card has no figure") == 3
    assert list(tmp_path.iterdir()) == []


def test_the_hub_takes_a_card_with_hostile_names(hub, model, processor):
    push_to_hub(model, processor, "alice/cats", examples=pictures(1), results={"accuracy": 0.5})
    files = hub.files("alice/cats")
    assert {"examples/example-1.png", "figures/examples.webp"} <= set(files)
    metadata = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert isinstance(metadata["widget"], list)
    assert metadata["widget"][0]["output"][0].keys() == {"label", "score"}
    push_to_hub(model, processor, "alice/cats", results={"accuracy": 0.5})
    assert "examples/example-1.png" not in hub.files("alice/cats")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"examples": [0] * 13}, "examples are 13 images; a card shows at most 12"),
        ({"examples": ["x.png"], "card": "# Mine"}, "examples are answered for a card that is made here"),
    ],
)
def test_examples_that_cannot_be_shown_are_refused(tmp_path, model, processor, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_contents(tmp_path, model, processor, repo_id="alice/cats", **arguments)


def test_a_figure_stands_where_a_card_has_a_place():
    with pytest.raises(ValueError, match="place='top' is not on a card"):
        CardFigure("x.png", place="top")
