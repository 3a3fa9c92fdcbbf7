"""The decision layer alone, trained on features that are there already."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import fit_decision_layer

QUICK = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1, "per_device_train_batch_size": 32}


def blobs(count: int, seed: int, num_labels: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    """Classes two units apart along their own axis, each with a spread of 0.3: separable to more than 3 deviations."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_labels
    noise = 0.3 * torch.randn(count, width, generator=generator)
    return 2 * torch.eye(width)[labels] + noise, labels


def config(**values: Any) -> BNDLConfig:
    return BNDLConfig(feature_dim=6, num_labels=3, **values)


def fit(seed: int = 0, **values: Any) -> BNDLDecisionLayer:
    return fit_decision_layer(*blobs(96, seed=0), config(), seed=seed, **{**QUICK, **values})


@pytest.mark.parametrize("preset", ["default", "released"])
def test_separable_classes_are_learnt(preset: str) -> None:
    layer = fit_decision_layer(
        *blobs(300, seed=0),
        config(preset=preset, num_factors=24),  # of which "released" starts with some dead
        decision_layer_learning_rate=0.02,
        **{**QUICK, "num_train_epochs": 15},
    )
    features, labels = blobs(300, seed=1)
    assert (layer.predict(features).predicted_labels == labels).float().mean() > 0.95
    assert not layer.training


def test_one_seed_gives_one_layer() -> None:
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.raw_loadings, other.raw_loadings)


def test_held_out_features_are_judged_every_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    features, labels = blobs(30, seed=1)
    fit(eval_features=features, eval_labels=labels, num_train_epochs=2, disable_tqdm=False)
    printed = capsys.readouterr().out
    for name in ("eval_accuracy", "eval_nll", "eval_expected_calibration_error", "eval_pavpu"):
        assert printed.count(f"'{name}'") == 2


def test_a_given_layer_is_continued() -> None:
    layer = fit()
    scale = layer.feature_scale.clone()
    still = fit_decision_layer(*blobs(96, seed=3), layer.config, layer=layer, decision_layer_learning_rate=0.0, **QUICK)
    assert still is layer
    expected = fit()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    moved = fit_decision_layer(*blobs(96, seed=3), layer.config, layer=layer, **QUICK)
    assert not torch.equal(moved.raw_loadings, expected.raw_loadings)
    assert torch.equal(moved.feature_scale, scale), "the spread is measured once"


def test_normalize_features_divides_by_the_standard_deviation() -> None:
    features, labels = blobs(96, seed=0)
    features = features * torch.tensor([1.0, 1e3, 1e-2, 5.0, 1.0, 1.0]) + 3
    layer = fit_decision_layer(features, labels, config(), **QUICK)
    std = features.double().std(dim=0, correction=0)
    # A feature 100 times steadier than the mean of all of them is raised no further than that.
    expected = 1 / std.clamp_min(1e-2 * std.mean())
    torch.testing.assert_close(layer.feature_scale, expected.float())
    assert 0 < (std < 1e-2 * std.mean()).sum() < 6


def test_a_feature_that_never_moves_keeps_its_scale() -> None:
    features, labels = blobs(96, seed=0)
    features[:, 4], features[:, 5] = 0.0, 0.1
    layer = fit_decision_layer(features, labels, config(), **QUICK)
    assert layer.feature_scale[4:].tolist() == [1.0, 1.0]
    torch.testing.assert_close(layer.feature_scale[:4], 1 / features[:, :4].std(dim=0, correction=0))


def test_without_normalize_features_the_scale_stays_one() -> None:
    layer = fit_decision_layer(*blobs(96, seed=0), config(normalize_features=False), **QUICK)
    assert (layer.feature_scale == 1).all()


def test_half_precision_features_are_fine() -> None:
    features, labels = blobs(96, seed=0)
    layer = fit_decision_layer(features.to(torch.bfloat16), labels.int(), config(), **QUICK)
    assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())


# ---- what does not fit ----


def with_nan() -> Tensor:
    features = torch.rand(8, 6)
    features[3, 2] = float("nan")
    features[5] = float("inf")
    return features


LABELS = torch.arange(8) % 3


@pytest.mark.parametrize(
    ("features", "labels", "sentence"),
    [
        (
            torch.rand(8, 6),
            LABELS[:7],
            r"features have shape \[8, 6\] and labels \[7\]; they must be \[N, D\] and \[N\].",
        ),
        (torch.rand(8, 6, 1), LABELS, r"features have shape \[8, 6, 1\] and labels \[8\]; they must be"),
        (torch.rand(8, 5), LABELS, r"features have shape \[8, 5\]; this decision layer reads \[B, 6\]."),
        (torch.rand(0, 6), LABELS[:0], "features are empty; there is nothing to learn from."),
        (with_nan(), LABELS, r"features hold NaN or infinite values in 2 rows \(first: row 3\)."),
        (torch.rand(8, 6), LABELS + 1, r"labels run from 1 to 3; this model knows 0 to 2 \(num_labels=3\)."),
        (torch.rand(8, 6), LABELS - 1, r"labels run from -1 to 1; this model knows 0 to 2"),
    ],
    ids=["lengths", "axes", "width", "empty", "nan", "label too large", "label below zero"],
)
def test_data_that_does_not_fit_is_named(features: Tensor, labels: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_decision_layer(features, labels, config(), **QUICK)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"score_threshold": 1e3, "loading_init": "linear"},
            "score_threshold=1000.0 leaves no active factor on 96 images",
        ),
        ({"loading_threshold": 9.0, "loading_init": "linear"}, "loading_threshold=9.0 leaves no active factor"),
    ],
)
def test_thresholds_that_leave_no_factor_are_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_decision_layer(*blobs(96, seed=0), config(**values), **QUICK)


def test_held_out_features_without_labels_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"eval_features and eval_labels belong together; pass both or neither."):
        fit(eval_features=torch.rand(3, 6))
