"""A card says what was measured and what the model is, in metadata the Hub reads and words a person reads."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.hub import create_model_card

from .processes import run_python

RESULTS = {"accuracy": 0.9123, "nll": 0.2518, "ece": 0.0119, "pavpu": 0.92, "evaluated_on": "split 'test' of cats"}


def test_the_metadata_holds_the_results_where_the_hub_looks_for_them(resnet_model) -> None:
    card = create_model_card(
        resnet_model, RESULTS, base_model="microsoft/resnet-50", dataset_name="uoft-cs/cifar10", license="apache-2.0"
    )
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---", str(card), flags=re.S)[1])
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-classification"
    assert {"bndl", "uncertainty"} <= set(metadata["tags"])
    assert metadata["base_model"] == "microsoft/resnet-50"
    assert metadata["datasets"] == "uoft-cs/cifar10"
    assert metadata["license"] == "apache-2.0"
    metrics = {m["type"]: m["value"] for m in metadata["model-index"][0]["results"][0]["metrics"]}
    assert metrics == pytest.approx({"accuracy": 0.9123, "nll": 0.2518, "ece": 0.0119})
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_the_page_shows_what_was_measured_and_nothing_else(resnet_model) -> None:
    page = create_model_card(resnet_model, RESULTS, dataset_name="digits", figures=["predictions.png"]).text
    assert "91.2" in page
    assert "0.2518" in page or "0.252" in page
    assert "Brier" not in page  # it was not measured
    assert "![predictions.png](predictions.png)" in page
    assert f"| Factors, K | {resnet_model.config.num_factors}" in page
    assert "Hu, Xinyue" in page


def test_no_local_path_gets_into_a_card(resnet_model, tmp_path) -> None:
    card = create_model_card(
        resnet_model, RESULTS, base_model=str(tmp_path / "my-resnet"), dataset_name=str(tmp_path / "my-images")
    )
    assert str(tmp_path) not in str(card)
    assert "my-resnet" in card.text
    assert "base_model" not in card.data.to_dict()


def test_a_figure_that_is_no_number_is_refused(resnet_model) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        create_model_card(resnet_model, {"accuracy": float("nan")})


def test_neither_figures_nor_the_split_nor_a_windows_path_give_a_folder_away(resnet_model) -> None:
    results = RESULTS | {
        "evaluated_on": "split 'test' of /home/somebody/cats",
        "command": "--output_dir /home/somebody",
    }
    figures = ["/home/somebody/maps.png", "../somebody/other.png", "figures/own.png"]
    card = create_model_card(
        resnet_model, results, base_model=r"C:\Users\somebody\my-resnet", figures=figures, model_id="/home/somebody/out"
    )
    assert "somebody" not in str(card)
    assert "split: test" in str(card)
    assert re.findall(r"!\[(.*?)\]", card.text) == ["maps.png", "other.png", "figures/own.png"]


def test_a_card_without_results_says_nothing_about_any(resnet_model) -> None:
    card = create_model_card(resnet_model, {})
    assert "model-index" not in str(card)
    assert "## Results" not in card.text
    assert "license" not in card.data.to_dict()


def test_certain_is_explained_by_the_numbers_of_the_model(resnet_model) -> None:
    # t(19, 97.5 %) = 2.0930, over sqrt(20) draws: a gap of 0.468 standard deviations; the normal tail beyond is 0.320.
    page = re.sub(r"\s+", " ", create_model_card(resnet_model, RESULTS).text)
    assert "p < 0.05: would 20 draws" in page
    assert "a gap of 0.47 standard deviations" in page
    assert "up to 32.0 % that one draw" in page


def test_what_departs_from_the_preset_is_named(resnet_model) -> None:
    assert "| Preset | `default` |" in create_model_card(resnet_model, {}).text
    resnet_model.config.kl_global_weight = 0.25
    assert "| Preset | `default`, with `kl_global_weight=0.25` |" in create_model_card(resnet_model, {}).text


@pytest.mark.parametrize("installed", [True, False])
def test_the_code_on_the_card_runs_with_this_package_and_without(tmp_path, resnet_model, installed) -> None:
    resnet_model.save_pretrained(tmp_path / "cats")
    make_image_processor(32).save_pretrained(tmp_path / "cats")
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    code = re.findall(r"```python\n(.*?)```", create_model_card(resnet_model, RESULTS, model_id="cats").text, re.S)
    assert len(code) == 2
    code = "\n".join(code)
    if installed:
        code = "import bndl_hf\n" + code.replace(", trust_remote_code=True", "")
    done = run_python(["-c", code], tmp_path, installed=installed, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.splitlines()
    assert printed[0].endswith("certain")
    assert printed[0].split()[:2] == printed[1].split()
    assert printed[-1].startswith("rest: ")
    assert "bias:" in printed[-1]
