"""Imbalance: what the classes are is said, and corrected by weights in the loss or by the sampler."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, Subset

from bndl_hf import BNDLConfig, BNDLTrainer
from bndl_hf.data.pixel_values import collate
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training.class_balance import (
    BalancedSampler,
    all_labels,
    class_weights,
    count_classes,
    describe_classes,
    known_labels,
    missing_classes,
)
from bndl_hf.training.features import FeatureDataset

from . import runs


class Rows(Dataset):
    """Rows that nothing but reading them tells the labels of."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": torch.rand(3, 8, 8), "labels": index % 2}


class WithTargets(Rows):
    targets = (0, 1, 0, 1, 1)


# ---- labels ----


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (runs.images(5), [0, 1, 2, 0, 1]),
        (FeatureDataset(torch.rand(3, 2), torch.tensor([2, 0, 1])), [2, 0, 1]),
        (WithTargets(), [0, 1, 0, 1, 1]),
        (Subset(WithTargets(), [4, 0]), [1, 0]),
        (Rows(), None),
        (runs.images(5).remove_columns("label"), None),
    ],
    ids=["column", "features", "targets", "subset", "unknown", "no column"],
)
def test_labels_are_found_without_decoding_an_image(dataset: Any, expected: list[int] | None) -> None:
    labels = known_labels(dataset)
    assert (None if labels is None else labels.tolist()) == expected


def test_labels_that_are_not_listed_are_read_row_by_row_without_touching_the_random_numbers() -> None:
    state = torch.get_rng_state()
    assert all_labels(Rows()).tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="Row 0 of train_dataset holds no label"):
        all_labels([torch.rand(3)])


# ---- weights ----


def test_balanced_weights_are_one_over_the_counts_with_mean_one_over_the_images() -> None:
    counts = torch.tensor([30, 10, 0])
    weights = class_weights("balanced", counts)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    assert (weights * counts).sum().item() == pytest.approx(40)


def test_given_weights_keep_their_ratio_and_get_mean_one() -> None:
    assert class_weights([1.0, 9.0], torch.tensor([30, 10])).tolist() == pytest.approx([1 / 3, 3.0])


def test_weights_that_do_not_fit_the_classes_are_named() -> None:
    with pytest.raises(ValueError, match="class_weights has 2 numbers and the model 3 classes"):
        class_weights([1.0, 9.0], torch.tensor([3, 3, 3]))
    with pytest.raises(ValueError, match="is zero for every class that has training images"):
        class_weights([0.0, 9.0], torch.tensor([3, 0]))


class Watching(BNDLTrainer):
    """Keeps labels and logits of the last batch."""

    labels: torch.Tensor
    logits: torch.Tensor

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        loss, output = super().compute_loss(model, inputs, return_outputs=True, **more)
        self.labels, self.logits = inputs["labels"], output.logits.detach()
        return (loss, output) if return_outputs else loss


IMBALANCED = torch.tensor([0] * 12 + [1] * 3 + [2])


def layer_trainer(tmp_path: Path, labels: torch.Tensor = IMBALANCED, **values: Any) -> Watching:
    """A decision layer alone on random features, in whole batches, that stands still."""
    features = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=4, num_labels=3, objective="sampled", feature_noise=0.0))
    defaults = {"max_steps": 1, "per_device_train_batch_size": len(labels), "decision_layer_learning_rate": 0.0}
    return Watching(
        layer, runs.arguments(tmp_path, **{**defaults, **values}), train_dataset=FeatureDataset(features, labels)
    )


@pytest.mark.parametrize(
    ("given", "weights", "smoothing"),
    [
        ("balanced", [4 / 9, 16 / 9, 16 / 3], 0.0),  # 16 / (3 * 12), 16 / (3 * 3), 16 / (3 * 1)
        ([1.0, 2.0, 4.0], [8 / 11, 16 / 11, 32 / 11], 0.0),  # over their mean, (12 + 6 + 4) / 16
        (None, [1.0, 1.0, 1.0], 0.1),
    ],
)
def test_the_likelihood_is_weighted_and_smoothed_while_training(
    given: Any, weights: list[float], smoothing: float, tmp_path: Path
) -> None:
    trainer = layer_trainer(tmp_path, class_weights=given, label_smoothing_factor=smoothing)
    trainer.train()
    (log,) = runs.step_logs(trainer)
    log_probs = trainer.logits.log_softmax(dim=-1)
    expected = 0.0
    for row, label in enumerate(trainer.labels.tolist()):
        nll = -(1 - smoothing) * log_probs[row, label] - smoothing * log_probs[row].mean()
        expected += weights[label] * nll.item() / 16
    assert log["likelihood_loss"] == pytest.approx(expected, rel=1e-4)
    assert log["loss"] == pytest.approx(expected + log["kl_scores"] + log["kl_loadings"], rel=1e-4)


def test_an_evaluation_knows_no_weights(tmp_path: Path) -> None:
    trainer = layer_trainer(tmp_path, class_weights="balanced", label_smoothing_factor=0.1)
    trainer.train()
    measures = trainer.evaluate(trainer.train_dataset)
    assert measures["eval_loss"] == pytest.approx(measures["eval_nll"], rel=1e-5)


# ---- a loss function of one's own ----


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_function_gives_the_same_step_however_the_batch_is_cut(reduction: str, tmp_path: Path) -> None:
    def weighted(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction=reduction)
        return 3 * (loss if reduction == "mean" else loss / num_items_in_batch)

    logs = []
    for size, steps in ((8, 1), (2, 4)):
        values = {"max_steps": 1, "per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = BNDLTrainer(
            runs.classifier(dropout=False, feature_noise=0.0),
            runs.arguments(tmp_path, **values),
            collate,
            runs.images(8),
            compute_loss_func=weighted,
        )
        trainer.train()
        logs.append(runs.step_logs(trainer)[0])
    for name in ("loss", "grad_norm", "nll"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4), name
    assert logs[0]["loss"] > 2 * logs[0]["nll"]


# ---- the sampler ----


def test_the_sampler_draws_every_class_equally_often() -> None:
    sampler = BalancedSampler(IMBALANCED.repeat(500), seed=0)
    drawn = IMBALANCED.repeat(500)[torch.tensor(list(sampler))]
    # 8,000 draws: a share of 1/3 has a standard error of .0053.
    assert (drawn.bincount() / len(drawn)).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert len(sampler) == 8000


def test_the_draws_of_an_epoch_are_its_own_and_the_same_again() -> None:
    one, other = BalancedSampler(IMBALANCED, seed=1), BalancedSampler(IMBALANCED, seed=1)
    first = list(one)
    assert list(other) == first
    one.set_epoch(1)
    assert list(one) != first


def test_the_trainer_samples_by_weight(tmp_path: Path) -> None:
    trainer = layer_trainer(tmp_path, IMBALANCED.repeat(50), weighted_sampler=True)
    trainer.train()
    # 800 draws: a share of 1/3 has a standard error of .017.
    assert (trainer.labels.bincount() / 800).tolist() == pytest.approx([1 / 3] * 3, abs=0.07)


# ---- what is said ----


def names(*classes: str) -> Any:
    return SimpleNamespace(id2label=dict(enumerate(classes)))


def test_few_classes_are_named_with_their_images_and_many_by_their_range() -> None:
    few = describe_classes(torch.tensor([30, 10]), names("cat", "dog"))
    assert few == "40 training images of 2 classes: cat 30, dog 10"
    many = describe_classes(torch.arange(1, 21), names(*map(str, range(20))))
    assert many == "210 training images of 20 classes, 1 to 20 a class"


def test_a_class_without_images_is_named() -> None:
    counts = count_classes(torch.tensor([0, 0, 2]), 4)
    assert counts.tolist() == [2, 0, 1, 0]
    sentence = missing_classes(counts, names("cat", "dog", "eel", "fox"))
    assert sentence is not None
    assert sentence.startswith("2 of 4 classes have no training image ('dog', 'fox'); the model cannot learn them.")
    assert missing_classes(torch.tensor([1, 1]), names("cat", "dog")) is None


def test_the_trainer_warns_of_a_class_without_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="bndl_hf"):
        layer_trainer(tmp_path, torch.tensor([0, 2, 2])).train()
    assert "1 of 3 classes have no training image ('LABEL_1')" in caplog.text
    assert "3 training images of 2 classes: LABEL_0 1, LABEL_1 0, LABEL_2 2" in caplog.text
