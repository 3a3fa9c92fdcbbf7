"""The series of the moments against 40 digits: values and derivatives, in float64 and in float32."""

import math

import mpmath
import pytest
import torch

from bndl_hf.model.moments import log_gamma, relative_variance

CONCENTRATIONS = torch.cat([torch.logspace(math.log10(0.05), 4, 300), torch.tensor([1.99, 2.0, 2.01])])


def exact(function):
    """`function` of every concentration in 40 digits, rounded to float64."""
    with mpmath.workdps(40):
        return torch.tensor([float(function(mpmath.mpf(k))) for k in CONCENTRATIONS.tolist()], dtype=torch.float64)


def value_and_derivative(function, dtype):
    k = CONCENTRATIONS.to(dtype).requires_grad_()
    value = function(k)
    (derivative,) = torch.autograd.grad(value.sum(), k)
    assert value.dtype == derivative.dtype == dtype
    return value.detach().double(), derivative.double()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 5e-8), (torch.float32, 3e-7)])
def test_log_gamma_and_its_derivative(dtype, tolerance):
    value, derivative = value_and_derivative(log_gamma, dtype)
    expected = exact(lambda k: mpmath.loggamma(1 + 1 / k))
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    psi = derivative * CONCENTRATIONS.double().square()  # without the factor 1/k^2
    expected = exact(lambda k: -mpmath.digamma(1 + 1 / k))
    torch.testing.assert_close(psi, expected, rtol=3 * tolerance, atol=3 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 8e-7), (torch.float32, 2e-6)])
def test_relative_variance_and_its_derivative(dtype, tolerance):
    value, derivative = value_and_derivative(relative_variance, dtype)
    expected = exact(lambda k: mpmath.gamma(1 + 2 / k) / mpmath.gamma(1 + 1 / k) ** 2 - 1)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)

    def slope(k):
        ratio = mpmath.gamma(1 + 2 / k) / mpmath.gamma(1 + 1 / k) ** 2
        return -2 * ratio * (mpmath.digamma(1 + 2 / k) - mpmath.digamma(1 + 1 / k)) / k**2

    torch.testing.assert_close(derivative, exact(slope), rtol=tolerance, atol=0)


def test_a_point_mass_has_no_variance_and_no_gradient():
    k = torch.tensor([math.inf], requires_grad=True)
    (relative_variance(k) + log_gamma(k)).sum().backward()
    assert relative_variance(k).item() == 0
    assert log_gamma(k).item() == pytest.approx(0, abs=1e-7)
    assert k.grad.item() == 0


def test_the_series_can_be_exported():
    class Moments(torch.nn.Module):
        def forward(self, k):
            return relative_variance(k), log_gamma(k)

    k = torch.linspace(0.1, 20, 7)
    exported = torch.export.export(Moments(), (k,)).module()
    torch.testing.assert_close(exported(k), Moments()(k))
