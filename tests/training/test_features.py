"""Features of a frozen backbone are computed once and kept, until something they depend on changes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset as TableDataset
from torch import Tensor
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback

from bndl_hf import BNDLForImageClassification
from bndl_hf.data.augmentation import RandomFlip
from bndl_hf.data.pixel_values import collate, make_image_processor
from bndl_hf.training import features as feature_cache
from bndl_hf.training.features import FeatureDataset, cache_key, cached_features

from . import runs

CACHED = {"freeze_backbone": True, "cache_features": True}


def count_passes(model: BNDLForImageClassification) -> list[int]:
    """The batch size of every backbone pass from here on."""
    sizes: list[int] = []
    model.backbone.register_forward_hook(lambda _, __, output: sizes.append(len(output.logits)))
    return sizes


def compute(model: BNDLForImageClassification, folder: Path, count: int = 12, **values: Any) -> FeatureDataset:
    return cached_features(model, runs.images(count), runs.arguments(folder, **CACHED, **values), collate=collate)


def backbone_weights(model: BNDLForImageClassification) -> dict[str, Tensor]:
    return runs.weights(model.backbone)


# ---- training on cached features ----


@pytest.mark.parametrize("cache_features", [True, False])
def test_training_a_frozen_backbone_leaves_it_bit_equal(cache_features: bool, tmp_path: Path) -> None:
    model = runs.classifier("resnet")  # with BatchNorm, whose statistics move in training mode
    layer, backbone = runs.weights(model.decision_layer), backbone_weights(model)
    trainer = runs.make_trainer(tmp_path, model, max_steps=3, freeze_backbone=True, cache_features=cache_features)
    trainer.train()
    assert any("running_mean" in name for name in backbone)
    for name, tensor in backbone_weights(model).items():
        assert torch.equal(tensor, backbone[name]), name
    assert not torch.equal(model.decision_layer.raw_loadings, layer["raw_loadings"])
    assert trainer.state.global_step == 3
    assert model.config.num_training_images == 16


def test_cached_and_uncached_training_agree(tmp_path: Path) -> None:
    cached, uncached = (
        runs.make_trainer(
            tmp_path / str(cache), runs.classifier("resnet"), max_steps=6, freeze_backbone=True, cache_features=cache
        )
        for cache in (True, False)
    )
    for trainer in (cached, uncached):
        trainer.train()
    for one, other in zip(runs.step_logs(cached), runs.step_logs(uncached), strict=True):
        for name in ("loss", "nll", "kl_scores", "kl_loadings"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    expected = runs.weights(uncached.model)
    for name, tensor in runs.weights(cached.model).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


def test_the_trained_layer_is_part_of_the_model_that_is_saved(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, max_steps=2, **CACHED)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    saved = BNDLForImageClassification.from_pretrained(tmp_path / "final")
    for name, tensor in runs.weights(trainer.model).items():
        assert torch.equal(saved.state_dict()[name], tensor), name


def test_cached_training_evaluates_stops_early_and_keeps_the_best_like_any_other(tmp_path: Path) -> None:
    trainer = runs.make_trainer(
        tmp_path,
        max_steps=8,
        eval_dataset=runs.images(6, seed=1),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="constant",
        greater_is_better=True,
        compute_metrics=lambda _: {"constant": 1.0},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        **CACHED,
    )
    passes = count_passes(trainer.model)
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert len(evaluations) == 3, "the first is the best, two more are no better"
    assert trainer.state.best_global_step == 1
    assert sum(passes) == 16 + 6
    best = torch.tensor(evaluations[0]["eval_negative_log_likelihood"])
    torch.testing.assert_close(
        torch.tensor(trainer.evaluate()["eval_negative_log_likelihood"]), best, rtol=1e-5, atol=1e-6
    )


def test_cached_training_resumes_exactly(tmp_path: Path) -> None:
    def trainer() -> Any:
        return runs.make_trainer(tmp_path, max_steps=6, save_strategy="steps", save_steps=3, **CACHED)

    straight, resumed = trainer(), trainer()
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(runs.step_logs(resumed)) == 6
    for name, tensor in runs.weights(straight.model).items():
        assert torch.equal(runs.weights(resumed.model)[name], tensor), name


# ---- the cache ----


def test_cached_features_are_the_backbones(tmp_path: Path) -> None:
    model = runs.classifier("vit")
    cached = compute(model, tmp_path, per_device_eval_batch_size=5)
    batch = collate([runs.images(12)[row] for row in range(12)])
    with torch.no_grad():
        torch.testing.assert_close(cached.features, model.eval().extract_features(batch["pixel_values"]))
    assert torch.equal(cached.labels, batch["labels"])


def test_a_second_run_reads_the_cache(tmp_path: Path) -> None:
    first, second = runs.classifier(), runs.classifier()
    passes = count_passes(first), count_passes(second)
    features = compute(first, tmp_path).features
    assert torch.equal(compute(second, tmp_path).features, features)
    assert (sum(passes[0]), sum(passes[1])) == (12, 0)


def test_the_cache_lives_where_it_is_told_to(tmp_path: Path) -> None:
    compute(runs.classifier(), tmp_path / "run")
    compute(runs.classifier(), tmp_path / "run", feature_cache_dir=str(tmp_path / "cache"))
    for folder in (tmp_path / "run" / "features", tmp_path / "cache"):
        assert len(list(folder.glob("*/000000000.safetensors"))) == 1


def key(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
    parts = {
        "model": runs.classifier("resnet"),
        "dataset": runs.images(12),
        "processor": make_image_processor(8),
        "arguments": runs.arguments(folder),
    }
    change(parts)
    return cache_key(**parts)


def _weight(parts: dict[str, Any]) -> None:
    next(parts["model"].backbone.parameters()).data.view(-1)[0] += 1e-3


def _batch_norm_statistics(parts: dict[str, Any]) -> None:
    next(t for n, t in parts["model"].backbone.named_buffers() if "running_var" in n)[0] += 1e-3


def _decision_layer(parts: dict[str, Any]) -> None:
    parts["model"].decision_layer.raw_loadings.data += 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_weight, id="weight"),
        pytest.param(_batch_norm_statistics, id="statistics"),
        pytest.param(lambda parts: parts.update(processor=make_image_processor(8, mean=(0, 0, 0))), id="processor"),
        pytest.param(lambda parts: parts.update(dataset=runs.images(13)), id="rows"),
        pytest.param(lambda parts: parts.update(dataset=runs.images(12, seed=1)), id="pixels"),
        pytest.param(lambda parts: parts.update(dataset=runs.images(12, side=16)), id="transform"),
        pytest.param(lambda parts: parts.update(dataset=parts["dataset"].select(range(11, -1, -1))), id="order"),
        pytest.param(lambda parts: setattr(parts["arguments"], "bf16", True), id="precision"),
        pytest.param(lambda parts: parts["model"].to(torch.bfloat16), id="dtype"),
    ],
)
def test_a_change_makes_another_key(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    assert key(tmp_path, change) != key(tmp_path)


def test_the_key_stays_when_nothing_the_features_depend_on_changes(tmp_path: Path) -> None:
    assert key(tmp_path, _decision_layer) == key(tmp_path)
    assert key(tmp_path, lambda parts: setattr(parts["arguments"], "learning_rate", 1.0)) == key(tmp_path)


def test_an_interrupted_run_goes_on_at_the_next_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_SIZE", 4)
    whole = compute(runs.classifier(), tmp_path / "whole").features
    interrupted = runs.classifier()
    passes = count_passes(interrupted)

    def interrupt_at_the_third(*_: Any) -> None:
        if len(passes) == 2:
            raise KeyboardInterrupt

    interrupted.backbone.register_forward_pre_hook(interrupt_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        compute(interrupted, tmp_path / "run")
    resumed = runs.classifier()
    passes_after = count_passes(resumed)
    assert torch.equal(compute(resumed, tmp_path / "run").features, whole)
    assert (passes, passes_after) == ([4, 4], [4])
    assert not list(tmp_path.glob("**/*.partial"))


# ---- what does not fit ----


class NotADataset(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.zeros(3, 8, 8), "labels": torch.tensor(0)}


def test_a_dataset_without_a_fingerprint_cannot_be_cached(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, train_dataset=NotADataset(), **CACHED)
    sentence = (
        "cache_features needs a datasets.Dataset, whose fingerprint says when features go stale; the train dataset is "
        "a NotADataset. Pass one, or cache_features=False."
    )
    with pytest.raises(ValueError, match=sentence):
        trainer.train()


def test_random_augmentation_cannot_be_cached(tmp_path: Path) -> None:
    augmented = runs.with_pixel_values(runs.images(4), augment=RandomFlip())
    trainer = runs.make_trainer(tmp_path, train_dataset=augmented, **CACHED)
    with pytest.raises(ValueError, match=r"changes its images at random .* feature_views=4 \(--feature_views 4\)"):
        trainer.train()


def test_a_pixel_that_is_not_a_number_is_not_taken_for_a_random_one(tmp_path: Path) -> None:
    rows = TableDataset.from_dict({"pixel_values": np.full((4, 3, 8, 8), math.nan), "labels": [0, 1, 2, 0]})
    trainer = runs.make_trainer(tmp_path, train_dataset=rows.with_format("torch"), **CACHED)
    with pytest.raises(ValueError, match="pixel_values hold NaN or infinite entries in 4 of 4 images"):
        trainer.train()


def test_labels_between_whole_numbers_are_not_rounded() -> None:
    with pytest.raises(ValueError, match=r"labels are of dtype torch.float32; a label is a whole number"):
        FeatureDataset(torch.rand(2, 3), torch.tensor([0.5, 1.7]))


def test_a_decision_layer_alone_has_no_backbone_to_freeze(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="freeze_backbone=True, but the model is a decision layer alone"):
        runs.make_trainer(tmp_path, runs.classifier().decision_layer, freeze_backbone=True)
