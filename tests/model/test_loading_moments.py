"""Moments of sparse loadings: the same as of dense ones, and kept only as long as nothing has changed."""

import copy
import pickle

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.loading_moments import LoadingMoments
from bndl_hf.model.predictive import gap_moments, predict_exactly


def test_sparse_loadings_give_the_moments_of_dense_ones():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=7, num_factors=40)).eval()
    layer.raw_loadings.data.uniform_(-0.9, 0.1)
    layer.raw_loadings.data[:, 3] = -1.0  # a class without any
    scores, bias = layer.score_posterior(torch.randn(9, 12)), layer.bias
    dense = gap_moments(scores, layer.loading_posterior(), bias, torch.arange(9) % 7)
    with torch.no_grad():
        loadings = layer.loading_posterior()
        assert LoadingMoments.of(loadings).mean.layout == torch.sparse_csr
        sparse = gap_moments(scores, loadings, bias, torch.arange(9) % 7)
        few = predict_exactly(scores, loadings, bias, 20, 0.05)
    for one, other in zip(sparse, dense, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other.detach())
    with torch.enable_grad():
        many = predict_exactly(scores, layer.loading_posterior(), bias, 20, 0.05)
    for name in ("probs", "logits_mean", "logits_variance", "p_value", "epistemic"):
        torch.testing.assert_close(getattr(few, name), getattr(many, name).detach(), rtol=1e-4, atol=1e-6)


# ---- moments kept from call to call ----


def sparse_layer():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=7, num_factors=40)).eval()
    layer.raw_loadings.data.uniform_(-0.9, 0.1)
    return layer, torch.randn(9, 12)


def assert_predicts_as_a_fresh_copy(layer, features):
    fresh = BNDLDecisionLayer(layer.config).eval()
    fresh.load_state_dict(layer.state_dict())
    got, expected = layer.predict(features), fresh.predict(features)
    for name in ("probs", "logits_mean", "logits_variance", "gap_variance", "p_value", "epistemic"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("write", ["data", "optimizer", "load", "inference"])
def test_no_write_to_the_loadings_goes_unnoticed(write):
    layer, features = sparse_layer()
    before = layer.predict(features)
    assert layer._loadings_memo._known is not None
    assert torch.equal(layer.predict(features).probs, before.probs)
    if write == "data":
        layer.loading_concentration.data[3, 2] -= 3
        layer.raw_loadings.data[:, 1] *= 2
    elif write == "optimizer":
        layer(features, torch.zeros(9, dtype=torch.long)).loss.backward()
        torch.optim.SGD(layer.parameters(), lr=1.0).step()
    elif write == "load":
        layer.load_state_dict(sparse_layer()[0].state_dict())
    else:
        with torch.inference_mode():
            layer.predict(features)
        layer.config.min_concentration = 2.0
    assert_predicts_as_a_fresh_copy(layer, features)
    assert not torch.equal(layer.predict(features).logits_variance, before.logits_variance)


def test_changing_factor_loadings_that_were_handed_out_changes_no_prediction():
    layer, features = sparse_layer()
    layer.predict(features)
    with torch.no_grad():
        layer.factor_loadings.zero_()
    assert_predicts_as_a_fresh_copy(layer, features)


def test_a_copied_or_pickled_layer_carries_no_moments():
    layer, features = sparse_layer()
    layer.predict(features)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._loadings_memo._known is None
        assert torch.equal(twin.predict(features).probs, layer.predict(features).probs)


def test_loadings_that_are_not_sparse_are_not_kept():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=7)).eval()
    layer.predict(torch.rand(9, 12))
    assert layer._loadings_memo._known is None


def test_reparametrised_loadings_are_compared_as_they_are_read():
    layer, features = sparse_layer()

    class Halved(torch.nn.Module):
        def forward(self, x):
            return 0.5 * x

    torch.nn.utils.parametrize.register_parametrization(layer, "raw_loadings", Halved())
    before = layer.predict(features)
    layer.parametrizations.raw_loadings.original.data[:, 2] *= 3
    assert not torch.equal(layer.predict(features).logits_mean, before.logits_mean)
    expected = layer.score_posterior(features).mean @ layer.loading_posterior().mean + layer.bias
    torch.testing.assert_close(layer.predict(features).logits_mean, expected)
