"""benchmarks/sparsity_variants.py: gradients through zero, and proximal penalties that solve their own minimisation."""

import numpy as np
import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.baselines import FeatureTask
from bndl_hf.training import fit_decision_layer
from script_modules import load_script

variants = load_script("benchmarks/sparsity_variants")


def make(name, feature_dim, num_labels):
    head = variants.SPARSITY_HEADS[name]
    return head.make(BNDLConfig(feature_dim=feature_dim, num_labels=num_labels, **head.config))


def test_loadings_below_the_threshold_get_the_gradient_of_a_gelu():
    layer = make("bndl_through_zero", 6, 4)
    layer.raw_loadings.data.uniform_(-0.3, 0.3)
    torch.manual_seed(0)
    weights = torch.randn(layer.config.num_factors, 4)
    posterior = layer.loading_posterior()
    (gradient,) = torch.autograd.grad((posterior.mean * weights).sum(), layer.raw_loadings)
    assert torch.equal(posterior.mean, layer.raw_loadings.clamp_min(0))
    u = (layer.raw_loadings.detach().double() / 0.1).requires_grad_()
    torch.nn.functional.gelu(u).sum().backward()
    torch.testing.assert_close(gradient.double(), weights.double() * u.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [False, True])
def test_a_proximal_step_solves_its_own_minimisation(group):
    layer = make("bndl_lasso", 4, 3)
    layer.raw_loadings.data.normal_(generator=torch.Generator().manual_seed(0))
    before = layer.raw_loadings.detach().clone().double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    variants.ProximalPenalty(2.0, group).on_optimizer_step(None, None, None, model=layer, optimizer=optimizer)
    after = layer.raw_loadings.detach().double()
    assert torch.equal(after[before <= 0], before[before <= 0])
    # argmin over x of |x - y|^2 / 2 + 0.25 * 2 * |x|, element by element or row by row, of the loadings above zero.
    y = before.clamp_min(0).numpy()
    size = np.linalg.norm(y, axis=1, keepdims=True) if group else np.abs(y)
    expected = np.where(size > 0.5, y * (1 - 0.5 / np.maximum(size, 1e-12)), 0.0)
    np.testing.assert_allclose(after.clamp_min(0).numpy(), expected, atol=1e-6)


def test_a_strong_proximal_penalty_leaves_few_loadings():
    task = FeatureTask.digits()
    config = BNDLConfig(feature_dim=64, num_labels=10, loading_density=1.0)
    penalty = variants.ProximalPenalty(30.0)
    layer = fit_decision_layer(*task.train, config, callbacks=[penalty], num_train_epochs=4, disable_tqdm=True)
    assert layer.sparsity() < 0.5


def test_a_pruned_loading_comes_back_where_gradients_go_through_zero():
    layer = make("bndl_through_zero", 4, 3)
    torch.nn.init.constant_(layer.raw_loadings, 0.5)
    layer.prune_smallest(0.5)
    pruned = layer.factor_loadings == 0
    assert 0 < pruned.sum() < pruned.numel()
    optimizer = torch.optim.SGD([layer.raw_loadings], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (-layer.factor_loadings.sum()).backward()
        optimizer.step()
    assert (layer.factor_loadings[pruned] > 0).all()
