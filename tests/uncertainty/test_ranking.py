"""Tied images share their values; the rank count is the AUROC."""

import torch

from bndl_hf.uncertainty.ranking import probability_of_superiority, sort_with_shared_ties


def test_tied_images_share_their_mean():
    key, values = sort_with_shared_ties(torch.tensor([2.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 5.0, 0.0, 7.0]))
    assert key.tolist() == [1.0, 2.0, 2.0, 3.0]
    assert values.tolist() == [5.0, 0.5, 0.5, 7.0]


def test_descending_order_shares_the_same_means():
    key, values = sort_with_shared_ties(torch.tensor([1.0, 3.0, 3.0]), torch.tensor([4.0, 1.0, 2.0]), descending=True)
    assert key.tolist() == [3.0, 3.0, 1.0]
    assert values.tolist() == [1.5, 1.5, 4.0]


def test_zero_and_minus_zero_tie():
    _, values = sort_with_shared_ties(torch.tensor([0.0, -0.0]), torch.tensor([1.0, 0.0]))
    assert values.tolist() == [0.5, 0.5]


def test_superiority_counts_ties_a_half():
    assert probability_of_superiority(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0])) == 3.5 / 4
