"""How sparse a tuned layer is made: the rules on known losses, the posterior, and all of it through the front door."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bndl_hf import BNDLConfig
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.convex_layer import layer_from_regression
from bndl_hf.training.density import (
    Step,
    choose_step,
    few_factors,
    one_standard_error,
    sparse_layer,
    wanted_density,
    with_posterior,
)
from bndl_hf.training.logistic_regression import fit_logistic_regression, folds
from bndl_hf.training.sparse_path import SparseFactors, layer_of

QUICK = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}


def steps(*means: float, shares: Sequence[float] = ()) -> list[Step]:
    """Losses that differ by whole rows: step i is `means[i]` everywhere, give or take what all steps share."""
    common = torch.linspace(-5, 5, 101).double()  # far larger than the differences: only paired they are seen
    shares = shares or [1.0] * len(means)
    return [
        Step(weights, common + mean, share, 1.0)
        for weights, mean, share in zip((0, 20, 14, 10, 8, 6), means, shares, strict=False)
    ]


def test_one_standard_error_is_that_of_the_difference_row_by_row() -> None:
    assert one_standard_error(steps(1.0, 1.0, 1.01)).weights_per_class == 20  # .01 without any spread is beyond it
    best, sparser = steps(1.0, 1.0)
    noise = torch.tensor([-1.0, 1.0] * 50 + [0.0]).double()  # a spread of 1 over 101 rows: an error of 1/sqrt(101)
    for mean, chosen in ((0.0990, 20), (0.1000, 0)):
        loss = best.losses + noise + mean
        assert one_standard_error([best, Step(20, loss, 1.0, 1.0)]).weights_per_class == chosen
    assert sparser.weights_per_class == 20


def test_the_sparsest_within_the_error_is_taken_even_behind_one_that_is_not() -> None:
    assert one_standard_error(steps(1.0, 2.0, 1.0, 2.0)).weights_per_class == 14


def test_to_be_read_is_the_likeliest_of_those_with_seven_tenths_of_the_evidence(caplog: Any) -> None:
    found = steps(0.5, 1.0, 1.2, 1.1, 1.3, shares=[0.3, 0.5, 0.71, 0.8, 0.9])
    assert choose_step(found, "interpretable").weights_per_class == 10
    none = steps(0.5, 1.0, 1.2, shares=[0.3, 0.5, 0.6])
    assert choose_step(none, "interpretable").weights_per_class == 14
    assert "the one with 60%, 14 weights a class, is taken" in caplog.text
    assert choose_step(found, 0.3) is found[-1]


def test_the_posterior_is_the_inverse_curvature_at_the_loadings() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(50, 3, generator=generator)
    loadings = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 2.0]])
    factors = SparseFactors(
        torch.zeros(3), torch.ones(3), torch.rand(3, 2, generator=generator), torch.ones(2), loadings, torch.zeros(3)
    )
    config = BNDLConfig(preset="interpretable", feature_dim=3, num_labels=3)
    layer = with_posterior(layer_of(config, factors), factors, features, variance_scale=0.5)
    probs = factors.logits(features).softmax(-1)
    curvature = torch.einsum("nk,nc->kc", factors.scores(features) ** 2, probs * (1 - probs))
    expected = 0.5 / (1.0 + curvature)
    found = layer.loading_posterior()
    kept = loadings > 0
    torch.testing.assert_close(found.variance[kept], expected[kept], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.mean, loadings)
    certain = with_posterior(layer_of(config, factors), factors, features, variance_scale=0.0).loading_posterior()
    assert relative_variance(certain.concentration).max() < 1e-7


# ---- through fit_decision_layer ----


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Six classes in 12 features, each along two axes that others share."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 6
    centres = torch.eye(12)[:6] + torch.eye(12)[[6, 6, 7, 7, 8, 8]]
    return (1.5 * centres[labels] + 0.6 * torch.randn(count, 12, generator=generator)).clamp_min(0), labels


def test_the_interpretable_preset_gives_a_layer_to_read() -> None:
    config = BNDLConfig(preset="interpretable", feature_dim=12, num_labels=6)
    held = blobs(300, seed=1)
    layer = fit_decision_layer(
        *blobs(240, seed=0), config, tune=True, eval_features=held[0], eval_labels=held[1], **QUICK
    )
    assert layer.config.preset == "interpretable"
    assert layer.config.num_factors == 20
    assert (layer.factor_loadings > 0).sum(0).max() <= 20
    assert layer.config.num_training_images == 240
    features, labels = blobs(300, seed=2)
    assert (layer.predict(features).predicted_labels == labels).float().mean() > 0.85
    assert layer.explain(features, top_k=5).share.sum(1).mean() >= 0.65


def test_a_share_of_the_loadings_is_judged_on_folds_and_learned_from_all_rows() -> None:
    x, y = blobs(240, seed=0)
    config = BNDLConfig(feature_dim=12, num_labels=6)
    fitted = []

    def fit(features: Tensor, labels: Tensor) -> PosteriorHead:
        fitted.append(len(labels))
        return layer_from_regression(config, fit_logistic_regression(features, labels, 6, 1.0), features, 0.0)

    layer = sparse_layer(fit(x, y), fit, folds(x, y, 2, seed=0), x, config, density=0.2)
    assert fitted == [240, 120, 120]
    assert (layer.factor_loadings > 0).sum(0).max() <= 4  # of 20 factors
    assert layer.config.loading_density <= 0.2
    assert layer.config.num_training_images == 240
    assert layer.config.temperature != 1


@pytest.mark.parametrize(
    ("fields", "rule"), [({}, "interpretable"), ({"loading_density": 0.1}, 0.1), ({"num_factors": 40}, "interpretable")]
)
def test_a_preset_asks_for_its_rule_unless_a_share_is_given(fields: dict[str, Any], rule: float | str) -> None:
    config = BNDLConfig(preset="interpretable", feature_dim=12, num_labels=6, **fields)
    assert wanted_density(config) == rule
    assert wanted_density(BNDLConfig(feature_dim=12, num_labels=6)) is None


def test_factors_are_two_a_class_but_not_too_few_nor_more_than_features() -> None:
    sizes = [(64, 10), (1280, 101), (64, 2), (8, 3), (64, 100)]
    assert [few_factors(*size) for size in sizes] == [20, 202, 20, 20, 64]


def test_densities_that_do_not_fit_are_errors() -> None:
    config = BNDLConfig(feature_dim=12, num_labels=6)
    with pytest.raises(ValueError, match=r"density=0\.3 is for tune=True; .* BNDLConfig\(..., loading_density=...\)"):
        fit_decision_layer(*blobs(24, seed=0), config, density=0.3)
    for density in ("few", 1.5, 0, True):
        with pytest.raises(ValueError, match=r"is unknown; pass a share of the loadings in \(0, 1\], or 'auto'"):
            fit_decision_layer(*blobs(24, seed=0), config, tune=True, density=density)
