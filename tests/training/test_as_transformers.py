"""What `transformers.Trainer` takes is honoured, or refused in a sentence."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from bndl_hf import BNDLConfig, BNDLTrainer
from bndl_hf.data.pixel_values import collate
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training.collating import collate_rows
from bndl_hf.training.features import FeatureDataset

from . import runs


def evaluating(tmp_path: Path, metrics: Any, count: int = 10, **values: Any) -> dict[str, float]:
    trainer = BNDLTrainer(
        runs.classifier(),
        runs.arguments(tmp_path, per_device_eval_batch_size=4, **values),
        collate,
        eval_dataset=runs.images(count, seed=1),
        compute_metrics=metrics,
    )
    return trainer.evaluate()


def test_the_arguments_stand_in_the_order_of_transformers() -> None:
    assert list(inspect.signature(BNDLTrainer).parameters) == list(inspect.signature(Trainer).parameters)
    assert list(inspect.signature(BNDLTrainer.train).parameters) == list(inspect.signature(Trainer.train).parameters)


def test_a_decision_layer_needs_no_collator(tmp_path: Path) -> None:
    data = FeatureDataset(torch.rand(12, 4), torch.arange(12) % 3)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=4, num_labels=3))
    seen: list[Any] = []
    values = {"max_steps": 2, "include_for_metrics": ["inputs"], "eval_strategy": "steps", "eval_steps": 2}
    trainer = BNDLTrainer(
        layer,
        runs.arguments(tmp_path, **values),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda p: seen.append(p.inputs.shape) or {},
    )
    trainer.train()
    assert seen == [(12, 4)]


# ---- evaluation ----


def test_inputs_and_losses_reach_the_metrics_that_ask_for_them(tmp_path: Path) -> None:
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {}

    evaluating(tmp_path, metrics, include_for_metrics=["inputs", "loss"])
    (prediction,) = seen
    assert prediction.inputs.shape == (10, 3, 8, 8)
    assert prediction.losses.shape == (10,)
    assert prediction.probs.shape == prediction.predictions.shape == (10, 3)
    softmax = torch.from_numpy(prediction.predictions).softmax(dim=-1).numpy()
    np.testing.assert_allclose(softmax, prediction.probs, rtol=1e-4, atol=1e-6)


def test_batches_may_stay_apart(tmp_path: Path) -> None:
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"mine": 1.0}

    measures = evaluating(tmp_path, metrics, eval_do_concat_batches=False)
    (prediction,) = seen
    for field in ("predictions", "label_ids", "probs", "p_value"):
        assert [len(batch) for batch in getattr(prediction, field)] == [4, 4, 2], field
    whole = evaluating(tmp_path, None)
    assert measures["eval_mine"] == 1.0
    assert measures["eval_accuracy"] == whole["eval_accuracy"]


def test_metrics_may_be_added_up_batch_by_batch(tmp_path: Path) -> None:
    right: list[Tensor] = []

    def metrics(prediction: Any, compute_result: bool) -> dict[str, float]:
        assert len(prediction.p_value) == len(prediction.label_ids)
        right.append(prediction.predictions.argmax(dim=-1) == prediction.label_ids)
        return {"right": torch.cat(right).float().mean().item()} if compute_result else {}

    measures = evaluating(tmp_path, metrics, batch_eval_metrics=True)
    assert [len(batch) for batch in right] == [4, 4, 2]
    assert measures["eval_right"] == pytest.approx(measures["eval_accuracy"])


def test_metrics_of_your_own_win_where_the_names_meet(tmp_path: Path) -> None:
    assert evaluating(tmp_path, lambda _: {"accuracy": -1.0})["eval_accuracy"] == -1.0


def test_only_the_loss_where_only_the_loss_was_asked_for(tmp_path: Path) -> None:
    measures = evaluating(tmp_path, lambda _: {"mine": 1.0}, prediction_loss_only=True)
    assert {n for n in measures if not n.endswith(("_runtime", "_per_second", "_time"))} == {"eval_loss", "epoch"}


def test_the_evaluation_loss_is_the_negative_log_likelihood(tmp_path: Path) -> None:
    measures = evaluating(tmp_path, None, count=8, kl_global_weight=50.0, label_smoothing_factor=0.2)
    assert measures["eval_loss"] == pytest.approx(measures["eval_nll"], rel=1e-5)


def test_a_prediction_without_labels_gives_logits(tmp_path: Path) -> None:
    images = [{"pixel_values": row["pixel_values"]} for row in (runs.images(6)[i] for i in range(6))]
    output = BNDLTrainer(runs.classifier(), runs.arguments(tmp_path)).predict(images)
    assert output.predictions.shape == (6, 3)
    assert output.label_ids is None


def test_ignore_keys_choose_what_a_prediction_holds(tmp_path: Path) -> None:
    trainer = BNDLTrainer(runs.classifier(), runs.arguments(tmp_path), collate)
    scalars = ["nll", "kl_local", "kl_global", "logits_mean"]
    logits, scores = trainer.predict(runs.images(6), ignore_keys=scalars).predictions
    assert logits.shape == (6, 3)
    assert scores.shape == (6, trainer.model.config.num_factors)


# ---- the model ----


def test_every_model_of_model_init_is_prepared_like_a_model(tmp_path: Path) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(runs.classifier())
        return made[-1]

    values = {"max_steps": 1, "freeze_backbone": True, "kl_local_weight": 0.5}
    trainer = BNDLTrainer(args=runs.arguments(tmp_path, **values), train_dataset=runs.images(8), model_init=make)
    trainer.data_collator = collate
    for training in (1, 2):
        trainer.train()
        assert trainer.model is made[-1]
        assert len(made) == training + 1
        assert (trainer.model.decision_layer.feature_scale != 1).any()
        assert (trainer.model.config.num_training_images, trainer.model.config.kl_local_weight) == (8, 0.5)
        assert not any(p.requires_grad for p in trainer.model.backbone.parameters())
        assert trainer.decision_layer.sparsity() < 0.2, "pruned"
    trainer.call_model_init()


def test_model_init_trains_on_the_features_of_its_own_backbone(tmp_path: Path) -> None:
    seeds = iter((1, 2, 3))
    values = {"max_steps": 1, "freeze_backbone": True, "cache_features": True}
    trainer = BNDLTrainer(
        None,
        runs.arguments(tmp_path, **values),
        collate,
        runs.images(8),
        model_init=lambda: runs.classifier(seed=next(seeds)),
    )
    trainer.train()
    trainer.train()
    assert len(list((tmp_path / "features").iterdir())) == 2, "two backbones, two caches"


def test_a_search_looks_at_the_evaluation_loss(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    losses: list[float] = []
    rates: list[float] = []
    trainer = BNDLTrainer(
        args=runs.arguments(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2),
        data_collator=collate,
        train_dataset=runs.images(8),
        eval_dataset=runs.images(6, seed=1),
        model_init=lambda: runs.classifier(),
        callbacks=[Losses(losses)],
    )

    def space(trial: Any) -> dict[str, float]:
        rates.append(trial.suggest_float("decision_layer_learning_rate", 1e-4, 1e-1, log=True))
        return {"decision_layer_learning_rate": rates[-1]}

    best = trainer.hyperparameter_search(space, n_trials=2)
    assert best.objective == min(losses)
    assert best.hyperparameters["decision_layer_learning_rate"] == rates[losses.index(min(losses))]


def test_plain_training_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="args is a TrainingArguments; BNDLTrainer needs BNDLTrainingArguments"):
        BNDLTrainer(runs.classifier(), TrainingArguments(str(tmp_path), report_to="none"))


def test_a_model_without_a_decision_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The model is a ViTForImageClassification, which has no Bayesian decision"):
        BNDLTrainer(runs.classifier().backbone, runs.arguments(tmp_path))


class Losses(TrainerCallback):
    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        self.losses.append(metrics["eval_loss"])


# ---- rows ----


class Pairs(Dataset):
    """As torchvision's datasets: (image, label)."""

    def __init__(self) -> None:
        self.targets = [0, 1, 2, 0, 1, 2, 0, 1]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return runs.images(8)[index]["pixel_values"], self.targets[index]


def test_pairs_of_image_and_label_train_like_rows(tmp_path: Path) -> None:
    logs = []
    for dataset in (Pairs(), runs.images(8)):
        trainer = BNDLTrainer(
            runs.classifier(), runs.arguments(tmp_path, max_steps=2), train_dataset=dataset, eval_dataset=dataset
        )
        trainer.train()
        logs.append([log["loss"] for log in runs.step_logs(trainer)])
        assert trainer.evaluate()["eval_accuracy"] >= 0
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [(Image.new("RGB", (8, 8)), 0)],
            r"An image is a Image, not a tensor \[3, H, W\]; give the dataset",
        ),
        ([{"image": 0, "label": 0}], "A row holds image, label; the model reads pixel_values and labels"),
        ([np.zeros(3)], "A row is a ndarray; the Trainer reads"),
        (["cat.png"], "A row is a str; the Trainer reads"),
        (
            [(torch.zeros(3, 8, side), 0) for side in (8, 9)],
            r"A batch holds images of 2 sizes, \[3, 8, 8\] and \[3, 8, 9\] among",
        ),
        (
            [{"pixel_values": torch.zeros(3, side, 8), "labels": 0} for side in (8, 9)],
            "A batch holds images of 2 sizes",
        ),
    ],
    ids=["pillow", "columns", "array", "names", "sizes of pairs", "sizes of rows"],
)
def test_rows_of_another_form_are_named(rows: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        collate_rows(rows)
