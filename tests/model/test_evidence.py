"""Every logit is its parts: contributions, rest and bias, exactly."""

import re

import pytest
import torch

import reference
from bndl_hf.model.evidence import explain_logit


@pytest.fixture
def posteriors():
    return reference.random_posteriors(B=6, K=8, C=4, dtype=torch.float32)


@pytest.mark.parametrize("target", [None, 2, [0, 1, 2, 3, 0, 1]])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_parts_are_those_of_a_naive_sum(posteriors, target, top_k):
    scores, loadings, bias = posteriors
    logits = (scores.mean.double() @ loadings.mean.double()) + bias.double()
    expected_target = logits.argmax(-1) if target is None else torch.tensor(target).expand(6)
    evidence = explain_logit(*posteriors, torch.tensor(target) if isinstance(target, list) else target, top_k)
    assert torch.equal(evidence.target, expected_target)
    for b in range(6):
        c = int(expected_target[b])
        parts = [scores.mean[b, k].item() * loadings.mean[k, c].item() for k in range(8)]
        largest = sorted(parts, reverse=True)
        assert evidence.contributions[b].tolist() == pytest.approx(largest[:top_k], rel=1e-6)
        assert [parts[k] for k in evidence.factors[b].tolist()] == pytest.approx(largest[:top_k], rel=1e-6)
        assert len(set(evidence.factors[b].tolist())) == top_k
        assert evidence.rest[b].item() == pytest.approx(sum(largest[top_k:]), rel=1e-5, abs=1e-6)
        assert evidence.bias[b] == bias[c]
        assert evidence.logit[b].item() == pytest.approx(logits[b, c].item(), rel=1e-5, abs=1e-5)
    assert (evidence.contributions >= 0).all()
    assert (evidence.rest >= 0).all()


@pytest.mark.parametrize("top_k", [0, 9])
def test_top_k_out_of_range_is_an_error(posteriors, top_k):
    with pytest.raises(ValueError, match=f"top_k={top_k} must lie between 1 and the number of factors, 8"):
        explain_logit(*posteriors, None, top_k)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (4, "must hold classes between 0 and 3"),
        (-1, "must hold classes between 0 and 3"),
        ([0, 1, 2, 3, 0, 4], "must hold classes between 0 and 3"),
        ([0, 1], "target has shape [2]; pass one class, or one for each of 6 images"),
    ],
)
def test_target_that_does_not_fit_is_an_error(posteriors, target, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        explain_logit(*posteriors, torch.tensor(target), 2)
