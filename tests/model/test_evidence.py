"""Every logit, and every gap of two, is its parts: contributions, rest and bias, exactly; and so is its variance."""

import math
import re

import pytest
import torch

import reference
from bndl_hf.model.evidence import explain_logit
from bndl_hf.model.logit_posterior import LogitPosterior


@pytest.fixture
def posteriors():
    return reference.random_posteriors(B=6, K=8, C=4, dtype=torch.float32)


@pytest.mark.parametrize("target", [None, 2, [0, 1, 2, 3, 0, 1]])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_parts_are_those_of_a_naive_sum(posteriors, target, top_k):
    scores, loadings, bias = posteriors
    logits = (scores.mean.double() @ loadings.mean.double()) + bias.double()
    expected_target = logits.argmax(-1) if target is None else torch.tensor(target).expand(6)
    evidence = explain_logit(
        LogitPosterior(*posteriors), torch.tensor(target) if isinstance(target, list) else target, top_k
    )
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
        assert evidence.total[b].item() == pytest.approx(logits[b, c].item(), rel=1e-5, abs=1e-5)
    assert (evidence.contributions >= 0).all()
    assert (evidence.rest >= 0).all()


@pytest.mark.parametrize("top_k", [0, 9])
def test_top_k_out_of_range_is_an_error(posteriors, top_k):
    with pytest.raises(ValueError, match=f"top_k={top_k} must lie between 1 and the number of factors, 8"):
        explain_logit(LogitPosterior(*posteriors), None, top_k)


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
        explain_logit(LogitPosterior(*posteriors), torch.tensor(target), 2)


def naive_parts(scores, loadings, weights):
    """Mean and standard deviation of theta_k sum_c weights[c] Phi_kc for each factor, in float64 loops."""
    found = []
    for k in range(len(scores.mean)):
        theta, theta_k = scores.mean[k].item(), scores.concentration[k].item()
        phi = phi_variance = 0.0
        for c, weight in weights.items():
            mean, concentration = loadings.mean[k, c].item(), loadings.concentration[k, c].item()
            phi += weight * mean
            phi_variance += weight**2 * (reference.second_moment(mean, concentration) - mean**2)
        second = reference.second_moment(theta, theta_k)
        found.append((theta * phi, math.sqrt(max(0.0, second * (phi_variance + phi**2) - (theta * phi) ** 2))))
    return found


def test_standard_deviations_and_shares_are_those_of_a_naive_loop(posteriors):
    scores, loadings, _ = posteriors
    evidence = explain_logit(LogitPosterior(*posteriors), None, 3)
    for b in range(6):
        row = type(scores)(scores.mean[b], scores.concentration[b])
        parts = naive_parts(row, loadings, {int(evidence.target[b]): 1.0})
        named = evidence.factors[b].tolist()
        assert evidence.contribution_std[b].tolist() == pytest.approx([parts[k][1] for k in named], rel=1e-4, abs=1e-6)
        whole = sum(part for part, _ in parts)
        assert evidence.share[b].tolist() == pytest.approx([parts[k][0] / whole for k in named], rel=1e-5)
        others = sum(std**2 for k, (_, std) in enumerate(parts) if k not in named)
        assert evidence.rest_std[b].item() == pytest.approx(math.sqrt(others), rel=1e-4, abs=1e-6)
    _, variance = reference.logit_moments(*posteriors)
    expected = variance.gather(1, evidence.target[:, None]).squeeze(1).sqrt()
    torch.testing.assert_close(evidence.total_std.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("against", ["runner_up", 1, [1, 2, 3, 0, 1, 2]])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_a_contrast_is_a_naive_sum_of_signed_parts(posteriors, against, top_k):
    scores, loadings, bias = posteriors
    logits, _ = reference.logit_moments(*posteriors)
    target = None if against == "runner_up" else torch.tensor([0, 3, 0, 2, 3, 0])
    given = torch.tensor(against) if isinstance(against, list) else against
    evidence = explain_logit(LogitPosterior(*posteriors), target, top_k, given)
    contrast = evidence.contrast
    assert torch.equal(contrast.target, evidence.target)
    if against == "runner_up":
        assert torch.equal(contrast.against, logits.topk(2).indices[:, 1])
    else:
        assert contrast.against.tolist() == (against if isinstance(against, list) else [against] * 6)
    _, gap_variance = reference.gap_moments(*posteriors, contrast.against)
    for b in range(6):
        a, other = int(contrast.target[b]), int(contrast.against[b])
        row = type(scores)(scores.mean[b], scores.concentration[b])
        parts = naive_parts(row, loadings, {a: 1.0, other: -1.0})
        named = contrast.factors[b].tolist()
        sizes = sorted((abs(part) for part, _ in parts), reverse=True)
        assert len(set(named)) == top_k
        assert contrast.contributions[b].abs().tolist() == pytest.approx(sizes[:top_k], rel=1e-5, abs=1e-6)
        assert contrast.contributions[b].tolist() == pytest.approx([parts[k][0] for k in named], rel=1e-5, abs=1e-6)
        assert contrast.contribution_std[b].tolist() == pytest.approx([parts[k][1] for k in named], rel=1e-4, abs=1e-6)
        rest = [parts[k] for k in range(8) if k not in named]
        assert contrast.rest[b].item() == pytest.approx(sum(part for part, _ in rest), rel=1e-5, abs=1e-5)
        assert contrast.rest_std[b].item() == pytest.approx(math.sqrt(sum(s**2 for _, s in rest)), rel=1e-4, abs=1e-6)
        assert contrast.bias[b].item() == pytest.approx((bias[a] - bias[other]).item())
        assert contrast.total[b].item() == pytest.approx((logits[b, a] - logits[b, other]).item(), rel=1e-5, abs=1e-5)
        assert contrast.total_std[b].item() == pytest.approx(math.sqrt(gap_variance[b, a].item()), rel=1e-4)


def test_means_and_deviations_are_those_of_draws_within_four_standard_errors():
    scores, loadings, bias = reference.random_posteriors(B=3, K=5, C=3, seed=2)
    evidence = explain_logit(LogitPosterior(scores, loadings, bias), 0, 5, against=2)
    contrast = evidence.contrast
    generator = torch.Generator().manual_seed(0)

    def draw(posterior, n=20_000):
        return torch.stack([posterior.sample(generator) for _ in range(n)])

    theta, phi = draw(scores), draw(loadings)  # [S, B, K], [S, K, C]
    for factors, mean, std, drawn in (
        (evidence.factors, evidence.contributions, evidence.contribution_std, theta * phi[:, None, :, 0]),
        (
            contrast.factors,
            contrast.contributions,
            contrast.contribution_std,
            theta * (phi[:, None, :, 0] - phi[:, None, :, 2]),
        ),
    ):
        named = drawn.gather(2, factors.expand(len(drawn), -1, -1))
        reference.assert_moments_within_four_standard_errors(named, mean, std.square())
    logits = torch.einsum("sbk,skc->sbc", theta, phi)
    for drawn, mean, std in (
        (logits[..., 0], evidence.total - evidence.bias, evidence.total_std),
        (logits[..., 0] - logits[..., 2], contrast.total - contrast.bias, contrast.total_std),
    ):
        reference.assert_moments_within_four_standard_errors(drawn, mean, std.square())


def test_an_image_that_shows_nothing_has_no_shares(posteriors):
    scores, loadings, bias = posteriors
    dark = type(scores)(torch.zeros_like(scores.mean), scores.concentration)
    evidence = explain_logit(LogitPosterior(dark, loadings, bias), 1, 3, against=2)
    for values in (evidence.share, evidence.contribution_std, evidence.rest_std, evidence.contrast.contribution_std):
        assert (values == 0).all()
    assert torch.equal(evidence.total, bias[1].expand(6))
    assert torch.equal(evidence.contrast.total, (bias[1] - bias[2]).expand(6))


@pytest.mark.parametrize(
    ("against", "says"),
    [
        ("second", "against='second' is unknown; pass 'runner_up', a class, or one for each image."),
        (1, "against=1 is the class explained itself for 1 of 6 images"),
        (4, "against=4 must hold classes between 0 and 3"),
        (torch.tensor([0, 1]), "against has shape [2]; pass one class, or one for each of 6 images."),
        (1.5, "against has dtype torch.float32; a class is a whole number."),
    ],
)
def test_a_class_to_contrast_with_that_does_not_fit_is_an_error(posteriors, against, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        explain_logit(LogitPosterior(*posteriors), torch.tensor([0, 1, 2, 3, 0, 2]), 2, against)
