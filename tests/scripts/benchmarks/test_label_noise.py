"""benchmarks/label_noise.py: wrong labels ranked, beside cleanlab."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from script_modules import load_script

from .test_heads import toy_features

label_noise = load_script("benchmarks/label_noise")


@pytest.fixture
def noisy(tmp_path):
    """Two classes far apart, every tenth label of the training rows wrong; the first arguments of a run."""
    toy_features(tmp_path / "f.safetensors")
    truth = load_file(tmp_path / "f.safetensors")["train.labels"]
    given = torch.where(torch.arange(300) % 10 == 3, 1 - truth, truth)
    save_file({"label": truth, "noisy": given}, tmp_path / "n.safetensors")
    task = {"features": "f.safetensors", "held_out": 60, "labels": "n.safetensors:noisy"}
    (tmp_path / "tasks.json").write_text(json.dumps({"toy": task, "clean": {**task, "labels": None}}))
    return ["run", "--tasks_file", str(tmp_path / "tasks.json"), "--features_dir", str(tmp_path), "--rows", "200"]


def test_wrong_labels_are_ranked_first(noisy, tmp_path, capsys):
    pytest.importorskip("cleanlab")
    output, figure = tmp_path / "out.json", tmp_path / "out.png"
    argv = [*noisy, "--tasks", "toy", "--heads", "logreg", "--seeds", "0", "--folds", "3", "--output", str(output)]
    label_noise.main([*argv, "--figure", str(figure), "--quiet"])
    (one,) = json.loads(output.read_text())["runs"]
    assert 10 <= one["wrong"] <= 30
    assert one["accuracy"] > 0.95
    for name in ("given_label", "margin", "confident", "adjusted"):
        assert one["scores"][name]["auroc"] > 0.99
        assert one["scores"][name]["precision"] > 0.9
        assert one["scores"][name]["found"][-1] == 1.0
    assert one["scores"]["entropy"]["auroc"] < 0.9  # says nothing of the given label
    assert "epistemic" not in one["scores"]  # a point mass has none
    assert one["named_precision"] == 1.0  # fewer are named than are wrong
    assert one["named_recall"] == pytest.approx(one["named"] / one["wrong"])
    assert figure.stat().st_size > 10_000
    assert "What confident learning names" in capsys.readouterr().out


def test_our_margin_and_given_label_are_those_of_cleanlab():
    rank = pytest.importorskip("cleanlab.rank")
    probs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=-1)
    labels = torch.arange(60) % 4
    scores, _ = label_noise.suspicion(probs, labels, {})
    for ours, theirs in (("given_label", "self_confidence"), ("margin", "normalized_margin")):
        quality = rank.get_label_quality_scores(labels.numpy(), probs.numpy(), method=theirs)
        assert torch.equal(scores[ours].argsort(descending=True), torch.from_numpy(quality).argsort())


def test_true_labels_and_too_many_folds_are_refused(noisy, tmp_path):
    with pytest.raises(ValueError, match="learns from the true labels"):
        label_noise.main([*noisy, "--tasks", "clean", "--heads", "logreg", "--output", str(tmp_path / "o.json")])
    with pytest.raises(ValueError, match="--folds 1 of --rows 200"):
        label_noise.main([*noisy, "--folds", "1"])


def test_precision_is_at_the_true_number_of_wrong_labels():
    score, is_wrong = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([True, False, True, False])
    assert label_noise.judge(score, is_wrong)["precision"] == 0.5
    assert label_noise.judge(score, is_wrong)["auroc"] == 0.75
