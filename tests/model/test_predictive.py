"""Sec. 5: exact moments, probabilities and uncertainties against naive loops, scipy and many draws."""

import math

import pytest
import torch
from scipy import stats

import reference
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import BNDLPrediction, paired_p_value, predict_by_sampling, predict_exactly
from bndl_hf.model.weibull import WeibullPosterior

S, THRESHOLD = 20, 0.05


def pick(values, index):
    return values.gather(-1, index[:, None]).squeeze(-1)


def sampled(posteriors, num_samples=S, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return predict_by_sampling(LogitPosterior(*posteriors), num_samples, THRESHOLD, Recalibration(), generator)


def exactly(*posteriors):
    return predict_exactly(LogitPosterior(*posteriors), S, THRESHOLD, Recalibration())


def logit_moments(*posteriors):
    logits = LogitPosterior(*posteriors)
    return logits.mean, logits.variance


def gap_moments(*arguments):
    return LogitPosterior(*arguments[:3]).gaps(arguments[3])


# ---- moments ----


def test_logit_and_gap_moments_equal_naive_loops():
    posteriors = reference.random_posteriors(B=6, K=5, C=4)
    for got, expected in zip(logit_moments(*posteriors), reference.logit_moments(*posteriors), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-12)
    top = torch.tensor([0, 1, 2, 3, 0, 1])
    for got, expected in zip(gap_moments(*posteriors, top), reference.gap_moments(*posteriors, top), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-12)
        assert (pick(got, top) == 0).all()


@pytest.mark.parametrize("width", [5, 1])
def test_gradients_of_the_gap_moments_are_those_of_finite_differences(width):
    scores, loadings, bias = reference.random_posteriors(B=3, K=5, C=4, zeros=0)
    top = torch.tensor([0, 3, 3])
    inputs = scores.mean, scores.concentration[:, :width], loadings.mean, loadings.concentration, bias

    def moments(mean, k, loading_mean, loading_k, bias):
        return gap_moments(WeibullPosterior(mean, k), WeibullPosterior(loading_mean, loading_k), bias, top)

    # The derivative of a relative variance is good to 4e-8, that of its series to some 1e-5.
    assert torch.autograd.gradcheck(moments, [value.clone().requires_grad_() for value in inputs], atol=1e-4)


def test_a_score_that_is_not_a_number_is_seen_in_every_gap():
    scores, loadings, bias = reference.random_posteriors(B=2, K=3, C=3, zeros=0)
    scores.mean[1, 0] = math.nan
    mean, variance = gap_moments(scores, loadings, bias, torch.tensor([0, 1]))
    assert mean.isnan().tolist() == [[False] * 3, [True] * 3]
    assert variance.isnan().tolist() == [[False] * 3, [True, False, True]]  # zero at the reference


def test_one_concentration_per_image_and_per_factor_broadcasts():
    scores, loadings, bias = reference.random_posteriors(B=3, K=4, C=3)
    scores = WeibullPosterior(scores.mean, scores.concentration[:, :1])
    loadings = WeibullPosterior(loadings.mean, loadings.concentration[:, :1])
    for got, expected in zip(
        logit_moments(scores, loadings, bias), reference.logit_moments(scores, loadings, bias), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-12)


def test_moments_in_float32_stay_close_to_naive_loops():
    posteriors = reference.random_posteriors(B=6, K=30, C=4, dtype=torch.float32, lowest=0.5)
    top = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(
        gap_moments(*posteriors, top)[1].double(), reference.gap_moments(*posteriors, top)[1], rtol=1e-5, atol=1e-5
    )


def test_exact_moments_equal_200000_draws_within_four_standard_errors():
    posteriors = reference.random_posteriors(B=2, K=3, C=3, lowest=2.0)
    draws = reference.joint_logits(*posteriors, num_samples=200_000)
    reference.assert_moments_within_four_standard_errors(draws, *logit_moments(*posteriors))
    for r in range(3):
        gaps = draws - draws[:, :, r : r + 1]
        expected = gap_moments(*posteriors, torch.full((2,), r))
        reference.assert_moments_within_four_standard_errors(gaps, *expected)


# ---- the exact prediction ----


def test_exact_p_value_and_flip_probability_are_those_of_scipy_at_the_exact_moments():
    # Few classes, close logits: p-values of every size.
    scores, loadings, bias = reference.random_posteriors(B=40, K=6, C=4, lowest=0.6)
    prediction = exactly(scores, loadings, 0.1 * bias)
    mean, variance = reference.logit_moments(scores, loadings, 0.1 * bias)
    torch.testing.assert_close(prediction.logits_mean, mean)
    torch.testing.assert_close(prediction.logits_variance, variance, rtol=2e-6, atol=0)  # the series of moments.py
    first, second = mean.topk(2).indices.unbind(-1)
    gap_mean, gap_variance = reference.gap_moments(scores, loadings, 0.1 * bias, second)
    gap, spread = pick(gap_mean, first).numpy(), pick(gap_variance, first).sqrt().numpy()
    # scipy's one-sample test from statistics: the second sample is the constant zero of "infinitely many" draws.
    p_value = 2 * stats.t.sf(gap / (spread / math.sqrt(S)), S - 1)
    assert ((p_value > THRESHOLD).mean(), (p_value < THRESHOLD).mean()) > (0.1, 0.1)
    torch.testing.assert_close(prediction.p_value, torch.from_numpy(p_value), rtol=2e-5, atol=1e-12)
    expected = torch.from_numpy(stats.norm.cdf(0, gap, spread))
    torch.testing.assert_close(prediction.flip_probability, expected, rtol=2e-5, atol=1e-12)
    assert torch.equal(prediction.is_certain, prediction.p_value < THRESHOLD)


def test_flip_probability_agrees_with_the_share_of_draws_that_flip():
    # Many factors of similar size: the gap is nearly normal (correlation 0.998 on trained heads).
    posteriors = reference.random_posteriors(B=30, K=40, C=3, lowest=2.0)
    prediction = exactly(*posteriors)
    first, second = prediction.logits_mean.topk(2).indices.unbind(-1)
    draws = reference.joint_logits(*posteriors, num_samples=4000)
    index = torch.arange(30)
    flips = (draws[:, index, first] < draws[:, index, second]).double().mean(dim=0)
    # 4 standard errors of a share of 4000 draws are below 0.032; 0.01 more for what is not normal.
    assert ((flips - prediction.flip_probability).abs() < 0.042).all()
    assert flips.max() > 0.3


def test_exact_probabilities_are_the_damped_gaps_by_hand():
    # One factor, theta = 2 for certain, Phi_0 = 3 and Phi_1 = 1 for certain but for Var[Phi_0] = 9 (k = 1).
    scores = WeibullPosterior(torch.tensor([[2.0]]).double(), torch.tensor([[1e9]]).double())
    loadings = WeibullPosterior(torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[1.0, 1e9]]).double())
    prediction = exactly(scores, loadings, torch.zeros(2).double())
    # gap mean 2 (3 - 1) = 4, gap variance 2^2 * 9 = 36
    expected = 1 / (1 + math.exp(-4 / math.sqrt(1 + math.pi / 8 * 36)))
    assert prediction.probs[0, 0].item() == pytest.approx(expected, rel=1e-6)
    assert prediction.flip_probability[0].item() == pytest.approx(stats.norm.cdf(-4 / 6), rel=1e-6)


def test_a_constant_added_to_all_logits_changes_no_answer():
    scores, loadings, bias = reference.random_posteriors(B=5, K=4, C=3)
    before = exactly(scores, loadings, bias)
    after = exactly(scores, loadings, bias + 7)
    for name in ("probs", "p_value", "flip_probability", "total", "epistemic"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("reference_class", [0, 1, 2])
def test_damped_logits_are_the_naive_gaps_over_their_damping(reference_class):
    posteriors = reference.random_posteriors(B=5, K=4, C=3)
    r = torch.full((5,), reference_class)
    mean, variance = reference.gap_moments(*posteriors, r)
    damped = LogitPosterior(*posteriors).damped(r, Recalibration(1.7, 0.6))
    torch.testing.assert_close(damped, mean / torch.sqrt(1.7**2 + math.pi / 8 * 0.6 * variance))
    assert (damped[:, reference_class] == 0).all()


def nested_monte_carlo(scores, loadings, bias, outer=200, inner=800):
    """Total entropy and mutual information of label and loadings: loadings outside, scores inside, both drawn."""
    theta = WeibullPosterior(*(v.expand(inner, -1, -1) for v in (scores.mean, scores.concentration))).sample(
        torch.Generator().manual_seed(1)
    )
    generator = torch.Generator().manual_seed(2)
    given = torch.stack([(theta @ loadings.sample(generator) + bias).softmax(-1).mean(0) for _ in range(outer)])
    marginal = given.mean(dim=0)
    total = torch.special.entr(marginal).sum(-1)
    return total, total - torch.special.entr(given).sum(-1).mean(dim=0)


def test_epistemic_uncertainty_follows_a_nested_monte_carlo_estimate():
    posteriors = reference.random_posteriors(B=48, K=6, C=4, dtype=torch.float32)
    total, epistemic = nested_monte_carlo(*posteriors)
    assert epistemic.max() > 3 * epistemic.min()  # images differ, so that a correlation means something
    exact = exactly(*posteriors)
    drawn = sampled(posteriors, num_samples=200)
    for prediction in (exact, drawn):
        assert torch.corrcoef(torch.stack([prediction.epistemic, epistemic]))[0, 1] >= 0.9
        assert torch.corrcoef(torch.stack([prediction.total, total]))[0, 1] >= 0.9
        # of the right size, not merely in the right order
        assert 0.5 < prediction.epistemic.mean() / epistemic.mean() < 2


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
@pytest.mark.parametrize("lowest", [0.05, 1.5, 1e3])
def test_uncertainties_add_up_and_are_not_negative(method, lowest):
    posteriors = reference.random_posteriors(B=64, K=6, C=4, dtype=torch.float32, lowest=lowest, highest=10 * lowest)
    prediction = exactly(*posteriors) if method == "exact" else sampled(posteriors)
    for name in ("total", "aleatoric", "epistemic"):
        assert (getattr(prediction, name) >= 0).all()
        assert (getattr(prediction, name) <= math.log(4) + 1e-5).all()
    torch.testing.assert_close(prediction.total, prediction.aleatoric + prediction.epistemic)
    torch.testing.assert_close(prediction.total, torch.special.entr(prediction.probs).sum(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(prediction.predicted_labels, prediction.probs.argmax(-1))
    for name in ("p_value", "flip_probability", "probs"):
        assert getattr(prediction, name).isfinite().all()
        assert ((getattr(prediction, name) >= 0) & (getattr(prediction, name) <= 1)).all()


def test_known_loadings_leave_no_epistemic_uncertainty():
    scores, loadings, bias = reference.random_posteriors(B=8, K=6, C=4)
    loadings = WeibullPosterior(loadings.mean, torch.full_like(loadings.mean, 1e7))
    assert exactly(scores, loadings, bias).epistemic.max() < 1e-10
    assert sampled((scores, loadings, bias)).epistemic.max() < 1e-6


def dead_posteriors(bias):
    """No active factor: the logits are the bias in every draw."""
    zeros = WeibullPosterior(torch.zeros(3, 2), torch.ones(3, 2)), WeibullPosterior(torch.zeros(2, 3), torch.ones(2, 3))
    return *zeros, torch.tensor(bias)


@pytest.mark.parametrize("predict", [lambda p: exactly(*p), sampled])
def test_a_gap_without_spread_is_settled_and_a_tie_is_not(predict):
    settled, tied = predict(dead_posteriors([0.1, 0.7, 0.0])), predict(dead_posteriors([0.7, 0.7, 0.0]))
    assert settled.p_value.tolist() == [0.0] * 3
    assert settled.flip_probability.tolist() == [0.0] * 3
    assert settled.is_certain.all()
    assert tied.p_value.tolist() == [1.0] * 3
    assert tied.flip_probability.tolist() == [0.5] * 3
    assert not tied.is_certain.any()


def test_p_value_of_a_gap_and_its_spread_by_scipy():
    ratio = torch.tensor([0.3, -0.3, 0.0, math.inf])
    expected = float(2 * stats.t.sf(0.3 * math.sqrt(S), S - 1))
    torch.testing.assert_close(paired_p_value(ratio, S), torch.tensor([expected, expected, 1, 0]).float())


# ---- the Monte-Carlo prediction ----


def test_monte_carlo_fields_are_statistics_of_its_draws():
    posteriors = reference.random_posteriors(B=30, K=6, C=4, dtype=torch.float32, lowest=0.8)
    prediction = sampled(posteriors)
    draws = prediction.logits_samples
    assert draws.shape == (S, 30, 4)
    torch.testing.assert_close(prediction.probs, draws.softmax(-1).mean(0))
    torch.testing.assert_close(prediction.logits_mean, draws.mean(0))
    torch.testing.assert_close(prediction.logits_variance, draws.var(0))
    first, second = draws.mean(0).topk(2).indices.unbind(-1)
    index = torch.arange(30)
    pair = draws[:, index, first].double().numpy(), draws[:, index, second].double().numpy()
    expected = torch.from_numpy(stats.ttest_rel(*pair, axis=0).pvalue)
    assert (expected > THRESHOLD).any()
    assert (expected < THRESHOLD).any()
    torch.testing.assert_close(prediction.p_value.double(), expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(prediction.flip_probability.double(), torch.from_numpy((pair[0] < pair[1]).mean(axis=0)))
    assert torch.equal(prediction.is_certain, prediction.p_value < THRESHOLD)


def test_draws_have_the_exact_moments():
    posteriors = reference.random_posteriors(B=2, K=3, C=3, lowest=2.0)
    draws = sampled(posteriors, num_samples=2000).logits_samples.double()
    reference.assert_moments_within_four_standard_errors(draws, *logit_moments(*posteriors))


def test_monte_carlo_repeats_with_the_same_generator_and_not_with_another():
    posteriors = reference.random_posteriors(B=3, K=4, C=3)
    first, again, other = sampled(posteriors), sampled(posteriors), sampled(posteriors, seed=1)
    for name in BNDLPrediction.__dataclass_fields__:
        one, other_run = getattr(first, name), getattr(again, name)
        assert (one is other_run is None) or torch.equal(one, other_run), name
    assert not torch.equal(first.logits_samples, other.logits_samples)


def test_many_draws_approach_the_exact_predictive():
    posteriors = reference.random_posteriors(B=40, K=20, C=4, dtype=torch.float32)
    drawn = sampled(posteriors, num_samples=2000).probs  # standard error below 0.5/sqrt(2000) = 0.011
    exact = exactly(*posteriors).probs
    plug_in = logit_moments(*posteriors)[0].softmax(-1)
    distance = (exact - drawn).abs().sum(-1).mean() / 2  # total variation
    assert distance < 0.05  # what the mean-field approximation leaves; here 0.036, where the plug-in is off by 0.155
    assert distance < 0.5 * (plug_in - drawn).abs().sum(-1).mean() / 2


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_large_concentration_collapses_to_nmf(method):
    scores, loadings, bias = reference.random_posteriors(B=8, K=6, C=4, dtype=torch.float32)
    scores = WeibullPosterior(scores.mean, torch.full_like(scores.mean, 1e6))
    loadings = WeibullPosterior(loadings.mean, torch.full_like(loadings.mean, 1e6))
    posteriors = scores, loadings, bias
    prediction = exactly(*posteriors) if method == "exact" else sampled(posteriors)
    logits = scores.mean @ loadings.mean + bias
    torch.testing.assert_close(prediction.logits_mean, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prediction.probs, logits.softmax(-1), rtol=1e-4, atol=1e-5)
    assert prediction.logits_variance.max() < 1e-8  # (pi^2 / 6) / k^2 times squares of about ten
    assert prediction.epistemic.max() < 1e-5
