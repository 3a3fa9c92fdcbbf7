"""Eqs. 6-7: draws, moments and the KL, against quadrature, scipy and mpmath."""

import itertools
import math

import mpmath
import pytest
import torch
from scipy import stats

import reference
from bndl_hf.model.weibull import WeibullPosterior, kl_weibull_gamma

CONCENTRATIONS = (0.2, 0.5, 1.0, 2.0, 7.0, 50.0)
SCALES = (1e-3, 0.1, 1.0, 10.0, 1e2)
PRIORS = ((0.1, 1.0), (1.0, 1.0), (2.5, 3.0), (10.0, 0.2))
GRID = list(itertools.product(SCALES, CONCENTRATIONS, PRIORS))
ENDS = (0.0, 1 - 2.0**-24)  # the smallest and largest number torch.rand gives in float32


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "beta"), PRIORS)
def test_kl_equals_numerical_integration(alpha, beta):
    for scale, k in itertools.product(SCALES, CONCENTRATIONS):
        expected = reference.kl_weibull_gamma(scale, k, alpha, beta)
        kl = kl_weibull_gamma(float64(scale), float64(k), alpha, beta).item()
        # The series of log Gamma are good to 5e-8; they stand beside rate times mean, which reaches thousands here.
        assert kl == pytest.approx(expected, rel=1e-6, abs=1e-7), (scale, k)
        assert kl >= -1e-7


def test_kl_at_a_quadrature_of_another_kind():
    # Straight over x, with scipy's own densities: the reference's substitution is not taken on trust.
    q, p = stats.weibull_min(2.0, scale=1.5), stats.gamma(3.0, scale=1 / 0.7)
    expected = reference.integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), 0, 15, epsabs=1e-12)[0]
    assert reference.kl_weibull_gamma(1.5, 2.0, 3.0, 0.7) == pytest.approx(expected, rel=1e-8)


def test_kl_in_float32_stays_close_to_float64():
    scale, k, alpha, beta = (float64(column) for column in zip(*((s, c, *p) for s, c, p in GRID), strict=True))
    exact = kl_weibull_gamma(scale, k, alpha, beta)
    single = kl_weibull_gamma(scale.float(), k.float(), alpha.float(), beta.float())
    assert single.dtype == torch.float32
    # Terms of size 10 to 1e4 are summed; each carries a relative rounding error of a few 6e-8.
    torch.testing.assert_close(single.double(), exact, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("scale", [1e-3, 0.7, 1.0, 42.0])
def test_kl_is_zero_for_identical_distributions(scale):
    # Weibull with k = 1 is the exponential, which is Gamma(1, 1/scale).
    assert abs(kl_weibull_gamma(float64(scale), float64(1.0), 1.0, 1 / scale)) < 1e-7


def test_kl_of_a_posterior_is_the_kl_of_its_scale():
    posterior = WeibullPosterior(float64([0.3, 2.0]), float64([0.7, 5.0]))
    expected = kl_weibull_gamma(posterior.scale, posterior.concentration, 2.0, 0.5)
    torch.testing.assert_close(posterior.kl(2.0, 0.5, 1e-10), expected)


@pytest.mark.parametrize("width", [4, 1])
def test_gradients_of_the_kl_of_a_posterior_are_those_of_its_formula(width):
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(5, 4, generator=generator).double() * (torch.rand(5, 4, generator=generator) > 0.3)
    k = 0.2 + 5 * torch.rand(5, width, generator=generator).double()
    weights = torch.randn(5, 4, generator=generator).double()
    assert (WeibullPosterior(mean, k).scale < 0.1).any()  # some are held by the floor
    gradients = []
    for is_formula in (False, True):
        posterior = WeibullPosterior(mean.clone().requires_grad_(), k.clone().requires_grad_())
        kl = posterior.kl(5.0, 4.0, 0.1)
        if is_formula:
            formula = kl_weibull_gamma(posterior.scale, posterior.concentration, 5.0, 4.0, 0.1)
            torch.testing.assert_close(kl, formula)
            kl = formula
        gradients.append(torch.autograd.grad((weights * kl).sum(), (posterior.mean, posterior.concentration)))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_gradients_of_the_kl_of_a_posterior_are_those_of_finite_differences():
    mean, k = float64([[0.4, 2.0, 1e-3]]).requires_grad_(), float64([[0.5], [3.0]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda mean, k: WeibullPosterior(mean, k).kl(2.5, 3.0, 0.01), (mean, k))


def test_kl_of_a_posterior_keeps_a_nan():
    posterior = WeibullPosterior(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.nan]))
    assert posterior.kl(1.0, 1.0, 0.1).isnan().all()


def test_kl_of_a_zero_mean_is_that_of_the_scale_floor_less_its_mean():
    # A zero costs what the logarithm of the floor costs; the floor's own mean, 1e-6 Gamma(1 + 1/k), is not charged.
    posterior = WeibullPosterior(torch.zeros(1).double(), float64([2.0]))
    floor = float64([1e-6])
    expected = kl_weibull_gamma(floor, posterior.concentration, 1.5, 1.0) - floor * math.gamma(1.5)
    torch.testing.assert_close(posterior.kl(1.5, 1.0, 1e-6), expected)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, 10.0])
def test_moments_of_draws_lie_within_four_standard_errors_of_the_closed_forms(k):
    posterior = WeibullPosterior(torch.full((200_000,), 1.7), torch.tensor(k))
    draws = posterior.sample(torch.Generator().manual_seed(int(10 * k))).double()
    mean, variance = float64(1.7), reference.second_moment(1.7, k) - 1.7**2
    reference.assert_moments_within_four_standard_errors(draws, mean, variance)
    assert posterior.variance[0].item() == pytest.approx(variance, rel=1e-5)


def test_draws_follow_the_weibull_distribution():
    draws = WeibullPosterior(torch.full((20_000,), 0.8), torch.tensor(1.6)).sample(torch.Generator().manual_seed(0))
    scale = 0.8 / math.gamma(1 + 1 / 1.6)
    assert stats.kstest(draws.numpy(), stats.weibull_min(1.6, scale=scale).cdf).pvalue > 1e-3


def test_draw_is_the_quantile_function():
    uniform = torch.linspace(0.001, 0.999, 50).double()
    posterior = WeibullPosterior(float64(2.5 * math.gamma(1 + 1 / 0.8)), float64(0.8))
    expected = torch.from_numpy(stats.weibull_min(0.8, scale=2.5).ppf(uniform.numpy()))
    torch.testing.assert_close(posterior.quantile(uniform), expected)


def test_the_scale_is_the_mean_over_a_gamma_function():
    k = float64([0.05, 0.3, 1.0, 20.0, 1e4])
    expected = float64([3.0 / float(mpmath.gamma(1 + 1 / mpmath.mpf(v))) for v in k.tolist()])
    torch.testing.assert_close(WeibullPosterior(float64([3.0]), k).scale, expected, rtol=1e-6, atol=0)


def test_zero_mean_draws_exactly_zero_and_has_no_variance():
    posterior = WeibullPosterior(torch.zeros(1000), torch.full((1000,), 0.05))
    assert (posterior.sample(torch.Generator().manual_seed(0)) == 0).all()
    assert (posterior.variance == 0).all()


def test_draws_stay_finite_at_the_smallest_concentrations():
    # Gamma(1 + 1/k) and (-log(1-u))^(1/k) both leave float32 below k = 0.029; their ratio does not.
    mean = torch.tensor([0.0, 1.0]).repeat(5000)
    for k in (0.02, 0.05):
        concentration = torch.tensor(k, requires_grad=True)
        draws = WeibullPosterior(mean, concentration).sample(torch.Generator().manual_seed(0))
        draws.sum().backward()
        assert draws.isfinite().all()
        assert concentration.grad.isfinite()


@pytest.mark.parametrize("uniform", ENDS)
@pytest.mark.parametrize("k", [0.05, 0.3, 1.0, 1e4])
def test_draws_and_gradients_are_finite_at_the_ends_of_the_uniform(uniform, k):
    mean = torch.tensor([0.0, 1e-10, 1.0], requires_grad=True)
    concentration = torch.tensor([k] * 3, requires_grad=True)
    draws = WeibullPosterior(mean, concentration).quantile(torch.full((3,), uniform))
    draws.sum().backward()
    for values in (draws, mean.grad, concentration.grad):
        assert values.isfinite().all()
    assert draws[0] == 0
    assert (draws >= 0).all()


def test_gradients_of_a_draw_are_those_of_finite_differences():
    mean = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    k = torch.tensor([0.7, 3.0], dtype=torch.float64, requires_grad=True)
    uniform = torch.tensor([0.2, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, c: WeibullPosterior(m, c).quantile(uniform), (mean, k))
    assert torch.autograd.gradcheck(lambda s, c: kl_weibull_gamma(s, c, 2.0, 0.5), (mean, k))
