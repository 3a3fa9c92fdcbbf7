"""A card says what was measured and what the model is, in metadata the Hub reads and words a person reads."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.hub import create_model_card, eval_result_files

RESULTS = {
    "accuracy": 0.9123,
    "negative_log_likelihood": 0.2518,
    "expected_calibration_error": 0.0119,
    "pavpu": 0.92,
    "evaluated_on": "split 'test' of cats",
}


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
    assert metrics == pytest.approx(
        {"accuracy": 0.9123, "negative_log_likelihood": 0.2518, "expected_calibration_error": 0.0119}
    )
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
    assert "At a glance" not in card.text
    assert "widget" not in card.data.to_dict()
    assert "license" not in card.data.to_dict()


def test_the_papers_test_is_explained_below_by_the_numbers_of_the_model(resnet_model) -> None:
    # t(19, 97.5 %) = 2.0930, over sqrt(20) draws: a gap of 0.468 standard deviations; the normal tail beyond is 0.320.
    page = re.sub(r"\s+", " ", create_model_card(resnet_model, RESULTS).text)
    front, below = page.split("## Other measures")
    assert "p < 0.05, would 20 draws" in below
    assert "a gap of 0.47 standard deviations" in below
    assert "up to 32.0 % that one draw" in below
    assert "p-value" not in front
    assert "p_value" not in front
    assert "certain" not in front.replace("uncertainty", "")


def test_what_departs_from_the_preset_is_named(resnet_model) -> None:
    assert "| Preset | `default` |" in create_model_card(resnet_model, {}).text
    resnet_model.config.kl_global_weight = 0.25
    assert "| Preset | `default`, with `kl_global_weight=0.25` |" in create_model_card(resnet_model, {}).text


@pytest.mark.parametrize("installed", [True, False])
def test_the_code_on_the_card_runs_with_this_package_and_without(tmp_path, resnet_model, installed, run_python) -> None:
    resnet_model.config.verdict = VERDICT if installed else None
    resnet_model.save_pretrained(tmp_path / "cats")
    make_image_processor(32).save_pretrained(tmp_path / "cats")
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    code = re.findall(r"```python\n(.*?)```", create_model_card(resnet_model, RESULTS, model_id="cats").text, re.S)
    assert len(code) == 3
    code = "\n".join(code)
    if installed:
        code = "import bndl_hf\n" + code.replace(", trust_remote_code=True", "")
    done = run_python(["-c", code], tmp_path, installed=installed, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    answer, sentence, why = done.stdout.splitlines()
    label, probability, *verdict = answer.split()
    assert verdict == (["torn"] if installed else [])
    assert re.fullmatch(rf"{label}, \d+(\.\d)? %" + (": torn, .*" if installed else ""), sentence)
    assert abs(float(probability.removesuffix("%")) - float(re.findall(r"[\d.]+(?= %)", sentence)[0])) <= 0.5
    assert why.startswith(f"{label} ")
    assert "all others" in why
    assert why.endswith("bias")


def test_facts_of_transformers_trainer_are_taken_under_its_names(resnet_model) -> None:
    theirs = create_model_card(
        resnet_model,
        RESULTS,
        finetuned_from="microsoft/resnet-50",
        tasks="image-classification",
        dataset="Beans",
        dataset_tags=["AI-Lab/beans"],
        dataset_args="plain",
        tags=["vision", "bndl"],
        language="en",
        model_name="Leaves",
    )
    metadata = theirs.data.to_dict()
    assert metadata["base_model"] == "microsoft/resnet-50"
    assert metadata["datasets"] == "AI-Lab/beans"
    assert metadata["language"] == ["en"]
    assert metadata["tags"] == ["bndl", "uncertainty", "interpretability", "bayesian", "vision"]
    (index,) = metadata["model-index"]
    assert index["name"] == "Leaves"
    assert index["results"][0]["dataset"] == {
        "type": "AI-Lab/beans", "name": "Beans", "config": "plain", "split": "test"
    }  # fmt: skip
    assert theirs.text.strip().startswith("# Leaves")
    assert "It was trained on `Beans`." in theirs.text
    ours = create_model_card(
        resnet_model, RESULTS, base_model="microsoft/resnet-50", dataset_name="Beans", dataset_tags="AI-Lab/beans",
        dataset_args="plain", tags="vision", language="en", model_name="Leaves",
    )  # fmt: skip
    assert str(ours) == str(theirs)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"tasks": ["text-classification"]}, "tasks names text-classification; a BNDL classifier does image-class"),
        ({"finetuned_from": "a/b", "base_model": "a/c"}, "base_model='a/c' and finetuned_from='a/b' are two names"),
        ({"dataset": ["a", "b"], "dataset_name": "a"}, "dataset_name='a' and dataset='a, b' are two names for one"),
        ({"tags": [3]}, "tags holds 3; a text or several fit"),
        ({"finetuned_from": ["a/b", "a/c"]}, "names 2 classifiers; one was wrapped"),
    ],
)
def test_facts_that_contradict_each_other_are_refused_in_a_sentence(resnet_model, facts, sentence) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        create_model_card(resnet_model, RESULTS, **facts)


NASTY = "a`b*<script>alert(1)</script>|[x](http://evil.example)\n---\n# {{ 7 * 7 }} \"quoted\" 'text'"


def test_names_can_break_neither_the_metadata_nor_the_page_nor_the_code(resnet_model) -> None:
    card = create_model_card(
        resnet_model, RESULTS, base_model=NASTY, dataset_name=NASTY, model_id=NASTY, model_name=NASTY, license=NASTY,
        split=NASTY, tags=NASTY, language=NASTY, figures=[NASTY, "my figure (1).png"],
    )  # fmt: skip
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.license == NASTY
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", card.text, flags=re.S)
    assert "<script" not in outside_code
    assert "[x](" not in outside_code.replace(r"\[x\](", "")
    assert "http://" not in outside_code.replace("https://", "")
    assert "49" not in outside_code
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    plain = create_model_card(resnet_model, RESULTS, figures=["a.png"]).text
    assert len(headings) == len([line for line in plain.splitlines() if line.startswith("#")])
    assert "![my figure (1).png](my%20figure%20%281%29.png)" in card.text
    for code in re.findall(r"```python\n(.*?)```", card.text, re.S):
        compile(code, "card", "exec")


def test_a_number_of_images_that_is_none_is_refused(resnet_model) -> None:
    with pytest.raises(ValueError, match=r"results\['num_images'\] is 'many'"):
        create_model_card(resnet_model, RESULTS | {"num_images": "many"})


VERDICT = {
    "risk": 0.02,
    "delta": 0.05,
    "threshold": 0.9,
    "coverage": None,
    "familiar": None,
    "unfamiliar_above": None,
    "num_held_out": 500,
    "risk_curve": [],
}
VERDICTS = {"risk": 0.02, "share_sure": 0.4, "num_sure": 40, "errors_among_sure": 0.025, "share_unfamiliar": 0.01}


def test_one_table_says_at_a_glance_what_is_answered_and_how_well(resnet_model) -> None:
    resnet_model.config.verdict = VERDICT
    results = RESULTS | {"verdicts": VERDICTS | {"unfamiliar": {NASTY: 0.35}, "num_outsiders": {NASTY: 1468}}}
    page = create_model_card(resnet_model, results, dataset_name="digits").text
    table = page.split("## At a glance")[1].split("## How to use it")[0]
    assert [line.split(" | ")[0:2] for line in table.splitlines() if line.startswith("| ")][1:-2] == [
        ["| Accuracy", "91.2 %"],
        ["| NLL", "0.252"],
        ["| ECE", "0.012"],
        ["| Answered (sure)", "40.0 %"],
        ["| Errors among them", "2.5 %"],
        ["| Called unfamiliar", "1.0 %"],
    ]
    assert "of the 40 sure answers that are wrong; promised: at most 2 % |" in table
    assert "<script" not in page
    assert "\n# {{" not in page
    assert "1,468 images of no class here" in table
    assert "| Weights a class | " in table
    assert "the probability is 0.900 or more. Of such answers at most" in page
    purposes = re.findall(r"^(The .*):$", page.split("## Citation")[1], flags=re.M)
    assert purposes == ["The decision layer", "The threshold of sure answers"]


def test_a_promise_that_could_not_be_made_is_not_made(resnet_model) -> None:
    resnet_model.config.verdict = VERDICT | {"threshold": None}
    page = re.sub(r"\s+", " ", create_model_card(resnet_model, {}).text)
    assert "**sure**: never. 500 held-out images could not promise that at most 2 % of such answers are wrong." in page


@pytest.mark.parametrize("verdicts", [{}, [], "none", {"share_sure": None}, {"unfamiliar": 3}])
def test_entries_that_hold_no_verdicts_are_left_alone(resnet_model, verdicts) -> None:
    assert "Answered" not in create_model_card(resnet_model, RESULTS | {"verdicts": verdicts}).text


def test_what_is_known_of_the_training_is_a_table(resnet_model) -> None:
    results = RESULTS | {"num_training_images": 1438, "seed": 3, "environment": {"torch": "2.13.0"}}
    page = create_model_card(resnet_model, results, training={"Backbone": "frozen", NASTY: NASTY}).text
    table = page.split("## Training")[1].split("## ")[0]
    assert "| Backbone | frozen |" in table
    assert "| Training images | 1,438 |\n| Seed | 3 |\n| Made with | torch 2.13.0 |" in table
    assert "<script" not in table
    assert all(line.replace(r"\|", "").count("|") == 3 for line in table.splitlines() if line.startswith("|"))


def test_the_evaluation_results_are_what_the_hub_reads() -> None:
    files = eval_result_files(RESULTS, ["uoft-cs/cifar10", "digits"], split="test")
    assert list(files) == [".eval_results/uoft-cs--cifar10.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/uoft-cs--cifar10.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("uoft-cs/cifar10", "default", 0.9123)
    assert entry.notes == "accuracy, a fraction, of the test split; NLL 0.2518; ECE 0.0119"
    assert eval_result_files({}, ["uoft-cs/cifar10"]) == {}
    (name,) = eval_result_files(RESULTS, [f"a/{NASTY}"])
    assert re.fullmatch(r"\.eval_results/[A-Za-z0-9._-]+\.yaml", name)
