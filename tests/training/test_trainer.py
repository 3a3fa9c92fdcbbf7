"""The Trainer logs the ELBO's terms beside the loss, and reports figures of trust beside accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageClassification, EvalPrediction

from bndl_hf import BNDLForImageClassification, BNDLTrainer
from bndl_hf.data.pixel_values import collate
from bndl_hf.training import preparation
from bndl_hf.training.loss_terms import kl_warmup
from bndl_hf.uncertainty import area_under_risk_coverage, expected_calibration_error

from . import runs


class Stream(IterableDataset):
    """Images without a length, again and again."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = runs.images(8)
        while True:
            yield from (rows[index] for index in range(8))


JUDGED = {"count": 10, "seed": 1, "wrong": 3}


def batch(count: int, **values: int) -> dict[str, Tensor]:
    rows = runs.images(count, **values)
    return collate([rows[index] for index in range(count)])


# ---- the loss and its terms ----


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (1, 0.2), (4, 0.8), (5, 1.0), (9, 1.0)])
def test_the_kl_weights_rise_linearly_over_the_warmup(step: int, factor: float) -> None:
    assert kl_warmup(step, total_steps=10, ratio=0.5) == pytest.approx(factor)


def test_without_a_warmup_the_kl_counts_from_the_first_step() -> None:
    assert kl_warmup(0, total_steps=10, ratio=0.0) == 1.0


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_the_logged_terms_add_up_to_the_logged_loss(warmup: float, tmp_path: Path) -> None:
    weights = {"kl_local_weight": 0.01, "kl_global_weight": 2.0}
    outputs: list[Any] = []
    trainer = runs.make_trainer(tmp_path, max_steps=6, kl_warmup_ratio=warmup, **weights)
    trainer.model.register_forward_hook(lambda _, __, output: outputs.append(output))
    trainer.train()
    logs = runs.step_logs(trainer)
    assert len(logs) == 6
    for step, (log, output) in enumerate(zip(logs, outputs[-6:], strict=True)):
        scale = min(1.0, step / (6 * warmup)) if warmup else 1.0
        assert log["nll"] == pytest.approx(output.nll.item(), rel=1e-5)
        assert log["kl_scores"] == pytest.approx(scale * 0.01 * output.kl_local.item(), rel=1e-5)
        assert log["kl_loadings"] == pytest.approx(scale * 2.0 * output.kl_global.item() / 16, rel=1e-5)  # 16 images
        assert log["loss"] == pytest.approx(log["nll"] + log["kl_scores"] + log["kl_loadings"], rel=1e-5)
        assert scale == 0 or min(log["kl_scores"], log["kl_loadings"]) > 1e-3, "they would hide in rounding"


def test_the_likelihood_is_logged_first_then_the_priors_then_the_loss(tmp_path: Path) -> None:
    plain = runs.make_trainer(tmp_path, max_steps=1)
    plain.train()
    terms = ["kl_scores", "kl_loadings", "loss"]
    assert list(runs.step_logs(plain)[0])[:4] == ["nll", *terms]
    smoothed = runs.make_trainer(tmp_path, max_steps=1, label_smoothing_factor=0.3)
    smoothed.train()
    log = runs.step_logs(smoothed)[0]
    assert list(log)[:5] == ["nll", "likelihood_loss", *terms]
    assert log["nll"] == pytest.approx(runs.step_logs(plain)[0]["nll"]), "the plain one, comparable with eval_nll"
    assert log["loss"] == pytest.approx(log["likelihood_loss"] + log["kl_scores"] + log["kl_loadings"], rel=1e-5)


def test_terms_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    logs = []
    for logging_steps in (1, 3):
        trainer = runs.make_trainer(tmp_path, max_steps=6, logging_steps=logging_steps)
        trainer.train()
        logs.append(runs.step_logs(trainer))
    singles, means = logs
    for part, mean in zip((singles[:3], singles[3:]), means, strict=True):
        for name in ("loss", "nll", "kl_scores", "kl_loadings"):
            assert mean[name] == pytest.approx(np.mean([log[name] for log in part]), rel=1e-5)


def test_the_log_holds_the_share_of_loadings_above_zero(tmp_path: Path) -> None:
    model = runs.classifier(num_factors=16, loading_density=1.0)
    model.decision_layer.raw_loadings.data[:4] = -1.0  # 4 of 16 factors have no loadings
    trainer = runs.make_trainer(tmp_path, model, max_steps=1, learning_rate=0.0, decision_layer_learning_rate=0.0)
    trainer.train()
    assert runs.step_logs(trainer)[0]["sparsity"] == 0.75


def test_weights_in_the_arguments_replace_the_configurations(tmp_path: Path) -> None:
    model = runs.classifier(kl_local_weight=0.25, kl_global_weight=0.75)
    runs.make_trainer(tmp_path, model)
    assert (model.config.kl_local_weight, model.config.kl_global_weight) == (0.25, 0.75)
    runs.make_trainer(tmp_path, model, kl_local_weight=0.0, kl_global_weight=3.0)
    assert (model.config.kl_local_weight, model.config.kl_global_weight) == (0.0, 3.0)
    model.save_pretrained(tmp_path / "saved")
    saved = BNDLForImageClassification.from_pretrained(tmp_path / "saved").config
    assert (saved.kl_local_weight, saved.kl_global_weight) == (0.0, 3.0)


def test_the_number_of_training_images_is_filled_in(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, train_dataset=runs.images(10), max_steps=1)
    trainer.train()
    assert trainer.model.config.num_training_images == 10


def test_a_dataset_without_a_length_needs_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "NUM_MEASURED_IMAGES", 8)
    trainer = runs.make_trainer(tmp_path, train_dataset=Stream(), max_steps=2)
    sentence = r"N of the ELBO \(Eq\. 12\) is unknown; set model\.config\.num_training_images\."
    with pytest.raises(ValueError, match=sentence):
        trainer.train()
    trainer.model.config.num_training_images = 8
    trainer.train()
    for log in runs.step_logs(trainer):
        assert log["kl_loadings"] > 0
        assert log["loss"] == pytest.approx(log["nll"] + log["kl_scores"] + log["kl_loadings"], rel=1e-5)


@pytest.mark.parametrize(("normalize_features", "before_training"), [(True, [4, 4]), (False, [4])])
def test_the_spread_is_measured_on_the_first_images_and_only_where_it_is_wanted(
    normalize_features: bool, before_training: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "NUM_MEASURED_IMAGES", 8)
    trainer = runs.make_trainer(
        tmp_path, runs.classifier(normalize_features=normalize_features, kl_local_weight=0.01), max_steps=1
    )
    passes: list[int] = []
    trainer.model.backbone.register_forward_hook(lambda _, __, output: passes.append(len(output.logits)))
    trainer.train()
    assert passes == [*before_training, 4]
    assert (trainer.model.decision_layer.feature_scale != 1).any() == normalize_features


@pytest.mark.parametrize("architecture", runs.BACKBONES)
def test_training_starts_where_a_warm_start_left_off(architecture: str, tmp_path: Path) -> None:
    config = runs.BACKBONES[architecture]()
    config.num_labels = runs.NUM_LABELS
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "classifier")
    model = BNDLForImageClassification.from_backbone_pretrained(tmp_path / "classifier", warm_start=True)
    dense = AutoModelForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    dataset = runs.images(12)
    pixel_values = collate([dataset[row] for row in range(12)])["pixel_values"]
    runs.make_trainer(
        tmp_path, model=model, learning_rate=0.0, decision_layer_learning_rate=0.0, freeze_backbone=True, max_steps=1
    ).train()
    with torch.no_grad():
        answers = [model.eval()(pixel_values).logits_mean.softmax(dim=-1), dense(pixel_values).logits.softmax(dim=-1)]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)


def test_the_first_look_at_the_features_leaves_no_trace(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, model=runs.classifier("resnet"))
    before, state = runs.weights(trainer.model), torch.get_rng_state()
    preparation.prepare_decision_layer(trainer, resumes=False)
    after = runs.weights(trainer.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decision_layer.feature_scale"}
    assert torch.equal(torch.get_rng_state(), state)


def test_an_evaluation_set_called_train_is_not_trained_on(tmp_path: Path) -> None:
    sets = {"train": runs.images(4), "eval": runs.images(8), "other": runs.images(6)}
    trainer = runs.make_trainer(
        tmp_path,
        freeze_backbone=True,
        cache_features=True,
        eval_dataset=sets,
        eval_strategy="epoch",
        num_train_epochs=1,
    )
    trainer.train()
    assert trainer.model.config.num_training_images == 16
    logged = {key for entry in trainer.state.log_history for key in entry}
    assert {f"eval_{name}_accuracy" for name in sets} <= logged


def test_bfloat16_training_stays_finite(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, max_steps=3, bf16=True, eval_dataset=runs.images(6, seed=1))
    trainer.train()
    assert len(runs.step_logs(trainer)) == 3
    for log in runs.step_logs(trainer):
        assert all(np.isfinite(value) for value in log.values())
    assert all(np.isfinite(value) for value in trainer.evaluate().values())
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


# ---- the optimizer ----


def learning_rates(trainer: BNDLTrainer) -> dict[str, float]:
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_the_decision_layer_has_its_own_learning_rate(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, learning_rate=1e-4, decision_layer_learning_rate=0.3, weight_decay=0.1)
    rates = learning_rates(trainer)
    assert {rate for name, rate in rates.items() if name.startswith("decision_layer.")} == {0.3}
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {1e-4}
    assert set(rates) == {name for name, _ in trainer.model.named_parameters()}
    decays = {group["weight_decay"] for group in trainer.optimizer.param_groups if group["lr"] == 0.3}
    assert decays == {0.0, 0.1}, "biases are not decayed, here as there"


def test_none_gives_the_decision_layer_the_learning_rate_of_the_backbone(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, learning_rate=1e-4, decision_layer_learning_rate=None)
    assert set(learning_rates(trainer).values()) == {1e-4}


def test_with_a_frozen_backbone_only_the_decision_layer_is_optimised(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, freeze_backbone=True, decision_layer_learning_rate=0.3)
    rates = learning_rates(trainer)
    assert set(rates) == {f"decision_layer.{name}" for name, _ in trainer.model.decision_layer.named_parameters()}
    assert set(rates.values()) == {0.3}


def test_an_optimizer_of_your_own_keeps_its_learning_rate(tmp_path: Path) -> None:
    model = runs.classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.07)
    trainer = BNDLTrainer(
        model=model,
        args=runs.arguments(tmp_path, max_steps=1, lr_scheduler_type="constant"),
        train_dataset=runs.images(8),
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    trainer.train()
    assert [group["lr"] for group in optimizer.param_groups] == [0.07]


# ---- evaluation ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> BNDLTrainer:
    trainer = runs.make_trainer(
        tmp_path_factory.mktemp("trained"),
        max_steps=8,
        eval_dataset=runs.images(**JUDGED),
        per_device_eval_batch_size=4,
    )
    trainer.train()
    return trainer


def test_an_evaluation_reports_accuracy_and_how_far_to_trust_it(trained: BNDLTrainer) -> None:
    metrics = trained.evaluate()
    inputs = batch(**JUDGED)
    prediction, labels = trained.model.predict(inputs["pixel_values"]), inputs["labels"]
    confidence, correct = prediction.probs.max(-1).values, prediction.predicted_labels == labels
    expected = {
        "accuracy": correct.float().mean().item(),
        "nll": -prediction.probs[range(10), labels].log().mean().item(),
        "brier_score": (prediction.probs - torch.eye(3)[labels]).square().sum(-1).mean().item(),
        "pavpu": (correct == prediction.is_certain).float().mean().item(),
        "expected_calibration_error": expected_calibration_error(prediction.probs, labels),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
        "sparsity": trained.model.decision_layer.sparsity(),
    }
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-5), name
    assert 0 < expected["accuracy"] < 1, "a perfect or hopeless model would hide mistakes"
    assert not [name for name in metrics if "draws" in name]


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.endswith(("_runtime", "_per_second", "_time"))}


@pytest.mark.parametrize("num_eval_samples", [0, 2])
def test_an_evaluation_repeats(trained: BNDLTrainer, num_eval_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained.args, "num_eval_samples", num_eval_samples)
    first, second = (without_times(trained.evaluate()) for _ in range(2))
    assert first == second
    assert ("eval_pavpu_2_draws" in first) == (num_eval_samples == 2)


def test_a_sampled_pavpu_comes_from_draws(trained: BNDLTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = trained.evaluate()
    monkeypatch.setattr(trained.args, "num_eval_samples", 2)
    sampled = set()
    for seed in range(8):
        monkeypatch.setattr(trained.args, "seed", seed)
        metrics = trained.evaluate()
        sampled.add(metrics["eval_pavpu_2_draws"])
        assert metrics["eval_pavpu"] == exact["eval_pavpu"], "the exact one does not depend on the seed"
    assert len(sampled) > 1
    assert all(0 <= value <= 1 for value in sampled)


def test_drawing_in_evaluations_changes_nothing_in_training(tmp_path: Path) -> None:
    def train(num_eval_samples: int) -> dict[str, Tensor]:
        trainer = runs.make_trainer(
            tmp_path,
            runs.classifier(objective="sampled"),
            max_steps=4,
            eval_dataset=runs.images(6, seed=1),
            eval_strategy="steps",
            eval_steps=1,
            num_eval_samples=num_eval_samples,
        )
        trainer.train()
        return runs.weights(trainer.model)

    without_draws, with_draws = train(0), train(2)
    for name, tensor in without_draws.items():
        assert torch.equal(with_draws[name], tensor), name


def test_metrics_of_your_own_get_the_logits(tmp_path: Path) -> None:
    seen: list[EvalPrediction] = []

    def largest_logit(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"largest": float(prediction.predictions.max())}

    model = runs.classifier()
    dataset = runs.images(**JUDGED)
    trainer = runs.make_trainer(
        tmp_path, model, eval_dataset=dataset, compute_metrics=largest_logit, num_eval_samples=2
    )
    metrics = trainer.evaluate()
    inputs = batch(**JUDGED)
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    np.testing.assert_allclose(seen[0].predictions, logits.numpy(), rtol=1e-5, atol=1e-6)
    assert seen[0].label_ids.tolist() == inputs["labels"].tolist()
    assert metrics["eval_largest"] == pytest.approx(logits.max().item(), rel=1e-5)
    assert "eval_accuracy" in metrics


def test_predict_returns_the_logits(trained: BNDLTrainer) -> None:
    output = trained.predict(runs.images(**JUDGED))
    inputs = batch(**JUDGED)
    with torch.no_grad():
        expected = trained.model.eval()(inputs["pixel_values"]).logits
    np.testing.assert_allclose(output.predictions, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert output.label_ids.tolist() == inputs["labels"].tolist()
    assert output.metrics["test_accuracy"] == trained.evaluate()["eval_accuracy"]


def test_several_evaluation_sets_keep_their_names(tmp_path: Path) -> None:
    sets = {"near": runs.images(6, seed=1), "far": runs.images(9, seed=2)}
    metrics = runs.make_trainer(tmp_path, eval_dataset=sets).evaluate()
    assert {"eval_near_accuracy", "eval_far_accuracy"} <= metrics.keys()
