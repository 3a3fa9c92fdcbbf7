"""Weights and scaling of the loss terms (Eqs. 12-13)."""

import math

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.model.loss import elbo_terms, likelihood_loss, negative_elbo

TERMS = torch.tensor(2.0), torch.tensor(30.0), torch.tensor(500.0)  # nll, local and global KL


def config(**kwargs):
    weights = {"kl_local_weight": 0.1, "kl_global_weight": 0.2, "kl_global_scaling": "per_image"}
    return BNDLConfig(feature_dim=8, num_factors=4, projection="linear", num_labels=3, **{**weights, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "kl_scale", "expected"),
    [
        ({"num_training_images": 50}, 1.0, 2 + 0.1 * 30 + 0.2 * 500 / 50),
        ({"num_training_images": 50}, 0.5, 2 + 0.5 * (0.1 * 30 + 0.2 * 500 / 50)),
        ({"num_training_images": 50}, 0.0, 2.0),
        ({"kl_global_scaling": "per_factor", "num_training_images": 50}, 1.0, 2 + 0.1 * 30 + 0.2 * 500 / 4),
        ({}, 1.0, 2 + 0.1 * 30),  # N unknown: the loadings' KL is left out
        ({"kl_local_weight": 0.0, "kl_global_weight": 0.0, "num_training_images": 50}, 1.0, 2.0),
    ],
)
def test_each_term_has_its_weight_and_scaling(kwargs, kl_scale, expected):
    assert negative_elbo(*TERMS, config(**kwargs), kl_scale).item() == pytest.approx(expected)


def test_the_terms_come_as_they_enter_the_loss_likelihood_first():
    terms = elbo_terms(*TERMS, config(num_training_images=50), kl_scale=0.5)
    assert list(terms) == ["nll", "kl_scores", "kl_loadings"]
    assert [term.item() for term in terms.values()] == pytest.approx([2.0, 0.5 * 0.1 * 30, 0.5 * 0.2 * 500 / 50])
    unweighted = elbo_terms(*TERMS, config(kl_local_weight=0.0))  # N is unknown
    assert [term.item() for term in unweighted.values()] == [2.0, 0.0, 0.0]


def test_a_term_of_weight_zero_has_no_part_in_the_loss_or_its_gradient():
    nll, kl_local, kl_global = (torch.tensor(value, requires_grad=True) for value in (2.0, math.inf, math.inf))
    loss = negative_elbo(nll, kl_local, kl_global, config(kl_local_weight=0.0))  # N is unknown
    loss.backward()
    assert loss.item() == 2.0
    assert (nll.grad, kl_local.grad, kl_global.grad) == (torch.ones(()), None, None)


def test_weighted_and_smoothed_likelihood_by_a_naive_loop():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    labels, weights = torch.tensor([0, 1, 2, 2, 1, 0, 2]), torch.tensor([0.5, 1.0, 3.0]).double()
    expected = 0.0
    for row, label in zip(logits.log_softmax(-1).tolist(), labels.tolist(), strict=True):
        target = [0.2 / 3 + (0.8 if c == label else 0.0) for c in range(3)]
        expected -= sum(weights[c].item() * target[c] * row[c] for c in range(3)) / 7
    got = likelihood_loss(logits, labels, weights, label_smoothing=0.2)
    assert got.item() == pytest.approx(expected)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert likelihood_loss(logits, labels) == plain


def test_parts_of_a_batch_add_up_to_the_weighted_loss_of_the_whole():
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    weights = torch.tensor([0.5, 1.0, 3.0])
    parts = [likelihood_loss(logits[i : i + 2], labels[i : i + 2], weights) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), likelihood_loss(logits, labels, weights))
