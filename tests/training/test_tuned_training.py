"""`tune_head`: a Trainer on cached features chooses its decision layer on held-out images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback

from bndl_hf import BNDLConfig, BNDLTrainer
from bndl_hf.data.augmentation import RandomFlip
from bndl_hf.data.pixel_values import collate
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import fit_decision_layer, sparse_path
from bndl_hf.training.feature_views import FeatureViews
from bndl_hf.training.trained_layer import Training
from bndl_hf.training.tuning import tune_decision_layer
from bndl_hf.training.tuning_report import TuningReport, tuning_entry

from . import runs

TUNED = {
    "freeze_backbone": True,
    "cache_features": True,
    "tune_head": True,
    "tune_min_steps": 0,
    "num_train_epochs": 1,
    "save_strategy": "epoch",
    "per_device_train_batch_size": 16,
}


def trainer_with(tmp_path: Path, model: Any = None, values: Any = None, kind: Any = BNDLTrainer, **given: Any) -> Any:
    """A Trainer on 60 images, 15 of them labelled wrongly, with 30 images to choose on unless told otherwise."""
    given = {"train_dataset": runs.images(60, wrong=15), "eval_dataset": runs.images(30, seed=1, wrong=8), **given}
    model = runs.classifier("resnet") if model is None else model
    return kind(model, runs.arguments(tmp_path, **{**TUNED, **(values or {})}), collate, **given)


def batch(count: int, seed: int, wrong: int = 0) -> dict[str, Tensor]:
    return collate(list(runs.images(count, seed=seed, wrong=wrong)))


def probs(model: Any) -> Tensor:
    return model.eval().predict(batch(9, seed=2)["pixel_values"]).probs


class Events(TrainerCallback):
    """Notes what a Trainer tells its callbacks."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.names.append("train begin")

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.names.append("epoch begin")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.names += [name for name in ("tuning_temperature", "eval_loss", "train_runtime") if name in logs]

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.names.append("epoch end")

    def on_save(self, *_: Any, **__: Any) -> None:
        self.names.append("save")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.names.append("train end")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    """A Trainer that has tuned on held-out images and judged every epoch, and what it told its callbacks."""
    events = Events()
    values = {"eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_with(tmp_path_factory.mktemp("tuned"), callbacks=[events], values=values)
    trainer.train()
    return trainer, events.names


@pytest.mark.parametrize("is_held_out", [True, False])
def test_the_model_gets_the_layer_that_is_best_on_held_out_images(
    is_held_out: bool, tmp_path: Path, tuned: tuple[Any, list[str]]
) -> None:
    start = runs.classifier("resnet").eval()
    rows, held = batch(60, seed=0, wrong=15), batch(30, seed=1, wrong=8)
    x, new = (start.extract_features(part["pixel_values"]).detach() for part in (rows, held))
    more = {"eval_features": new, "eval_labels": held["labels"]} if is_held_out else {}
    quick = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}
    expected = fit_decision_layer(x, rows["labels"], start.config, tune=True, **more, **quick)

    trainer, names = tuned
    if not is_held_out:
        events = Events()
        trainer, names = trainer_with(tmp_path, callbacks=[events], eval_dataset=None), events.names
        trainer.train()
    layer, config = trainer.model.decision_layer, trainer.model.config
    # The convex part; the trained one is trained by this Trainer's arguments.
    found, wanted = (one.raw_loadings[:16] / one.raw_loadings[:16].max() for one in (layer, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert config.num_training_images == 60
    assert config.num_factors == expected.config.num_factors
    assert layer.config is config
    evaluation = ["eval_loss"] if is_held_out else []
    beginning = ["train begin", "epoch begin", "tuning_temperature", "epoch end"]
    assert names == [*beginning, *evaluation, "save", "train_runtime", "train end"]


def test_a_tuned_model_is_the_same_after_saving_and_its_run_is_seen_as_finished(
    tmp_path: Path, tuned: tuple[Any, list[str]]
) -> None:
    trainer = trainer_with(tmp_path)
    trainer.train()
    answer = probs(trainer.model)
    trainer.save_model(str(tmp_path / "saved"))
    assert torch.equal(probs(AutoModelForImageClassification.from_pretrained(tmp_path / "saved")), answer)

    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    entry = tuning_entry(state["log_history"])
    assert (state["global_step"], entry["chosen"], entry["num_held_out"]) == (4, "both", 30)
    again = trainer_with(tmp_path, values={"tune_head": None, "num_train_epochs": 9})
    assert again.train(resume_from_checkpoint=True).training_loss == 0.0
    assert torch.equal(probs(again.model), answer)
    assert str(TuningReport.of(tuning_entry(again.state.log_history))) == str(TuningReport.of(entry))
    with pytest.raises(ValueError, match=r"tune_head=False, but .*checkpoint-4 holds a tuned decision layer"):
        trainer_with(tmp_path, values={"tune_head": False}).train(resume_from_checkpoint=True)

    assert torch.equal(probs(tuned[0].model), answer), "one seed gives one layer, however often it is judged"


def test_a_trained_layer_is_not_tuned_on_later(tmp_path: Path) -> None:
    trainer_with(tmp_path, values={"tune_head": False}).train()
    with pytest.raises(ValueError, match="is of a training without it; start afresh"):
        trainer_with(tmp_path).train(resume_from_checkpoint=True)


def test_a_preset_of_another_kind_is_kept_and_said(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, runs.classifier("resnet", preset="released"), values={"save_strategy": "no"})
    trainer.train()
    report = TuningReport.of(tuning_entry(trainer.state.log_history))
    expected = "Logistic regression is not tried, because its equivalent cannot have preset='released'."
    assert (report.chosen, report.notes) == ("trained", [expected])
    assert trainer.model.config.loading_concentration == "per_factor"


def test_a_layer_to_read_is_made_of_the_one_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FIRST_STEPS", 20), ("NEXT_STEPS", 20), ("_MIXED_ROWS", 256)):
        monkeypatch.setattr(sparse_path, name, value)
    model = runs.classifier("resnet", preset="interpretable", num_factors=12)
    trainer = trainer_with(tmp_path, model, values={"tune_keeps": ["preset", "num_factors"]})
    trainer.train()
    report = TuningReport.of(tuning_entry(trainer.state.log_history))
    assert (report.chosen, report.is_made_sparse) == ("both", True)
    assert "Made sparse for preset='interpretable': 12 factors" in report.notes[-1]
    assert trainer.decision_layer.raw_loadings.shape == (12, 3)
    assert (model.config.preset, model.config.temperature) == ("interpretable", report.temperature)
    again = trainer_with(tmp_path, runs.classifier("resnet", preset="interpretable"), values={"tune_head": None})
    again.train(resume_from_checkpoint=True)
    assert torch.equal(probs(again.model), probs(model))


def test_what_the_convex_layer_cannot_have_is_kept_and_said(tmp_path: Path) -> None:
    model = runs.classifier("resnet", loading_density=0.5)
    trainer = trainer_with(tmp_path, model, values={"tune_keeps": ["projection"], "kl_local_weight": 0.25})
    trainer.train()
    report = TuningReport.of(tuning_entry(trainer.state.log_history))
    assert report.chosen == "trained"
    for kept in ("kl_local_weight=0.25", "projection='linear'", "loading_density=0.5"):
        assert kept in report.notes[0]
    assert (model.config.projection, model.config.kl_local_weight) == ("linear", 0.25)
    assert trainer.decision_layer.sparsity() <= 0.5 + 3 / 96
    assert model.config.temperature == report.temperature


class Squared(BNDLTrainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) ** 2


class Counting(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Anything."""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"compute_loss_func": lambda *_, **__: 0.0}, "compute_loss_func is a loss of its own"),
        ({"kind": Squared}, "Squared has a compute_loss of its own"),
        ({"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}, "it has an optimizer of its own"),
        (
            {"model": runs.classifier(preset="interpretable"), "values": {"feature_views": 2}},
            "feature_views is given for the preset 'interpretable'",
        ),
        (
            {"model": runs.classifier(preset="interpretable"), "values": {"kl_local_weight": 1.0}},
            "kl_local_weight is given for the preset 'interpretable'",
        ),
        ({"values": {"class_weights": "balanced"}}, "class_weights='balanced'"),
        ({"values": {"weighted_sampler": True}}, "weighted_sampler=True"),
        ({"values": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor=0.1"),
        ({"callbacks": [EarlyStoppingCallback(2)]}, "early stopping judges epochs"),
        ({"callbacks": [Counting()]}, "the callback Counting acts on steps"),
        ({"train_dataset": runs.images(4), "eval_dataset": None}, "class LABEL_1 has one training image"),
    ],
)
def test_what_a_search_knows_nothing_of_is_named(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"tune_head=True, but {sentence}"):
        trainer_with(tmp_path, **given).train()


def test_a_search_reads_all_views_and_holds_images_out_with_all_of_theirs() -> None:
    N, V = 20, 3
    labels = torch.arange(N) % 2
    views = torch.rand(V, N, 2, generator=torch.Generator().manual_seed(0))
    views[..., 1] = 100 * torch.arange(V)[:, None] + torch.arange(N)  # which view of which image
    config = BNDLConfig(feature_dim=2, num_labels=2, num_factors=4)
    read = []

    def fit(features: Tensor, labels: Tensor, config: BNDLConfig, epochs: float) -> BNDLDecisionLayer:
        read.append((features[:, 1].long(), labels))
        return BNDLDecisionLayer(config).eval()

    train = Training(fit, lambda *_: 1, 0)
    layer = tune_decision_layer(views, labels, config, train, keep=["projection", "feature_noise"])
    assert len(read) == 5 + 1
    seen = []
    for rows, found in read:
        images = rows[: len(rows) // V]
        assert torch.equal(rows, (100 * torch.arange(V)[:, None] + images).flatten())
        assert torch.equal(found, labels[images].repeat(V))
        seen.append(set(range(N)) - set(images.tolist()))
    assert [len(held) for held in seen] == [4] * 5 + [0]
    assert set().union(*seen) == set(range(N))
    assert layer.config.num_training_images == N


def test_a_trainer_that_tunes_keeps_and_reads_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    of_views = FeatureViews.__getitems__
    monkeypatch.setattr(FeatureViews, "__getitems__", lambda self, rows: read.append(len(rows)) or of_views(self, rows))
    dataset = runs.with_pixel_values(runs.images(60, wrong=15), augment=RandomFlip(1.0))
    values = {"feature_views": 2, "tune_keeps": ["feature_noise"]}  # one candidate
    trainer = trainer_with(tmp_path, values=values, train_dataset=dataset)
    passes: list[int] = []
    trainer.model.backbone.register_forward_hook(lambda _, __, output: passes.append(len(output.logits)))
    trainer.train()
    assert sum(passes) == 2 * 60 + 30
    assert trainer.model.config.num_training_images == 60
    assert set(read) == {16, 12}, "an epoch of the candidate reads 60 rows in batches of 16, not 120"


def test_a_layer_that_has_learned_something_is_not_thrown_away(tmp_path: Path) -> None:
    trained, warm = (runs.classifier("resnet") for _ in range(2))
    trained.config.num_training_images = 5
    torch.nn.init.ones_(warm.decision_layer.raw_bias)
    assert trainer_with(tmp_path, trained).why_not_tuned() == ["its decision layer was trained before"]
    assert trainer_with(tmp_path, warm).why_not_tuned() == ["its decision layer is warm-started"]
    assert trainer_with(tmp_path).why_not_tuned() == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cache_features": False}, "tune_head=True searches on features that do not change"),
        ({"tune_min_steps": -1}, "tune_min_steps=-1 optimizer steps; pass 0 or more"),
        ({"tune_keeps": ["density"]}, "tune_keeps names density; it takes fields of BNDLConfig"),
        ({"tune_keeps": ["bias"], "tune_head": False}, "says what a search keeps, but tune_head=False"),
    ],
)
def test_arguments_of_a_search_that_do_not_fit_are_named(values: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        trainer_with(tmp_path, values=values)


def test_a_report_says_that_images_were_learned_by_heart() -> None:
    labels = torch.arange(60) % 3
    x = 5 * torch.eye(3)[labels] + torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    report, config = TuningReport(), BNDLConfig(feature_dim=3, num_labels=3)

    def fit(features: Tensor, labels: Tensor, config: BNDLConfig, epochs: float) -> Any:
        return fit_decision_layer(features, labels, config, num_train_epochs=epochs, use_cpu=True, disable_tqdm=True)

    tune_decision_layer(x, labels, config, Training(fit, lambda *_: 1, 0), report=report)
    assert (report.is_memorised, report.chosen, report.num_held_out, report.candidates) == (True, "trained", 0, [])
    assert "by heart" in str(report)
    assert report.scalars() == {"tuning_num_held_out": 0}
