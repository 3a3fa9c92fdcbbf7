"""Accumulation and several processes change nothing but speed: loss, gradients, log, weights, metrics and features.

The two processes are real ones, which talk through a free port.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from bndl_hf.data.pixel_values import collate, make_image_processor
from bndl_hf.training import recalibrate
from bndl_hf.training.checkpoint_folders import checkpoint_problem
from bndl_hf.training.features import cache_key, cached_features
from jobs import JobServer, wait_for_both

from . import runs

# Sums of 8 float32 numbers in another order.
SAME = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return runs.one_step(tmp_path_factory.mktemp("whole"), per_device_train_batch_size=8)


@pytest.fixture(scope="module")
def two_processes(jobs: JobServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a run in two processes, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    ranks = jobs.start_two("in_two_processes", output_dir=folder)
    wait_for_both(ranks)
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def assert_same_step(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm", "nll", "kl_scores", "kl_loadings", "sparsity", "epoch"):
        assert other["log"][name] == pytest.approx(one["log"][name], rel=1e-5), name
    assert one["weights"].keys() == other["weights"].keys()
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, msg=lambda m, n=name: f"{n}: {m}", **SAME)


def test_the_step_that_is_compared_moves_every_part_of_the_model(whole_batch: dict[str, Any]) -> None:
    start = runs.weights(runs.classifier(dropout=False))
    for name in ("decision_layer.raw_loadings", "decision_layer.loading_concentration", "decision_layer.feature_scale"):
        assert (whole_batch["weights"][name] - start[name]).abs().max() > 1e-3
    moved = [name for name in start if not torch.equal(whole_batch["weights"][name], start[name])]
    assert any(name.startswith("backbone.") for name in moved)


def test_two_accumulated_halves_equal_one_batch(whole_batch: dict[str, Any], tmp_path: Path) -> None:
    accumulated = runs.one_step(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert_same_step(whole_batch, accumulated)


def test_a_short_last_batch_weighs_by_its_images_in_the_log(tmp_path: Path) -> None:
    # 6 images in batches of 4: one step an epoch of 4 + 2 images.
    halves = runs.make_trainer(
        tmp_path,
        runs.classifier(dropout=False),
        train_dataset=runs.images(6),
        gradient_accumulation_steps=2,
        num_train_epochs=1,
    )
    whole = runs.make_trainer(
        tmp_path,
        runs.classifier(dropout=False),
        train_dataset=runs.images(6),
        per_device_train_batch_size=6,
        num_train_epochs=1,
    )
    for trainer in (halves, whole):
        trainer.train()
    for name in ("nll", "kl_scores", "kl_loadings", "loss"):
        assert runs.step_logs(halves)[0][name] == pytest.approx(runs.step_logs(whole)[0][name], rel=1e-5)


def test_two_processes_equal_one(whole_batch: dict[str, Any], two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    for outcome in two_processes[1]:
        assert outcome["world_size"] == 2
        assert_same_step(whole_batch, outcome)


def test_the_processes_end_with_the_same_weights(two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (outcome["weights"] for outcome in two_processes[1])
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_processes_choose_one_decision_layer(two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (outcome["tuned"] for outcome in two_processes[1])
    assert first["raw_loadings"].shape == (16, 3), "the equivalent of logistic regression has a factor a feature"
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_processes_write_one_whole_checkpoint(two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, outcomes = two_processes
    assert checkpoint_problem(folder / "checkpoint-1") is None
    assert not list(folder.glob("**/*.incomplete"))
    saved = runs.BNDLForImageClassification.from_pretrained(folder / "checkpoint-1")
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, outcomes[0]["weights"][name]), name


def test_an_evaluation_in_two_processes_counts_no_padding(
    two_processes: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    alone = runs.make_trainer(tmp_path, runs.classifier("resnet"), eval_dataset=runs.images(9, seed=1)).evaluate()
    for outcome in two_processes[1]:
        for name in ("loss", "nll", "accuracy", "expected_calibration_error", "brier_score", "pavpu"):
            assert outcome["evaluation"][f"eval_{name}"] == pytest.approx(alone[f"eval_{name}"], rel=1e-5), name


def test_two_processes_fit_the_temperature_of_one(
    two_processes: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    alone = recalibrate(runs.make_trainer(tmp_path, runs.classifier("resnet"), eval_dataset=runs.images(9, seed=1)))
    first, second = (outcome["temperature"] for outcome in two_processes[1])
    assert first == second == pytest.approx(alone.temperature, rel=1e-4)


def test_two_processes_share_the_work_of_the_feature_cache(
    two_processes: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    # 12 images in 3 shards of 4: one process computes two, the other one; each shard is a batch.
    assert sorted(outcome["forward_passes"] for outcome in two_processes[1]) == [1, 2]
    arguments = runs.arguments(tmp_path, freeze_backbone=True, cache_features=True)
    alone = cached_features(runs.classifier("resnet"), runs.images(12), arguments, collate=collate)
    for outcome in two_processes[1]:
        torch.testing.assert_close(outcome["features"], alone.features, **SAME)
        assert torch.equal(outcome["labels"], alone.labels)


def test_another_process_finds_the_same_cache(two_processes: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    processor = make_image_processor(8)
    key = cache_key(runs.classifier("resnet"), runs.images(12), processor, runs.arguments(tmp_path))
    for outcome in two_processes[1]:
        assert outcome["hash_of_a_word"] != hash("word"), "the processes should hash strings differently"
        assert outcome["key"] == key
