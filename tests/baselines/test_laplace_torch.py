"""Laplace of the package laplace-torch: our closed form is the same posterior."""

import sys
from dataclasses import replace

import pytest
import torch

from bndl_hf.baselines import LaplaceClassifier, LaplaceTorchClassifier, logistic_regression


def clusters(count, seed=0):
    """Rows of three classes that overlap, [count, 4], and their labels."""
    labels = torch.arange(count) % 3
    return 1.5 * torch.eye(4)[labels] + torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), labels


@pytest.fixture(scope="module")
def fit():
    return logistic_regression(*clusters(120), *clusters(90, seed=1))


@pytest.mark.parametrize("structure", ["full", "kronecker"])
@pytest.mark.parametrize("prior_precision", [0.1, 5.0])
def test_the_package_s_posterior_is_our_closed_form(fit, structure, prior_precision):
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    (features, labels), far = clusters(120), 3 * clusters(30, seed=2)[0]
    theirs = LaplaceTorchClassifier(fit, features, labels, structure, prior_precision)
    ours = LaplaceClassifier(fit, features, features, labels, structure)
    ours._set_precision(prior_precision)
    assert theirs.prior_precision == prior_precision
    # The package keeps its probabilities and the whole matrix's square root in float32's accuracy.
    torch.testing.assert_close(theirs.variance(far), ours.variance(far), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs.probs(far), ours.probs(far), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("structure", ["full", "kronecker"])
def test_the_precision_it_chooses_has_the_larger_marginal_likelihood(fit, structure):
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    head = LaplaceTorchClassifier(fit, *clusters(120), structure)

    def evidence(factor):
        return head.posterior.log_marginal_likelihood(torch.tensor(factor * head.prior_precision)).item()

    assert evidence(1.0) > max(evidence(0.5), evidence(2.0))


def test_a_whole_matrix_that_is_too_large_is_refused(fit):
    wide = torch.zeros(1000, 3).double()
    large = replace(fit, weight=wide, mean=wide[:, 0], std=1 + wide[:, 0])
    with pytest.raises(ValueError, match=r"The whole matrix of 3003 weights is too large .*structure='kronecker'"):
        LaplaceTorchClassifier(large, torch.zeros(3, 1000), torch.arange(3), "full")
    with pytest.raises(ValueError, match="structure='diagonal' is unknown; choose 'full' or 'kronecker'"):
        LaplaceTorchClassifier(fit, *clusters(12), "diagonal")


def test_without_the_package_the_reader_is_told_where_it_is_described(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "laplace", None)
    with pytest.raises(ImportError, match=r"need laplace-torch; docs/peers\.md says how it is installed"):
        LaplaceTorchClassifier(fit, *clusters(12))
