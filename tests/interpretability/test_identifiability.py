"""Matrices made to meet, and to miss, each condition of Prop. 1; and what it is that they identify."""

import re

import pytest
import torch

from bndl_hf.interpretability import IdentifiabilityCheck, identifiability_report

# Three factors, five classes: rows 0 and 1 have two zeros or more, row 2 has one.
LOADINGS = torch.tensor([[1.0, 0.0, 0.0, 0.5, 0.2], [0.0, 1.0, 0.4, 0.0, 0.0], [0.3, 0.2, 1.0, 0.6, 0.0]])
MIXED = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.6, 0.7], [0.9, 0.3, 0.1]])


def alone(*factors, weight=2.0):
    """Mixed images, then one for each factor that shows it alone."""
    return torch.cat([MIXED, weight * torch.eye(3)[list(factors)]])


def test_factors_that_meet_both_conditions_are_identifiable():
    report = identifiability_report(alone(0, 2), LOADINGS)
    assert report.num_factors == report.rank == 3
    assert report.selective_window.tolist() == [True, False, True]
    assert report.num_zeros.tolist() == [2, 3, 1]
    assert report.sparsity.tolist() == report.zeros_suffice.tolist() == [True, True, False]
    assert report.identifiable.tolist() == [True, False, False]
    assert report.window_image.tolist() == [3, -1, 4]  # no image shows factor 1 most
    assert report.window_impurity.tolist() == [0, float("inf"), 0]
    assert str(report) == (
        "1 of 3 factors are identifiable by Prop. 1 (5 images, 5 classes, tolerance 0.001).\n"
        "Selective window (an image shows it alone): 2.\n"
        "Sparsity (at least 2 zeros among its 5 loadings): 2, of which 2 where the others have rank 2."
    )


def test_an_identifiable_factor_is_found_again_by_any_other_factorisation():
    # Alternating multiplicative updates (Lee and Seung 2001) from random starts: the loadings of the certified factor
    # are among theirs, those of the uncertified ones need not be.
    generator = torch.Generator().manual_seed(0)
    scores = torch.cat([alone(0).double(), torch.rand(40, 3, generator=generator, dtype=torch.float64)])
    logits = scores @ LOADINGS.double()
    report = identifiability_report(scores, LOADINGS)
    assert report.identifiable.tolist() == [True, False, False]
    expected = LOADINGS[0].double() / LOADINGS[0].norm()
    for seed in range(3):
        generator.manual_seed(seed)
        theta = torch.rand(len(scores), 3, generator=generator, dtype=torch.float64)
        phi = torch.rand(3, 5, generator=generator, dtype=torch.float64)
        for _ in range(20_000):
            phi *= (theta.T @ logits) / (theta.T @ theta @ phi + 1e-30)
            theta *= (logits @ phi.T) / (theta @ phi @ phi.T + 1e-30)
        assert (theta @ phi - logits).norm() / logits.norm() < 1e-3
        cosines = (phi / phi.norm(dim=1, keepdim=True)) @ expected
        assert cosines.max() > 0.999


def test_a_window_is_as_pure_as_the_tolerance_says_whatever_the_scale_of_a_factor():
    # In units of what the factors add: factor 1 adds 2 * 1.0, the others 0.0015 * 1.0 together.
    nearly = torch.cat([MIXED, torch.tensor([[0.0005, 2.0, 0.001]])])
    for scale in (torch.ones(3), torch.tensor([1e3, 1.0, 1e-3])):
        inputs = nearly * scale, LOADINGS / scale[:, None]
        report = identifiability_report(*inputs, tolerance=1e-3)
        assert report.selective_window.tolist() == [False, True, False]
        assert report.window_impurity[1].item() == pytest.approx(0.00075, rel=1e-4)
        assert report.window_image[1] == 3
        assert not identifiability_report(*inputs, tolerance=5e-4).selective_window.any()


def test_a_loading_within_the_tolerance_of_the_largest_is_zero():
    loadings = LOADINGS.clone()
    loadings[2, :2] = 5e-4
    assert identifiability_report(alone(), loadings).num_zeros.tolist() == [2, 3, 3]
    assert identifiability_report(alone(), loadings, tolerance=0.0).num_zeros.tolist() == [2, 3, 1]


def test_zeros_that_everybody_has_do_not_count():
    # Four more classes without any loading: every factor now has zeros enough by number.
    padded = torch.cat([LOADINGS, torch.zeros(3, 4)], dim=1)
    report = identifiability_report(alone(0, 1, 2), padded)
    assert report.sparsity.all()
    assert report.zeros_suffice.tolist() == [True, True, False]
    assert report.identifiable.tolist() == [True, True, False]


def test_dead_factors_are_no_part_of_the_factorisation():
    loadings = torch.cat([LOADINGS, torch.zeros(1, 5), torch.rand(1, 5)])
    scores = torch.cat([alone(0), torch.ones(4, 1), torch.zeros(4, 1)], dim=1)  # one without loadings, one never shown
    report = identifiability_report(scores, loadings)
    assert report.is_alive.tolist() == [True, True, True, False, False]
    assert (report.num_factors, report.rank) == (3, 3)
    assert report.identifiable.tolist() == [True, False, False, False, False]
    nothing = identifiability_report(torch.zeros(4, 3), LOADINGS)
    assert (nothing.num_factors, nothing.rank) == (0, 0)
    assert not nothing.identifiable.any()


def test_a_factorisation_larger_than_its_rank_certifies_nothing():
    # A fourth factor with the loadings of the first: the two can be mixed at will.
    loadings = torch.cat([LOADINGS, LOADINGS[:1]])
    loadings = torch.cat([loadings, torch.tensor([[0.0], [0.1], [0.0], [0.0]])], dim=1)
    scores = torch.cat([torch.eye(4), torch.rand(5, 4)])
    report = identifiability_report(scores, loadings)
    assert (report.num_factors, report.rank) == (4, 3)
    assert report.selective_window.all()
    assert not report.identifiable.any()
    assert "The logits have rank 3, not 4: the proposition does not apply." in str(report)


def test_with_more_factors_than_classes_nothing_can_be_certified():
    report = identifiability_report(torch.eye(4), torch.eye(4)[:, :3] + torch.tensor([[0.0], [0.0], [0.0], [1.0]]))
    assert (report.num_factors, report.rank) == (4, 3)
    assert report.selective_window.all()
    assert not report.sparsity.any()
    assert "With fewer classes than factors no factor has 3 zeros and a loading: nothing can be certified." in str(
        report
    )


def test_batches_say_what_all_images_at_once_say():
    generator = torch.Generator().manual_seed(0)
    scores = torch.cat([torch.rand(5000, 3, generator=generator), alone(1), torch.rand(3, 3, generator=generator)])
    whole = identifiability_report(scores, LOADINGS)
    check = IdentifiabilityCheck(LOADINGS)
    for batch in scores.split(700):
        check.update(batch)
    for name, value in vars(check.report()).items():
        expected = getattr(whole, name)
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, name
    assert whole.window_image[1] == 5003
    assert whole.num_images == 5007


@pytest.mark.parametrize(
    ("scores", "loadings", "tolerance", "says"),
    [
        (torch.rand(3, 2), LOADINGS, 1e-3, "scores has shape [3, 2]; [N, K] with K = 3, not empty, fits."),
        (torch.rand(0, 3), LOADINGS, 1e-3, "scores has shape [0, 3]"),
        (-MIXED, LOADINGS, 1e-3, "scores holds -0.9; scores and loadings of factors are never negative."),
        (MIXED, -LOADINGS, 1e-3, "loadings holds -1; scores and loadings"),
        (MIXED, LOADINGS / 0, 1e-3, "loadings holds 15 values of 15 that are NaN or infinite"),
        (MIXED, LOADINGS[0], 1e-3, "loadings has shape [5]; [K, C], not empty, fits."),
        (MIXED, LOADINGS, 1.0, "tolerance=1.0 is a share of the largest part; it lies in [0, 1)."),
    ],
)
def test_what_does_not_fit_is_an_error(scores, loadings, tolerance, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        identifiability_report(scores, loadings, tolerance)


def test_a_report_needs_images():
    with pytest.raises(ValueError, match="No scores were seen"):
        IdentifiabilityCheck(LOADINGS).report()
