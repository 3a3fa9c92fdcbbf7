"""What the model should compute, as naive float64 loops and quadrature: slow, obvious, written apart from the library.

Axes: S draws, B images, K factors, C classes.
"""

import math

import torch
from scipy import integrate, special

from bndl_hf.model.weibull import WeibullPosterior


def random_posteriors(B, K, C, seed=0, dtype=torch.float64, lowest=1.5, highest=6.0, zeros=0.2):
    """Posteriors of [B, K] scores and [K, C] loadings with concentrations in [lowest, highest], and a bias [C].

    A fifth of all means are exactly zero, as in a trained layer.
    """
    generator = torch.Generator().manual_seed(seed)

    def posterior(*shape):
        mean = torch.rand(shape, generator=generator, dtype=torch.float64) * 2
        mean = mean * (torch.rand(shape, generator=generator) > zeros)
        concentration = lowest + (highest - lowest) * torch.rand(shape, generator=generator, dtype=torch.float64)
        return WeibullPosterior(mean.to(dtype), concentration.to(dtype))

    scores, loadings = posterior(B, K), posterior(K, C)
    return scores, loadings, torch.randn(C, generator=generator, dtype=torch.float64).to(dtype)


def second_moment(mean, concentration):
    """E[x^2] = lam^2 Gamma(1 + 2/k) with lam = mean / Gamma(1 + 1/k)."""
    scale = mean / math.gamma(1 + 1 / concentration)
    return scale**2 * math.gamma(1 + 2 / concentration)


def _tables(posterior):
    """Mean, second moment and variance of every entry as nested lists."""
    means = posterior.mean.double().tolist()
    concentrations = posterior.concentration.double().expand_as(posterior.mean).tolist()
    seconds = [[second_moment(m, k) for m, k in zip(*rows, strict=True)] for rows in zip(means, concentrations)]  # noqa: B905
    variances = [[e2 - m * m for m, e2 in zip(*rows, strict=True)] for rows in zip(means, seconds, strict=True)]
    return means, seconds, variances


def logit_moments(scores, loadings, bias):
    """E[l_c] and Var[l_c] = sum_k E[theta^2] E[Phi^2] - E[theta]^2 E[Phi]^2, each [B, C]."""
    theta, theta2, _ = _tables(scores)
    phi, phi2, _ = _tables(loadings)
    (B, K), C = scores.mean.shape, loadings.mean.shape[1]
    mean, variance = torch.zeros(B, C, dtype=torch.float64), torch.zeros(B, C, dtype=torch.float64)
    for b in range(B):
        for c in range(C):
            mean[b, c] = sum(theta[b][k] * phi[k][c] for k in range(K)) + bias[c].item()
            variance[b, c] = sum(theta2[b][k] * phi2[k][c] - (theta[b][k] * phi[k][c]) ** 2 for k in range(K))
    return mean, variance


def gap_moments(scores, loadings, bias, reference):
    """Mean and variance of l_c - l_r, each [B, C], by the sum over factors, written out."""
    theta, theta2, _ = _tables(scores)
    phi, _, phi_variance = _tables(loadings)
    (B, K), C = scores.mean.shape, loadings.mean.shape[1]
    mean, variance = torch.zeros(B, C, dtype=torch.float64), torch.zeros(B, C, dtype=torch.float64)
    for b in range(B):
        r = int(reference[b])
        for c in range(C):
            if c == r:
                continue
            mean[b, c] = bias[c].item() - bias[r].item()
            for k in range(K):
                difference = phi[k][c] - phi[k][r]
                mean[b, c] += theta[b][k] * difference
                variance[b, c] += theta2[b][k] * (phi_variance[k][c] + phi_variance[k][r] + difference**2)
                variance[b, c] -= (theta[b][k] * difference) ** 2
    return mean, variance


def kl_weibull_gamma(scale, concentration, prior_concentration, prior_rate):
    """KL(Weibull || Gamma) in nats, by quadrature over u = log e with x = scale * e^(1/k) and e ~ Exponential(1)."""
    k, alpha, beta = concentration, prior_concentration, prior_rate

    def integrand(u):
        e = math.exp(u)
        log_x = math.log(scale) + u / k
        log_q = math.log(k / scale) + (k - 1) * (u / k) - e
        log_p = alpha * math.log(beta) - special.gammaln(alpha) + (alpha - 1) * log_x - beta * math.exp(log_x)
        return math.exp(u - e) * (log_q - log_p)

    # exp(u - e^u) is below 1e-17 at both ends, also after multiplication with e^(u/k) at k = 0.2.
    value, _ = integrate.quad(integrand, -40, 5, points=[-4, 0, 2, 3.5], limit=200, epsabs=1e-12, epsrel=1e-10)
    return value


def joint_logits(scores, loadings, bias, num_samples, seed=0):
    """Logits [S, B, C] of S independent draws of scores and loadings, each lam * (-log u)^(1/k) of its own uniform."""
    generator = torch.Generator().manual_seed(seed)

    def draw(posterior):
        mean, k = posterior.mean.double(), posterior.concentration.double()
        scale = mean / torch.exp(torch.lgamma(1 + 1 / k))
        uniform = torch.rand(num_samples, *mean.shape, generator=generator, dtype=torch.float64)
        return scale * (-torch.log1p(-uniform)) ** (1 / k)

    return torch.einsum("sbk,skc->sbc", draw(scores), draw(loadings)) + bias


def assert_moments_within_four_standard_errors(draws, mean, variance):
    """Sample mean and variance over the first axis lie within 4 standard errors of `mean` and `variance`."""
    n, centred = len(draws), draws - draws.mean(dim=0)
    sample_variance = draws.var(dim=0)
    error_of_mean = (sample_variance / n).sqrt()
    error_of_variance = ((centred**4).mean(dim=0) - sample_variance**2).clamp_min(0).div(n).sqrt()
    rounding = 1e-12 * (1 + mean.abs())
    assert ((draws.mean(dim=0) - mean).abs() <= 4 * error_of_mean + rounding).all()
    assert ((sample_variance - variance).abs() <= 4 * error_of_variance + rounding).all()
