"""The small benchmark scripts: they run, keep what is finished, and say what they found."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bndl_hf.baselines import FeatureTask
from script_modules import load_script

frontier, predict = load_script("benchmarks/frontier"), load_script("benchmarks/predict")
fit_speed = load_script("benchmarks/fit_speed")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    task = FeatureTask.digits()
    path = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    names = ("train.features", "train.labels", "test.features", "test.labels")
    save_file(dict(zip(names, (*task.train, *task.reporting), strict=True)), path)
    return path


def test_the_frontier_has_both_curves_and_an_interrupted_one_goes_on(digits, tmp_path, capsys):
    output, figure = tmp_path / "frontier.json", tmp_path / "frontier.png"
    argv = ["--features", str(digits), "--seeds", "0", "--epochs", "20", "--output", str(output)]
    frontier.main([*argv, "--figure", str(figure), "--densities", "0.1"])
    first = json.loads(output.read_text())["runs"]
    frontier.main([*argv, "--figure", str(figure), "--densities", "0.1", "0.4"])
    runs = json.loads(output.read_text())["runs"]
    assert runs[: len(first)] == first
    ours = [run for run in runs if run["head"] == "bndl"]
    assert [run["loading_density"] for run in ours] == [0.1, 0.4]
    assert [round(run["sparsity"], 2) for run in ours] == [0.1, 0.4]
    path = [run for run in runs if run["head"] == "elastic net"]
    assert [run["strength"] for run in path] == sorted((run["strength"] for run in path), reverse=True)
    shares = [run["sparsity"] for run in path]
    assert shares[0] < 0.05 < 0.2 < shares[-1]
    assert path[-1]["accuracy"] > 0.9
    assert figure.stat().st_size > 10_000
    assert figure.with_stem("frontier_per_class").exists()
    assert "| elastic net | " in capsys.readouterr().out


def test_exact_prediction_is_timed_and_judged(digits, tmp_path, capsys):
    output = tmp_path / "predict.json"
    sizes = ["--feature_dim", "32", "--num_labels", "5", "--batch_size", "8", "--repeats", "3", "--num_samples", "200"]
    argv = ["--features", str(digits), "--seeds", "0", "--epochs", "2", "--output", str(output)]
    predict.main([*argv, *sizes])
    found = json.loads(output.read_text())
    assert found["times"]["times_faster"] > 1  # 200 draws take far longer, however busy the machine
    assert [run["prediction"] for run in found["runs"]] == ["exact", "200 draws"]
    assert "| 200 draws | " in capsys.readouterr().out


def test_fitting_is_timed_beside_the_dense_head(tmp_path, capsys):
    output = tmp_path / "fit_speed.json"
    sizes = ["--feature_dim", "8", "--num_labels", "3", "--num_images", "512", "--epochs", "12", "--repeats", "2"]
    # --threads sets the threads of the whole process
    fit_speed.main([*sizes, "--threads", str(torch.get_num_threads()), "--quiet", "--output", str(output)])
    found = json.loads(output.read_text())
    assert [(run["head"], run["repeat"]) for run in found["runs"]] == [
        ("bndl", 1),
        ("dense", 1),
        ("bndl", 2),
        ("dense", 2),
    ]
    for head, median in zip(("bndl", "dense"), found["medians"], strict=True):
        ours = [run["images_per_second"] for run in found["runs"] if run["head"] == head]
        assert median["images_per_second"] == pytest.approx(sum(ours) / 2)
    assert "| dense | " in capsys.readouterr().out


def test_a_speed_is_the_difference_of_two_trainings():
    with pytest.raises(ValueError, match="pass 3 epochs or more"):
        fit_speed.FitSpeedArguments(epochs=2)
