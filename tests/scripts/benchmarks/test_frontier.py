"""The small benchmark scripts: they run, keep what is finished, and say what they found."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bndl_hf.baselines import FeatureTask
from bndl_hf.training import fitting
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


def test_the_frontier_has_all_curves_and_an_interrupted_one_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "MIN_STEPS", 15)  # for each layer of the search whose best is the teacher
    output, figure = tmp_path / "frontier.json", tmp_path / "frontier.png"
    declared = {"few": {"features": "digits", "train": 300, "held_out": 100}}
    (tmp_path / "tasks.json").write_text(json.dumps(declared))
    argv = ["--task", "few", "--tasks_file", str(tmp_path / "tasks.json"), "--weights_per_class", "30", "5", "1"]
    argv += ["--seeds", "0", "--quiet", "--output", str(output), "--figure", str(figure)]
    frontier.main(argv)
    written = json.loads(output.read_text())
    kept = [run for run in written["runs"] if run["head"] != "elastic net"]
    output.write_text(json.dumps({**written, "runs": kept}))  # interrupted before its last path
    frontier.main(argv)
    runs = json.loads(output.read_text())["runs"]
    assert runs[: len(kept)] == kept
    for head in ("sparse", "shared"):
        ours = [run for run in runs if run["head"] == head]
        assert [run["point"] for run in ours] == [5, 1]  # of 20 factors none has 30
        assert all(run["weights_per_class"] <= run["point"] + 1e-6 for run in ours)
        assert ours[0]["accuracy"] > 0.9
        assert ours[0]["evidence_share"] > 0.99
    path = [run for run in runs if run["head"] == "elastic net"]
    assert [run["point"] for run in path] == sorted((run["point"] for run in path), reverse=True)
    assert written["margins"]["sparse"]["accuracy"] > 0
    assert figure.stat().st_size > 10_000
    assert "| elastic net | " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--task many: unknown"):
        frontier.main([*argv, "--task", "many"])


def test_margins_compare_with_as_many_weights_or_fewer():
    def point(head, weights, accuracy, nll):
        figures = {"accuracy": accuracy, "negative_log_likelihood": nll, "density": weights / 100}
        tempered = {"negative_log_likelihood": nll / 2}
        return {
            "head": head,
            "seed": 0,
            "point": weights,
            "weights_per_class": weights,
            **figures,
            "tempered": tempered,
        }

    runs = [point("elastic net", 1, 0.9, 0.1), point("elastic net", 10, 0.5, 1.0), point("elastic net", 40, 0.7, 0.5)]
    runs += [point("sparse", 5, 0.6, 0.8), point("sparse", 30, 0.75, 0.6), point("tuned", 90, 0.9, 0.1)]
    assert frontier.margins(runs)["sparse"] == pytest.approx(
        {"points": 2, "accuracy": 0.05, "negative_log_likelihood": 1.2, "tempered_negative_log_likelihood": 1.2}
    )
    assert "shared" not in frontier.margins(runs)


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
    sizes = ["--feature_dim", "8", "--num_labels", "3", "--num_images", "256", "--epochs", "3", "--repeats", "2"]
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
