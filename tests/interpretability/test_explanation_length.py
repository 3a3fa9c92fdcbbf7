"""Shares of the largest parts against sums by hand."""

import pytest
import torch

from bndl_hf.baselines import make_head
from bndl_hf.interpretability import explanation_length


def layer_of(loadings):
    """A head whose scores are the features, with these loadings [K, C]."""
    layer = make_head("nmf", *loadings.shape)[0]
    with torch.no_grad():
        layer.raw_loadings.copy_(loadings + layer.config.loading_threshold)
        layer.raw_bias.zero_()
    return layer.eval()


def test_shares_are_those_of_the_largest_parts():
    # Class 0 is the answer: parts 6, 3, 1, of which the largest has .6. The gap to class 1: +6, -1, -1, its absolute
    # sum 8, of which the largest has .75.
    layer = layer_of(torch.tensor([[6.0, 0.0], [3.0, 4.0], [1.0, 2.0]]))
    features = torch.ones(3, 3) * (1 + layer.config.score_threshold)
    length = explanation_length(layer, features, top_k=1)
    assert length.evidence_share == pytest.approx(0.6, abs=1e-5)
    assert length.gap_share == pytest.approx(0.75, abs=1e-5)
    assert (length.weights_per_class, length.top_k, length.num_images) == (2.5, 1, 3)


def test_all_parts_are_the_whole_and_nothing_explains_an_image_without_evidence():
    layer = layer_of(torch.tensor([[6.0, 0.0], [3.0, 4.0], [1.0, 2.0]]))
    assert explanation_length(layer, torch.ones(2, 3), top_k=3).evidence_share == pytest.approx(1)
    assert explanation_length(layer, torch.zeros(2, 3), top_k=3).evidence_share == 0


def test_more_parts_than_there_are_and_weights_of_either_sign_are_refused():
    layer = layer_of(torch.ones(3, 2))
    with pytest.raises(ValueError, match="top_k=4 must lie between 1 and the number of factors, 3"):
        explanation_length(layer, torch.ones(2, 3), top_k=4)
    with pytest.raises(ValueError, match="factor_loadings"):
        explanation_length(make_head("dense", 3, 2)[0].eval(), torch.ones(2, 3), top_k=1)
