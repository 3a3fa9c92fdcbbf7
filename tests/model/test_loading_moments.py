"""Moments of sparse loadings: the same as of dense ones, and those of the weights as they are now."""

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.loading_moments import LoadingMoments
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import predict_exactly


def sparse_layer():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=7, num_factors=40)).eval()
    layer.raw_loadings.data.uniform_(-0.9, 0.1)
    layer.raw_loadings.data[:, 3] = -1.0  # a class without any
    return layer


def test_sparse_loadings_give_the_moments_of_dense_ones():
    layer = sparse_layer()
    scores, bias, r = layer.score_posterior(torch.randn(9, 12)), layer.bias, torch.arange(9) % 7
    with torch.enable_grad():
        dense = LogitPosterior(scores, layer.loading_posterior(), bias)
        many, dense_gaps = predict_exactly(dense, 20, 0.05, Recalibration()), dense.gaps(r)
    with torch.no_grad():
        loadings = layer.loading_posterior()
        assert LoadingMoments.of(loadings).mean.layout == torch.sparse_csr
        sparse = LogitPosterior(scores, loadings, bias)
        few, sparse_gaps = predict_exactly(sparse, 20, 0.05, Recalibration()), sparse.gaps(r)
    for one, other in zip(sparse_gaps, dense_gaps, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other.detach())
    for name in ("probs", "logits_mean", "logits_variance", "p_value", "epistemic"):
        torch.testing.assert_close(getattr(few, name), getattr(many, name).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("write", ["data", "optimizer", "load", "configuration"])
def test_no_write_to_the_loadings_goes_unnoticed(write):
    layer = sparse_layer()
    features = torch.randn(9, 12)
    before = layer.predict(features)
    if write == "data":
        layer.loading_concentration.data[3, 2] -= 3
        layer.raw_loadings.data[:, 1] *= 2
    elif write == "optimizer":
        layer.train()(features, torch.zeros(9, dtype=torch.long)).loss.backward()
        torch.optim.SGD(layer.parameters(), lr=1.0).step()
    elif write == "load":
        layer.load_state_dict(sparse_layer().state_dict())
    else:
        layer.config.min_concentration = 2.0
    fresh = BNDLDecisionLayer(layer.config).eval()
    fresh.load_state_dict(layer.state_dict())
    got, expected = layer.eval().predict(features), fresh.predict(features)
    for name in ("probs", "logits_mean", "logits_variance", "gap_variance", "p_value", "epistemic"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert not torch.equal(got.logits_variance, before.logits_variance)
