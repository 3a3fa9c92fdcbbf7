"""Fig. 2's groups by hand and by a loop."""

import pytest
import torch

from bndl_hf.uncertainty import accuracy_by_uncertainty_decile


def test_deciles_are_the_means_of_sorted_tenths():
    generator = torch.Generator().manual_seed(0)
    uncertainty = torch.rand(203, generator=generator, dtype=torch.float64)
    correct = torch.rand(203, generator=generator) > uncertainty
    groups = accuracy_by_uncertainty_decile(uncertainty, correct)
    order = sorted(range(203), key=lambda i: uncertainty[i].item())
    start = 0
    for g, count in enumerate([21, 21, 21] + [20] * 7):  # 203 = 3 * 21 + 7 * 20
        members = order[start : start + count]
        start += count
        assert groups.count[g] == count
        assert groups.accuracy[g].item() == pytest.approx(sum(correct[i].item() for i in members) / count)
        assert groups.uncertainty[g].item() == pytest.approx(sum(uncertainty[i].item() for i in members) / count)


def test_useful_uncertainty_falls_from_one_to_zero():
    groups = accuracy_by_uncertainty_decile(torch.arange(20.0), torch.arange(20) < 10)
    assert groups.accuracy.tolist() == [1.0] * 5 + [0.0] * 5


def test_constant_uncertainty_gives_every_group_the_overall_accuracy():
    correct = torch.arange(20) < 5
    for order in (torch.arange(20), torch.arange(20).flip(0)):
        groups = accuracy_by_uncertainty_decile(torch.ones(20), correct[order])
        assert groups.accuracy.tolist() == [0.25] * 10
        assert groups.uncertainty.tolist() == [1.0] * 10


def test_fewer_images_than_groups_is_an_error():
    with pytest.raises(ValueError, match=r"uncertainty has 9 images for num_groups=10"):
        accuracy_by_uncertainty_decile(torch.rand(9), torch.ones(9))
