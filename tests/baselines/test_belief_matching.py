"""Belief matching against torch.distributions in float64."""

import math

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from bndl_hf import BNDLConfig
from bndl_hf.baselines import BeliefMatchingDecisionLayer, make_head
from bndl_hf.baselines.belief_matching import (
    expected_log_probs,
    gap_of_logs,
    kl_to_uniform,
    mutual_information,
    sample_log_dirichlet,
)

D, C, LAMBDA = 6, 4, 0.01


def layer_of(**config):
    torch.manual_seed(0)
    return make_head("belief_matching", D, C, **config)[0]


def concentrations():
    return torch.randn(7, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def test_the_loss_is_the_one_published():
    layer = layer_of()
    features, labels = 3 * torch.randn(9, D), torch.arange(9) % C
    output = layer(features, labels)
    log_alpha = (features @ layer.raw_loadings + layer.bias).detach().double()
    posterior, uniform = Dirichlet(log_alpha.exp()), Dirichlet(torch.ones(C).double())
    expected = posterior.concentration.digamma() - posterior.concentration.sum(-1, keepdim=True).digamma()
    nll = -expected.gather(1, labels[:, None]).mean()
    kl = kl_divergence(posterior, uniform).mean()
    torch.testing.assert_close(output.nll.double(), nll, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.kl_local.double(), kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.loss.double(), nll + LAMBDA * kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.logits.double(), log_alpha, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_the_published_loss():
    layer = layer_of()
    features, labels = 3 * torch.randn(9, D), torch.arange(9) % C
    layer(features, labels).loss.backward()
    weight = layer.raw_loadings.detach().double().requires_grad_()
    posterior = Dirichlet((features.double() @ weight + layer.bias.detach().double()).exp())
    alpha = posterior.concentration
    expected = alpha.gather(1, labels[:, None]).squeeze(1).digamma() - alpha.sum(-1).digamma()
    (LAMBDA * kl_divergence(posterior, Dirichlet(torch.ones(C).double())) - expected).mean().backward()
    torch.testing.assert_close(layer.raw_loadings.grad.double(), weight.grad, rtol=1e-4, atol=1e-6)


def test_closed_forms_are_those_of_the_dirichlet():
    log_alpha = concentrations()
    posterior = Dirichlet(log_alpha.exp())
    draws = posterior.sample((40_000,))  # [S, B, C]
    logs = draws.clamp_min(1e-300).log()
    error = logs.std(0) / 200
    assert ((logs.mean(0) - expected_log_probs(log_alpha)).abs() < 5 * error + 1e-3).all()
    torch.testing.assert_close(kl_to_uniform(log_alpha), kl_divergence(posterior, Dirichlet(torch.ones(C).double())))
    total = torch.special.entr(posterior.mean).sum(-1)
    of_draws = torch.special.entr(draws).sum(-1)
    error = of_draws.std(0) / 200
    assert ((total - of_draws.mean(0) - mutual_information(log_alpha)).abs() < 5 * error).all()
    mean, std = gap_of_logs(log_alpha[:, 0], log_alpha[:, 1])
    gaps = logs[..., 0] - logs[..., 1]
    assert ((gaps.mean(0) - mean).abs() < 5 * std / 200 + 1e-3).all()
    torch.testing.assert_close(gaps.std(0), std, rtol=0.05, atol=0)


def test_draws_are_logarithms_of_dirichlet_draws_whatever_the_concentration():
    log_alpha = torch.tensor([[0.0, 1.0, -1.0], [-9.0, -8.0, -8.5], [9.0, 9.0, 5.0]])
    draws = sample_log_dirichlet(log_alpha, 20_000, torch.Generator().manual_seed(0))
    assert draws.isfinite().all()
    probs, posterior = draws.double().exp(), Dirichlet(log_alpha.double().exp())
    torch.testing.assert_close(probs.sum(-1), torch.ones(20_000, 3).double(), atol=1e-5, rtol=0)
    error = (posterior.variance / 20_000).sqrt()
    assert ((probs.mean(0) - posterior.mean).abs() < 5 * error + 1e-6).all()
    torch.testing.assert_close(probs.var(0), posterior.variance, rtol=0.06, atol=1e-6)


def test_predictions_are_the_dirichlet_s_and_draws_agree():
    layer = layer_of().eval()
    features = 3 * torch.randn(5, D)
    exact = layer.predict(features)
    posterior = Dirichlet((features @ layer.raw_loadings + layer.bias).detach().double().exp())
    torch.testing.assert_close(exact.probs.double(), posterior.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(exact.total, exact.aleatoric + exact.epistemic)
    many = layer.predict(features, "monte_carlo", num_samples=20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.probs, exact.probs, atol=0.02, rtol=0)
    torch.testing.assert_close(many.epistemic, exact.epistemic, atol=0.02, rtol=0)
    torch.testing.assert_close(many.gap_ratio, exact.gap_ratio, atol=0.05, rtol=0.05)
    assert layer.predict(features, "monte_carlo").logits_samples.shape == (20, 5, C)
    output = layer(features, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(output.logits.softmax(-1), exact.probs)
    torch.testing.assert_close(output.nll, -exact.probs[:, 0].log().mean())


def test_a_temperature_divides_the_log_concentrations():
    layer = layer_of().eval()
    features = torch.randn(5, D)
    log_alpha = layer.predict(features).logits_mean
    layer.set_temperature(2.0)
    prediction = layer.predict(features)
    torch.testing.assert_close(prediction.probs, (log_alpha / 2).softmax(-1))
    torch.testing.assert_close(layer(features).logits.softmax(-1), prediction.probs)


def test_class_weights_and_smoothing_weigh_the_expected_likelihood():
    layer = layer_of()
    log_alpha, labels, weights = concentrations().float(), torch.arange(7) % C, torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = expected_log_probs(log_alpha)
    by_hand = 0.0
    for row, label in zip(expected, labels.tolist(), strict=True):
        for c in range(C):
            share = 0.1 / C + 0.9 * (c == label)
            by_hand -= share * weights[c].item() * row[c].item() / 7
    assert layer.likelihood_loss(log_alpha, labels, weights, 0.1).item() == pytest.approx(by_hand, rel=1e-5)


def test_far_out_everything_is_finite():
    log_alpha = torch.tensor([[60.0, -60.0, 0.0], [-60.0, -60.0, -60.0]], requires_grad=True)
    loss = kl_to_uniform(log_alpha).sum() - expected_log_probs(log_alpha).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert log_alpha.grad.isfinite().all()
    config = BNDLConfig(feature_dim=1, num_labels=2, projection="none")
    assert BeliefMatchingDecisionLayer(config).eval().predict(torch.tensor([[1e6]])).epistemic.isfinite().all()
