"""Loadings and factors are counted as by hand, and a sweep judges a layer that it leaves as it was."""

import re

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.baselines import DenseDecisionLayer
from bndl_hf.interpretability import sparsity_report, sparsity_sweep
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.plots import sparsity_frontier_plot
from model.tiny import tiny_model

LOADINGS = torch.tensor([[0.9, 0.0], [0.0, 0.0], [0.5, 0.4], [2e-5, 1e-6]])


def layer_with(loadings, **config):
    K, C = loadings.shape
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=K, num_factors=K, num_labels=C, projection="none", **config))
    layer.raw_loadings.data.copy_(loadings)
    return layer.eval()


def test_loadings_are_counted_by_class_and_factor():
    report = sparsity_report(layer_with(LOADINGS))
    assert report.sparsity == 4 / 8
    assert report.factors_per_class.tolist() == [3, 1]
    assert report.classes_per_factor.tolist() == [1, 0, 2, 1]
    assert report.is_dead.tolist() == report.is_unused.tolist() == [False, True, False, False]
    assert str(report) == (
        "50.0% of 8 loadings are above 1e-05: 1 to 3 a class, 2.0 on average.\n"
        "3 of 4 factors are alive: 1 have no loading."
    )


def test_a_factor_no_image_shows_is_dead_too():
    scores = torch.tensor([[0.0, 1.0, 2.0, 0.1], [0.0, 0.0, 3.0, 0.0]])
    report = sparsity_report(layer_with(LOADINGS), scores)
    assert report.is_dead.tolist() == [True, True, False, False]
    assert report.is_unused.tolist() == [False, True, False, False]
    assert str(report).endswith("2 of 4 factors are alive: 1 have no loading, 1 more are silent on all 2 images.")


def test_a_model_is_as_good_as_its_layer():
    model = tiny_model("resnet")
    assert sparsity_report(model).sparsity == model.decision_layer.sparsity()


def test_a_sweep_keeps_the_largest_loadings_and_judges_what_is_left():
    generator = torch.Generator().manual_seed(0)
    layer = layer_with(torch.rand(6, 3, generator=generator) + 0.1, loading_density=1.0)
    features = torch.rand(5000, 6, generator=generator) * 2  # more than one batch
    labels = torch.randint(3, (5000,), generator=generator)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.train()
    sweep = sparsity_sweep(layer, features, labels, [1.0, 0.5, 0.01])
    assert layer.training
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert sweep.density == [1.0, 0.5, 0.01]
    assert sweep.sparsity == pytest.approx([1.0, 0.5, 3 / 18])  # every class keeps its largest
    assert sweep.factors_per_class == pytest.approx([6, 3, 1])
    for place, density in enumerate(sweep.density):
        left = layer_with(layer.factor_loadings.detach(), loading_density=1.0)
        left.load_state_dict(before)
        left.prune_smallest(density)
        probs = left.predict(features).probs
        assert sweep.accuracy[place] == pytest.approx((probs.argmax(dim=1) == labels).double().mean().item())
        expected = -probs[torch.arange(5000), labels].double().log().mean().item()
        assert sweep.negative_log_likelihood[place] == pytest.approx(expected, rel=1e-5)
    assert sparsity_frontier_plot({"pruned after training": vars(sweep)}).axes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda layer: sparsity_report(torch.nn.Linear(2, 2)), "A Linear has no BNDL decision layer; pass a BNDLFor"),
        (lambda layer: sparsity_report(layer, torch.rand(3, 5)), "scores has shape [3, 5]; [N, K] with K = 4"),
        (lambda layer: sparsity_report(layer, -torch.rand(3, 4)), "scores and loadings of factors are never negative"),
        (
            lambda layer: sparsity_report(layer, torch.full((2, 4), torch.nan)),
            "scores holds 8 values of 8 that are NaN",
        ),
        (lambda layer: sparsity_report(layer, torch.rand(0, 4)), "scores has shape [0, 4]"),
        (lambda layer: sweep(layer, features=torch.rand(3, 9)), "features has shape [3, 9]; [N, D] with D = 4"),
        (lambda layer: sweep(layer, labels=torch.tensor([0, 1, 2])), "labels run from 0 to 2; classes are 0 to 1"),
        (lambda layer: sweep(layer, labels=torch.tensor([0, 1])), "labels have shape [2]; one class for each of 3"),
        (lambda layer: sweep(layer, labels=torch.rand(3)), "labels have dtype torch.float32"),
        (lambda layer: sweep(DenseDecisionLayer(layer.config)), "scores and loadings of factors are never negative"),
        (lambda layer: sweep(layer, densities=[]), "densities=[] must be one share of the loadings or more"),
        (lambda layer: sweep(layer, densities=[0.5, 0.0]), "densities=[0.5, 0.0] must be"),
    ],
)
def test_what_does_not_fit_is_an_error(call, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        call(layer_with(LOADINGS))


def sweep(layer, **changes):
    inputs = {"features": torch.rand(3, 4), "labels": torch.tensor([0, 1, 0]), "densities": [0.5]}
    return sparsity_sweep(layer, **{**inputs, **changes})
