"""A checkpoint where this package is not installed: everything works, also after saving or pushing again."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bndl_hf import BNDLModel
from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.hub import push_to_hub
from bndl_hf.model.prediction_sets import ConformalPredictor
from model.tiny import IMAGE_SIZE, tiny_model

STRANGER = Path(__file__).with_name("stranger.py")
LABELS = {i: name for i, name in enumerate(("cat", "dog", "owl", "fox", "bee"))}
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 30 * 30).view(2, 3, 30, 30)


@pytest.fixture(scope="module")
def model():
    return with_decisions(tiny_model("vit", id2label=LABELS))


def with_decisions(model):
    """Something of everything that is fitted on held-out images."""
    model.set_temperature(0.4, 1.5)
    model.set_conformal(ConformalPredictor("raps", 0.9, 0.55, num_images=99, num_classes=5, penalty=0.01, free_ranks=2))
    model.set_abstention(model.predict(PIXEL_VALUES).probs.amax().item())  # one of the two is answered
    return model


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def ask_stranger(run_python):
    """What stranger.py saw, in a process without this package."""

    def ask(home, source, image, *flags, **environment):
        environment = {"HF_HUB_OFFLINE": "1", **environment}
        done = run_python([STRANGER, source, image, *flags], home, installed=False, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


def assert_saw(seen, model, labels):
    """The stranger's answers are the installed package's, to the last bit but for the pipelines' batching."""
    assert not seen["has_package"]
    assert seen["modules"] == ["transformers_modules"]
    assert seen["labels"] == labels
    prediction, evidence = model.predict(PIXEL_VALUES), model.explain(PIXEL_VALUES, top_k=3)
    assert seen["probs"] == prediction.probs.tolist()
    assert seen["p_value"] == prediction.p_value.tolist()
    assert seen["is_answered"] == prediction.is_answered.tolist()
    assert seen["prediction_sets"] == prediction.prediction_sets.tolist()
    assert seen["answer"]["label"] == seen["answer"]["prediction_set"][0]
    assert seen["factors"] == evidence.factors.tolist()
    assert seen["logit"] == evidence.total.tolist()
    scorer = BNDLModel(model.config).eval()
    scorer.load_state_dict(model.state_dict())
    assert seen["factor_scores"] == scorer(PIXEL_VALUES).factor_scores.tolist()
    assert seen["entries"] == seen["entries_from_objects"]
    assert seen["plain_pipeline"] == "transformers"  # the checkpoint's code changes nobody else's pipeline
    assert {"label", "score", "p_value", "is_certain", "is_answered", "epistemic"} <= set(seen["entries"][0])
    assert seen["entries"][0]["score"] == pytest.approx(seen["answer"]["probability"])
    assert seen["answer"]["evidence"]["label"] == seen["answer"]["label"] == seen["entries"][0]["label"]


def doubled(model):
    """The change stranger.py makes before saving."""
    changed = with_decisions(tiny_model("vit", id2label=LABELS))
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.decision_layer.raw_loadings.mul_(2)
    return changed


RENAMED = [f"renamed {name}" for name in LABELS.values()]


def test_from_a_folder_and_from_what_a_stranger_saved(tmp_path, ask_stranger, model, image):
    model.save_pretrained(tmp_path / "first")
    make_image_processor(IMAGE_SIZE).save_pretrained(tmp_path / "first")
    home = tmp_path / "home"
    home.mkdir()
    seen = ask_stranger(home, tmp_path / "first", image, "--save", tmp_path / "second")
    assert_saw(seen, model, list(LABELS.values()))
    for file in (tmp_path / "first").glob("*.py"):
        assert (tmp_path / "second" / file.name).read_text() == file.read_text()
    # Somebody else gets it, without the first folder or what it left in the cache.
    os.rename(tmp_path / "first", tmp_path / "gone")
    other = tmp_path / "other"
    other.mkdir()
    again = ask_stranger(other, tmp_path / "second", image)
    assert again["probs"] == seen["changed_probs"]
    assert_saw(again, doubled(model), RENAMED)


def test_over_http_pushed_again_by_a_stranger_and_offline_from_the_cache(tmp_path, ask_stranger, hub, model, image):
    push_to_hub(model, make_image_processor(IMAGE_SIZE), "alice/digits")
    homes = {name: tmp_path / name for name in ("bob", "carol")}
    for home in homes.values():
        home.mkdir()

    def over_http(name, token=None):
        return {**hub.environment(token, homes[name]), "HF_HUB_OFFLINE": "0"}

    seen = ask_stranger(homes["bob"], "alice/digits", image, "--push", "bob/digits", **over_http("bob", "hf_bob"))
    assert_saw(seen, model, list(LABELS.values()))
    theirs = hub.files("bob/digits")
    assert {name: theirs[name] for name in theirs if name.endswith(".py")} == {
        name: content
        for name, content in hub.files("alice/digits").items()
        if name.endswith(".py") and name != "handler.py"  # transformers saves the model's own code
    }
    assert "alice" not in theirs["config.json"].decode()

    again = ask_stranger(homes["carol"], "bob/digits", image, **over_http("carol"))
    assert again["probs"] == seen["changed_probs"]
    assert_saw(again, doubled(model), RENAMED)
    hub.close()
    assert ask_stranger(homes["carol"], "bob/digits", image) == again  # offline, from the cache
