"""evaluate.py as a user runs it: in one process and in two, killed and started again, and given what does not fit."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.hub import create_model_card
from bndl_hf.hub.contents import public_results
from bndl_hf.uncertainty import MEASURES
from jobs import JobServer, wait_for_both
from script_modules import TINY_RESNET, load_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
FIGURES = ("accuracy_by_decile", "pavpu", "reliability", "risk_coverage", "uncertainty_histograms")


evaluate = load_script("evaluate")


def save_model(folder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    BNDLForImageClassification(
        BNDLConfig.from_backbone_config(ResNetConfig(**TINY_RESNET), **config)
    ).eval().save_pretrained(folder)
    make_image_processor(16).save_pretrained(folder)
    return folder


def command(model: Path, output_dir: Path, *more: str) -> list[str]:
    argv = ["--model_name_or_path", str(model), "--dataset_name", "digits", "--use_cpu", "--batch_size", "128"]
    ood = ["--ood_datasets", "more=digits", "--ood_split", "train"]  # 1,438 images: two shards
    return [*argv, *ood, "--output_dir", str(output_dir), *more]


def shards(output_dir: Path) -> list[Path]:
    return sorted((output_dir / "predictions").rglob("*.safetensors"))


def numbers(output_dir: Path) -> dict[str, Any]:
    """results.json without what tells two runs of one evaluation apart."""
    results = json.loads((output_dir / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("command", "environment")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), id2label={i: str(i) for i in range(10)})


@pytest.fixture(scope="module")
def runs(model: Path, jobs: JobServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three evaluations: `whole` in this process, `two` by two others, `killed` once a shard was written."""
    folder = tmp_path_factory.mktemp("runs")
    two = jobs.start_two("script", path=SCRIPT, argv=command(model, folder / "two", "--no_figures"), cwd=folder)
    killed = jobs.start_script(SCRIPT, *command(model, folder / "killed"))
    while not shards(folder / "killed") and not killed.has_ended():
        time.sleep(0.002)
    killed.send(signal.SIGKILL)
    assert killed.wait() == -9, killed.log
    evaluate.main(command(model, folder / "whole"))
    wait_for_both(two)
    return folder


def test_two_processes_write_the_numbers_of_one(runs: Path) -> None:
    assert json.loads((runs / "two" / "results.json").read_text())["environment"]["processes"] == 2
    assert numbers(runs / "two") == numbers(runs / "whole")
    assert not (runs / "two" / "figures").exists()


def test_a_killed_evaluation_goes_on_where_it_was(runs: Path, model: Path) -> None:
    before = {shard: shard.stat().st_mtime_ns for shard in shards(runs / "killed")}
    assert 1 <= len(before) < len(shards(runs / "whole")) == 3
    assert not (runs / "killed" / "results.json").exists()
    evaluate.main(command(model, runs / "killed", "--no_figures"))
    assert all(shard.stat().st_mtime_ns == time for shard, time in before.items())
    assert numbers(runs / "killed") == numbers(runs / "whole")


def test_restart_computes_everything_anew(runs: Path, model: Path) -> None:
    before = {shard: shard.stat().st_mtime_ns for shard in shards(runs / "two")}
    evaluate.main(command(model, runs / "two", "--no_figures", "--restart"))
    assert all(shard.stat().st_mtime_ns > time for shard, time in before.items())


def test_every_figure_is_written_without_a_trace_of_this_machine(runs: Path) -> None:
    figures = sorted((runs / "whole" / "figures").iterdir())
    assert [figure.name for figure in figures] == [f"{name}.png" for name in FIGURES]
    for figure in figures:
        with Image.open(figure) as image:
            assert image.width >= 1000
            assert set(image.info) <= {"dpi"}


def test_results_are_complete_and_fit_to_publish(runs: Path, model: Path) -> None:
    results = json.loads((runs / "whole" / "results.json").read_text())
    assert set(MEASURES) <= set(results)
    assert results["ood"]["more"]["evaluated_on"] == "split 'train' of digits"
    assert [row["num_samples"] for row in results["pavpu_by_samples"]] == [5, 5, 20, 20, 100, 100]
    public_results(results)  # raises for what JSON cannot hold
    classifier = BNDLForImageClassification.from_pretrained(model)
    card = str(create_model_card(classifier, results, figures=["figures/reliability.png"]))
    assert f"{100 * results['accuracy']:.1f} %" in card
    assert "figures/reliability.png" in card


def test_the_table_says_what_every_number_means(runs: Path) -> None:
    text = evaluate.table(json.loads((runs / "whole" / "results.json").read_text()))
    for name, measure in MEASURES.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert line.endswith(measure.describe())
    assert "S = 100" in text
    assert "joint" in text


# ---- what does not fit ----


def fails(argv: list[str], sentence: str) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        evaluate.main(argv)


def test_a_dataset_that_is_not_there_is_named(model: Path, tmp_path: Path) -> None:
    fails([*command(model, tmp_path), "--dataset_name", str(tmp_path / "no")], r"dataset_name='.*no' cannot be loaded")


def test_an_out_of_distribution_set_without_images_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    argv = [*command(model, tmp_path), "--ood_datasets", f"empty={tmp_path / 'empty'}"]
    fails(argv, r"--ood_datasets='.*empty' cannot be loaded")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    nameless = save_model(tmp_path / "nameless", num_labels=7)
    fails(command(nameless, tmp_path), "has 7 classes without names, split 'test' of digits has 10")
    animals = save_model(tmp_path / "animals", id2label={0: "cat", 1: "dog"})
    fails(command(animals, tmp_path), r"Label '\d' in row 0 of split 'test' of digits is not a known class")


def test_a_model_without_a_bndl_is_refused(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path / "plain")
    make_image_processor(16).save_pretrained(tmp_path / "plain")
    fails(command(tmp_path / "plain", tmp_path), "This is a resnet checkpoint, not a BNDL one")


def test_one_draw_is_too_few(model: Path, tmp_path: Path) -> None:
    fails([*command(model, tmp_path), "--num_samples", "1"], r"num_samples=\[1\]: a t-test needs 2 draws")
