"""Several views of each image in the cache: what they are, when they are computed, and which of them an epoch reads."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bndl_hf import BNDLForImageClassification, BNDLTrainer
from bndl_hf.data.augmentation import RandomFlip
from bndl_hf.data.pixel_values import collate
from bndl_hf.training.feature_views import FeatureViews, OneView, cached_views
from bndl_hf.training.features import FeatureDataset

from . import runs

CACHED = {"freeze_backbone": True, "cache_features": True}


def changed(count: int, augment: Any) -> Any:
    return runs.with_pixel_values(runs.images(count), augment=augment)


def compute(folder: Path, views: int, augment: Any, model: Any = None, count: int = 12, **values: Any) -> FeatureViews:
    model = runs.classifier() if model is None else model
    arguments = runs.arguments(folder, **CACHED, feature_views=views, **values)
    return cached_views(model, changed(count, augment), arguments, collate=collate)


def count_passes(model: BNDLForImageClassification) -> list[int]:
    sizes: list[int] = []
    model.backbone.register_forward_hook(lambda _, __, output: sizes.append(len(output.logits)))
    return sizes


def jitter(image: Image.Image) -> Image.Image:
    """Random numbers of the three libraries that augmentations draw from."""
    factor = 0.4 + 0.2 * (torch.rand(()).item() + np.random.rand() + random.random())  # noqa: NPY002
    return image.point(lambda value: round(value * factor))


# ---- what is kept ----


def test_the_first_view_is_the_plain_image_and_the_others_are_transformed(tmp_path: Path) -> None:
    model = runs.classifier()
    dataset = compute(tmp_path, 2, RandomFlip(1.0), model)
    images = collate([runs.images(12)[row] for row in range(12)])
    with torch.no_grad():
        plain = model.extract_features(images["pixel_values"])
        mirrored = model.extract_features(images["pixel_values"].flip(-1))
    torch.testing.assert_close(dataset.views, torch.stack([plain, mirrored]))
    assert torch.equal(dataset.features, dataset.views[0])
    assert torch.equal(dataset.labels, images["labels"])


def test_views_differ_from_each_other_and_repeat(tmp_path: Path) -> None:
    views = compute(tmp_path / "one", 3, jitter).views
    torch.manual_seed(7)
    again = compute(tmp_path / "other", 3, jitter, seed=9, feature_batch_size=5, dataloader_num_workers=2).views
    torch.testing.assert_close(again, views)
    for one, other in ((0, 1), (1, 2)):
        assert ((views[one] - views[other]).abs().amax(dim=1) > 1e-4).all()


def test_only_views_that_are_not_there_are_computed(tmp_path: Path) -> None:
    passes = []
    for views, augment in ((2, RandomFlip()), (4, RandomFlip()), (3, RandomFlip()), (2, RandomFlip(0.3))):
        model = runs.classifier()
        passes.append(count_passes(model))
        compute(tmp_path, views, augment, model)
    assert [sum(sizes) for sizes in passes] == [24, 24, 0, 24], "another transform is computed anew"


def test_random_numbers_go_on_as_if_no_view_had_been_read() -> None:
    def draw() -> list[float]:
        return [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002

    view = OneView(changed(4, jitter), 1)
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    expected = draw()
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])
    assert torch.equal(view[2]["pixel_values"], view[2]["pixel_values"])
    assert draw() == expected


# ---- what an epoch reads ----


def test_an_image_shows_every_view_once_in_as_many_epochs() -> None:
    V, N = 3, 50
    views = torch.arange(V * N * 2).view(V, N, 2).float()
    dataset = FeatureViews(views, torch.zeros(N, dtype=torch.long), seed=1)
    rows, seen = torch.arange(N), []
    for dataset.epoch in range(V):
        features = dataset.__getitems__(rows.tolist())["features"]
        seen.append((features[:, 0] // (2 * N)).long())
        assert torch.equal(features, views[seen[-1], rows])
        assert torch.equal(dataset[4]["features"], features[4])
    assert torch.equal(torch.stack(seen).sort(dim=0).values, torch.arange(V)[:, None].expand(V, N))
    for view in seen:  # drawn for each image: N/V of each, within four standard deviations
        assert (view.bincount(minlength=V) - N / V).abs().max() < 4 * math.sqrt(N * (1 / V) * (1 - 1 / V))
    assert len(dataset) == N


def test_all_rows_say_which_image_each_of_them_shows() -> None:
    views = torch.rand(2, 3, 4)
    features, labels, images = FeatureViews(views, torch.tensor([2, 0, 1])).all_rows()
    assert labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert images.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(features[4], views[1, 1])
    one = FeatureDataset(views[0], torch.tensor([2, 0, 1])).all_rows()
    assert torch.equal(one[0], views[0])
    assert [rows.tolist() for rows in one[1:]] == [[2, 0, 1], [0, 1, 2]]


class Reading(BNDLTrainer):
    """Keeps the features of every training batch."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        vars(self).setdefault("read", []).append(inputs["features"])
        return super().training_step(model, inputs, num_items_in_batch)


def reading_trainer(folder: Path, **values: Any) -> Any:
    arguments = runs.arguments(folder, **CACHED, feature_views=3, **values)
    given = {"eval_dataset": runs.images(6, seed=1)}
    return Reading(runs.classifier(), arguments, collate, changed(16, jitter), **given)


def test_epochs_keep_their_length_and_evaluations_read_plain_images(tmp_path: Path) -> None:
    trainer = reading_trainer(tmp_path, num_train_epochs=3, eval_strategy="epoch")
    trainer.train()
    assert trainer.state.global_step == 3 * 4
    assert trainer.model.config.num_training_images == 16
    evaluated = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluated[-1], rel=1e-5)
    kept = compute(tmp_path, 3, jitter, count=16).views.flatten(0, 1)
    read = torch.cat(trainer.read)
    order = (read[:, None] - kept).abs().amax(dim=-1).argmin(dim=1)  # [48, 48] -> [48]
    assert sorted(order.tolist()) == list(range(48)), "in three epochs each of the three views of each image, once"


@pytest.mark.parametrize("step", [4, 6])
def test_a_resumed_training_reads_what_it_would_have_read(step: int, tmp_path: Path) -> None:
    straight, resumed = (reading_trainer(tmp_path, max_steps=11, save_strategy="steps", save_steps=2) for _ in range(2))
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for one, other in zip(straight.read[step:], resumed.read, strict=True):
        assert torch.equal(one, other)
    for name, tensor in runs.weights(straight.model).items():
        assert torch.equal(runs.weights(resumed.model)[name], tensor), name


def test_a_layer_alone_trains_on_views_the_same_twice(tmp_path: Path) -> None:
    views, labels = torch.rand(2, 12, 16), torch.arange(12) % 3
    dataset = FeatureViews(views, labels)

    def trained() -> Any:
        layer = runs.classifier().decision_layer
        arguments = runs.arguments(tmp_path, num_train_epochs=3)
        BNDLTrainer(layer, arguments, train_dataset=dataset).train()
        return runs.weights(layer)

    first, second = trained(), trained()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


# ---- what does not fit ----


def test_views_need_an_augmentation(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, feature_views=4, max_steps=1, **CACHED)
    with pytest.raises(ValueError, match=r"feature_views=4 keeps .* train dataset gives one: it has no augmentation"):
        trainer.train()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"feature_views": 0, **CACHED}, "feature_views=0 views of each image; pass 1 or more."),
        (
            {"feature_views": 2, "freeze_backbone": True},
            "feature_views=2 are views in the cache",
        ),
    ],
)
def test_arguments_that_do_not_fit(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        runs.arguments(tmp_path, **values)


def test_a_matrix_is_not_views() -> None:
    with pytest.raises(ValueError, match=r"views have shape \[3, 4\]; they must be \[V, N, D\]"):
        FeatureViews(torch.rand(3, 4), torch.tensor([0, 1, 2]))


def test_images_to_judge_on_are_never_changed_at_random(tmp_path: Path) -> None:
    trainer = reading_trainer(tmp_path, max_steps=1, eval_strategy="epoch")
    trainer.eval_dataset = changed(6, RandomFlip())
    with pytest.raises(ValueError, match="the eval dataset changes its images at random"):
        trainer.train()
