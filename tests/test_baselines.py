"""The elastic-net path against scikit-learn, heads of point masses, and the split of a comparison's rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bndl_hf.baselines import FeatureTask, elastic_net_path, make_head
from bndl_hf.baselines.proximal import fit_elastic_net, violation


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


def test_the_optimum_of_the_elastic_net_meets_its_conditions():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(80, 6, generator=generator).double(), torch.arange(80) % 3
    x[labels == 1, 0] += 2
    x -= x.mean(0)
    weight, bias, has_converged = fit_elastic_net(
        x, labels, torch.zeros(6, 3).double(), torch.zeros(3).double(), 0.05, 0.9, 10_000, 1e-10
    )
    assert has_converged
    probs = (x @ weight + bias).softmax(-1)
    excess = (probs - torch.eye(3).double()[labels]) / 80
    gradient = x.T @ excess + 0.005 * weight
    zero = weight == 0
    assert 0 < zero.sum() < 18
    assert (gradient[zero].abs() <= 0.045 + 1e-9).all()
    torch.testing.assert_close(gradient[~zero], -0.045 * weight[~zero].sign(), atol=1e-9, rtol=0)
    assert excess.sum(0).abs().max() < 1e-9
    assert violation(weight, gradient, excess.sum(0), 0.045) < 1e-9
    assert violation(weight + 0.1, gradient, excess.sum(0), 0.045) > 0.01
    *_, has_converged = fit_elastic_net(x, labels, weight * 0, bias * 0, 0.05, 0.9, 2, 1e-10)
    assert not has_converged


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
    parts = (task.choosing[0].flatten().tolist(), task.reporting[0].flatten().tolist())
    assert sorted([*parts[0], *parts[1]]) == list(range(100, 106))
    assert sorted(parts[0]) != [100, 101, 102]  # files may be in the order of their classes
    assert list(task.ood) == ["far"]
    held = FeatureTask.split(tensors(), hold_out=4)
    assert [len(labels) for _, labels in (held.train, held.choosing, held.reporting)] == [6, 4, 6]
    assert sorted([*held.train[0].flatten().tolist(), *held.choosing[0].flatten().tolist()]) == list(range(10))
    with pytest.raises(ValueError, match="No rows are left for reporting; change hold_out or report_from"):
        FeatureTask.split(tensors(), report_from=6)


# ---- heads of point masses ----


@pytest.mark.parametrize("name", ["nmf", "dense"])
def test_a_head_of_point_masses_is_a_softmax_of_its_mean_logits(name):
    torch.manual_seed(0)
    layer = make_head(name, 6, 4)[0].eval()
    features, labels = torch.randn(9, 6), torch.arange(9) % 4
    read, weights = (features, layer.raw_loadings) if name == "dense" else (features.relu(), layer.raw_loadings.relu())
    logits = read @ weights + layer.raw_bias
    output, prediction = layer(features, labels), layer.predict(features)
    torch.testing.assert_close(output.logits_mean, logits)
    torch.testing.assert_close(prediction.probs, logits.softmax(-1))
    torch.testing.assert_close(output.nll, torch.nn.functional.cross_entropy(logits, labels))
    assert output.kl_local == output.kl_global == 0
    assert prediction.logits_variance.eq(0).all()
    assert prediction.is_certain.all()
    assert layer.sparsity() == pytest.approx((weights.abs() > 1e-5).float().mean().item())


def test_a_dense_layer_is_not_pruned_and_a_projection_is_not_ignored():
    with pytest.raises(ValueError, match="A dense layer is not pruned"):
        make_head("dense", 6, 4)[0].prune_smallest(0.1)
    for name in ("nmf", "dense"):
        with pytest.raises(ValueError, match="reads the features themselves; pass projection='none'"):
            make_head(name, 6, 4, projection="linear")
