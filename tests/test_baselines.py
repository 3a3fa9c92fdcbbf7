"""The elastic-net path against scikit-learn, other ways to sparse loadings, and the split of a comparison's rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bndl_hf import BNDLConfig
from bndl_hf.baselines import FeatureTask, elastic_net_path, make_head
from bndl_hf.baselines.sparsity import ProximalPenalty
from bndl_hf.training import fit_decision_layer


def test_a_path_s_heads_answer_as_scikit_learn_does_on_standardised_features():
    (features, labels), (others, _) = FeatureTask.digits().train, FeatureTask.digits().reporting
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-8)
    *_, (strength, layer) = elastic_net_path(features, labels, [0.1, 0.05], max_iterations=1000, tolerance=1e-5)
    own = LogisticRegression(
        solver="saga", l1_ratio=0.99, C=1 / (strength * len(labels)), max_iter=2000, tol=1e-6, random_state=0
    ).fit(((features - mean) / std).numpy(), labels.numpy())
    expected = own.predict_proba(((others - mean) / std).numpy())
    np.testing.assert_allclose(layer.predict(others).probs.numpy(), expected, atol=2e-3)
    assert layer.sparsity() == pytest.approx((np.abs(own.coef_ / std.numpy()) > 1e-5).mean(), abs=0.01)


def test_two_classes_are_one_row_in_scikit_learn_and_two_here():
    features = torch.randn(200, 3)
    labels = (features[:, 0] > 0).long()
    ((_, layer),) = elastic_net_path(features, labels, [0.001])
    probs = layer.predict(features).probs
    assert probs.shape == (200, 2)
    assert ((probs.argmax(-1) == labels).float().mean()) > 0.95


def tensors(n_train=10, n_test=6):
    return {
        "train.features": torch.arange(n_train).float()[:, None],
        "train.labels": torch.arange(n_train) % 2,
        "test.features": 100 + torch.arange(n_test).float()[:, None],
        "test.labels": torch.arange(n_test) % 2,
        "far.features": torch.zeros(2, 1),
    }


def test_rows_are_chosen_on_test_or_on_held_out_training_rows_and_never_reported_too():
    task = FeatureTask.split(tensors())
    assert [len(labels) for _, labels in (task.train, task.choosing, task.reporting)] == [10, 3, 3]
    assert task.choosing[0].flatten().tolist() == [100, 101, 102]
    assert list(task.ood) == ["far"]
    held = FeatureTask.split(tensors(), hold_out=4)
    assert [len(labels) for _, labels in (held.train, held.choosing, held.reporting)] == [6, 4, 6]
    assert sorted([*held.train[0].flatten().tolist(), *held.choosing[0].flatten().tolist()]) == list(range(10))
    with pytest.raises(ValueError, match="No rows are left for reporting; change hold_out or report_from"):
        FeatureTask.split(tensors(), report_from=6)


# ---- other ways to sparse loadings ----


def test_loadings_below_the_threshold_get_the_gradient_of_a_gelu():
    layer = make_head("bndl_through_zero", 6, 4)[0]
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
    layer = make_head("bndl_lasso", 4, 3)[0]
    layer.raw_loadings.data.normal_(generator=torch.Generator().manual_seed(0))
    before = layer.raw_loadings.detach().clone().double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    ProximalPenalty(2.0, group).on_optimizer_step(None, None, None, model=layer, optimizer=optimizer)
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
    penalty = ProximalPenalty(30.0)
    layer = fit_decision_layer(*task.train, config, callbacks=[penalty], num_train_epochs=4, disable_tqdm=True)
    assert layer.sparsity() < 0.5


def test_a_pruned_loading_comes_back_where_gradients_go_through_zero():
    layer = make_head("bndl_through_zero", 4, 3)[0]
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
