"""Agreement of maps is scipy's correlation and a ratio of sets counted by hand; constant maps have an answer."""

import re

import pytest
import torch
from scipy.stats import spearmanr

from bndl_hf.interpretability import map_agreement

RAMP = torch.arange(20.0).view(1, 4, 5)


def test_the_correlation_is_scipy_s_with_ties_and_all():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 6, (5, 7, 8), generator=generator).float()
    b = a + torch.randint(0, 6, (5, 7, 8), generator=generator).float()
    found = map_agreement(a, b).rank_correlation
    for one, first, second in zip(found, a, b, strict=True):
        assert one.item() == pytest.approx(spearmanr(first.flatten(), second.flatten()).statistic, abs=1e-12)


def test_only_the_order_of_the_pixels_counts():
    same = map_agreement(RAMP, RAMP.exp(), top_share=0.3)
    assert (same.rank_correlation.item(), same.overlap.item()) == (1, 1)
    opposite = map_agreement(RAMP, -RAMP, top_share=0.3)
    assert (opposite.rank_correlation.item(), opposite.overlap.item()) == (-1, 0)


def test_overlap_is_intersection_over_union_of_the_pixels_marked_most():
    shifted = torch.roll(RAMP.flatten(), 2).view(1, 4, 5)
    # The four largest of the ramp are pixels 16 to 19, of the shifted one 18, 19, 0 and 1: two in both, six in either.
    found = map_agreement(RAMP, shifted, top_share=0.2)
    assert found.overlap.item() == pytest.approx(2 / 6)
    assert found.top_share == 0.2
    assert found.chance_overlap == pytest.approx(0.2 / 1.8)


def test_ties_share_what_is_left_to_mark():
    a = torch.zeros(1, 4, 5)
    a[0, 0, 0] = 1.0  # four pixels to mark: this one, and 3/19 of each of the others
    found = map_agreement(a, -RAMP, top_share=0.2)  # marks pixels 0 to 3
    assert found.overlap.item() == pytest.approx((1 + 3 * 3 / 19) / (1 + 3 + 16 * 3 / 19))


def test_a_constant_map_has_no_order_and_marks_all_pixels_alike():
    flat = torch.full((1, 4, 5), 7.0)
    found = map_agreement(flat, RAMP, top_share=0.2)
    assert found.rank_correlation.item() == 0
    assert found.overlap.item() == pytest.approx(found.chance_overlap)  # 4 * 0.2 / (4 + 16 * 0.2)
    both = map_agreement(flat, flat - 3)
    assert (both.rank_correlation.item(), both.overlap.item()) == (0, 1)


def test_chance_is_what_independent_maps_give():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 32, 32, generator=generator), torch.rand(50, 32, 32, generator=generator)
    found = map_agreement(a, b, top_share=0.25)
    error = found.overlap.std() / 50**0.5
    assert abs(found.overlap.mean() - found.chance_overlap) < 4 * error
    assert abs(found.rank_correlation.mean()) < 4 / (32 * 50**0.5)  # standard deviation 1 / sqrt(pixels)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"map_b": torch.rand(1, 5, 4)}, "map_a has shape [1, 4, 5], map_b [1, 5, 4]; two maps of one shape"),
        ({"map_a": RAMP[0], "map_b": RAMP[0]}, "map_a has shape [4, 5]"),
        ({"map_a": RAMP[:0], "map_b": RAMP[:0]}, "map_a has shape [0, 4, 5]"),
        ({"map_b": RAMP * torch.nan}, "map_b holds 20 NaN, which has no place in an order."),
        ({"top_share": 0.0}, "top_share=0.0 is a share of the pixels in (0, 1)."),
        ({"top_share": 1.0}, "top_share=1.0 is a share"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        map_agreement(**{"map_a": RAMP, "map_b": RAMP, **changes})
