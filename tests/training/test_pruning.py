"""Pruning: the smallest loadings go, on a cubic, for good, and as many as the configuration says."""

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from transformers import TrainerControl, TrainerState

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.pruning import LoadingPruner, warn_if_not_pruned

from .runs import classifier, make_trainer, step_logs
from .test_fit_decision_layer import QUICK, blobs


def layer_with(loadings, **config):
    loadings = torch.as_tensor(loadings)
    config = BNDLConfig(feature_dim=2, num_factors=len(loadings), num_labels=loadings.shape[1], **config)
    layer = BNDLDecisionLayer(config)
    layer.raw_loadings.data.copy_(loadings)
    return layer


def test_the_largest_are_kept_as_they_are_and_each_class_keeps_one():
    layer = layer_with([[0.9, 0.1, 0.05], [0.8, 0.2, 0.01], [0.7, 0.3, 0.02], [0.6, 0.4, 0.03]], loading_density=0.5)
    layer.prune_smallest(0.5)  # six of twelve: the fourth column's largest would not be among the six largest
    expected = torch.tensor([[0.9, 0, 0.05], [0.8, 0, 0], [0.7, 0, 0], [0.6, 0.4, 0]])
    torch.testing.assert_close(layer.factor_loadings, expected)
    layer.prune_smallest(0.01)
    torch.testing.assert_close(layer.factor_loadings, torch.tensor([[0.9, 0, 0.05], [0, 0, 0], [0, 0, 0], [0, 0.4, 0]]))


def test_what_lies_below_the_threshold_stays_where_it_is():
    layer = layer_with([[0.9, 0.01], [-0.3, 0.5]], loading_threshold=0.02)
    layer.prune_smallest(0.75)
    torch.testing.assert_close(layer.raw_loadings.data, torch.tensor([[0.9, 0.01], [-0.3, 0.5]]))


@pytest.mark.parametrize("max_steps", [1, 3, 10, 1000])
def test_the_density_falls_on_a_cubic_and_ends_where_it_should(max_steps):
    layer = layer_with(torch.rand(40, 25) + 0.1, loading_density=0.2)
    pruner = LoadingPruner(start=0.1, end=0.6)
    densities = []
    for step in range(max_steps):
        pruner.after_step(layer, step, max_steps)
        densities.append(layer.sparsity())
    assert densities[-1] == pytest.approx(0.2)
    assert densities == sorted(densities, reverse=True)
    if max_steps == 1000:
        assert densities[99] == 1.0
        assert densities[349] == pytest.approx(0.2 + 0.8 * 0.5**3, abs=0.01)  # half way
        assert densities[598] > 0.2
        assert densities[599] == pytest.approx(0.2)


def test_a_density_of_one_prunes_nothing():
    layer = layer_with(torch.rand(4, 3) + 0.1, loading_density=1.0)
    before = layer.raw_loadings.clone()
    for step in range(10):
        LoadingPruner(0.0, 1.0).after_step(layer, step, 10)
    assert torch.equal(layer.raw_loadings, before)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_what_is_pruned_stays_pruned_whatever_the_optimizer_s_momentum(optim):
    config = BNDLConfig(feature_dim=6, num_labels=3, num_factors=40, loading_density=0.25)
    rate = {"adamw_torch": 0.05, "sgd": 0.5}[optim]
    arguments = {**QUICK, "num_train_epochs": 20, "optim": optim, "decision_layer_learning_rate": rate}
    if optim == "sgd":
        arguments["optim_args"] = "momentum=0.9"
    layer = fit_decision_layer(*blobs(96, seed=0), config, **arguments)
    assert 0 < layer.sparsity() <= 0.25
    features, labels = blobs(96, seed=1)
    assert (layer.predict(features).predicted_labels == labels).float().mean() > 0.9


def test_an_end_that_was_skipped_is_made_up_for():
    layer = layer_with(torch.rand(40, 25) + 0.1, loading_density=0.2)
    pruner = LoadingPruner(start=0.1, end=0.6)
    for step in range(100):
        if step != 59:  # an optimizer step that overflowed
            pruner.after_step(layer, step, 100)
    assert layer.sparsity() == pytest.approx(0.2)


def test_a_trainer_may_train_twice_and_prunes_both_times(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.train()
    layer = trainer.decision_layer
    assert layer.sparsity() <= 0.15
    with torch.no_grad():
        layer.raw_loadings.copy_(0.3 + 0.01 * torch.rand_like(layer.raw_loadings))
    trainer.train()
    assert layer.sparsity() <= 0.15


def test_weights_of_before_the_end_of_pruning_are_told(caplog):
    layer = layer_with(torch.rand(40, 25) + 0.1, loading_density=0.2)
    with caplog.at_level("WARNING", logger="bndl_hf"):
        warn_if_not_pruned(layer, weights_of_step=3, end=0.6, max_steps=10)
        assert "100% of the loadings are above zero, not 20%: these weights are of step 3" in caplog.text
        assert "pruning was to end at step 6 of 10. The model works as it is" in caplog.text
        caplog.clear()
        layer.prune_smallest(0.2)
        warn_if_not_pruned(layer, weights_of_step=10, end=0.6, max_steps=10)
    assert not caplog.text


def test_accumulated_gradients_prune_once_a_step(tmp_path):
    logs = []
    for size, steps in ((4, 1), (2, 2)):
        values = {"max_steps": 6, "per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = make_trainer(tmp_path, classifier(dropout=False), optim="sgd", **values)
        trainer.train()
        logs.append([log["sparsity"] for log in step_logs(trainer)])
    assert logs[0] == logs[1]
    assert len(set(logs[0])) > 2, "it falls in several steps"


def test_a_step_that_overflowed_prunes_nothing():
    layer = layer_with(torch.rand(40, 25) + 0.1, loading_density=0.2)
    state, pruner = TrainerState(global_step=5, max_steps=10), LoadingPruner(start=0.1, end=0.6)
    given = {"args": None, "state": state, "control": TrainerControl(), "model": layer}
    accelerated = AcceleratedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1))
    accelerated._is_overflow = True
    pruner.on_optimizer_step(**given, optimizer=accelerated)
    assert layer.sparsity() == 1.0
    accelerated._is_overflow = False
    pruner.on_optimizer_step(**given, optimizer=accelerated)
    assert layer.sparsity() == pytest.approx(0.2)
