"""A card says what was measured and what the model is, in metadata the Hub reads and words a person reads."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from bndl_hf.hub import create_model_card

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
