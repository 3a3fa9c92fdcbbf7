"""The cards that are checked in agree with their results, and their pages hold together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hub.pages import check_page
from script_modules import load_script

REPOSITORY = Path(__file__).parents[2]
CARDS = sorted(path for path in (REPOSITORY / "model_cards").iterdir() if path.is_dir())
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def make_cards():
    return load_script("make_cards")


@pytest.mark.parametrize("folder", CARDS, ids=lambda one: one.name)
def test_a_card_is_what_its_results_make_of_it(make_cards, folder):
    for name, text in make_cards.rendered(folder).items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"{name} is out of date: make_cards.py --render"


@pytest.mark.parametrize("folder", CARDS, ids=lambda one: one.name)
def test_a_page_has_no_broken_picture_and_reads_as_the_hub_reads_it(folder):
    metadata, images = check_page(folder)
    card = json.loads((folder / "card.json").read_text())
    assert [image["src"] for image in images] == [f"figures/{name}.webp" for name in card["figures"]]
    assert len(card["examples"]) == 6
    for entry in metadata.get("widget", []):
        assert (folder / entry["src"]).is_file()
    for file in folder.glob(".eval_results/*.yaml"):
        (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
        assert entry.value == round(json.loads((folder / "results.json").read_text())["accuracy"], 6)
    assert ModelCard.load(folder / "README.md").data.library_name == "transformers"


def test_all_cards_are_small_and_name_the_sources_of_pictures():
    files = [file for file in (REPOSITORY / "model_cards").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MAX_BYTES
    for folder in CARDS:
        sources = json.loads((folder / "card.json").read_text())["sources"]
        assert sources.split(" (")[0] in (folder / "README.md").read_text()


def test_results_that_changed_make_a_card_stale(make_cards, tmp_path):
    folder = tmp_path / CARDS[0].name
    shutil.copytree(CARDS[0], folder)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"negative_log_likelihood": 9.0}))
    assert make_cards.rendered(folder)["README.md"] != (folder / "README.md").read_text()
    (folder / "results.json").write_text(json.dumps(results | {"accuracy": 0.5}))
    with pytest.raises(ValueError, match="were drawn from other results; make the card again"):
        make_cards.rendered(folder)


def test_what_is_missing_is_said_before_anything_is_trained(make_cards):
    with pytest.raises(ValueError, match="--cards dogs: unknown; cards are digits, caltech101, imagenet, cifar10"):
        make_cards.CardArguments(cards=["dogs"])
    with pytest.raises(ValueError, match="caltech101: pass --models_dir, --datasets_dir and --features_dir"):
        make_cards.CardArguments(cards=["digits", "caltech101"])


def test_rows_are_parted_with_classes_alike():
    labels = torch.arange(600) % 3
    parts = load_script("card_models").in_parts(labels, [90, 60])
    assert sorted(torch.cat(parts).tolist()) == list(range(600))
    assert [len(one) for one in parts] == [90, 60, 450]
    assert all((labels[one].bincount() - len(one) / 3).abs().max() <= 1 for one in parts)
