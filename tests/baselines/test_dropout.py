"""MC dropout: its exact moments against a naive loop over every mask, and against its draws."""

import itertools
import math

import pytest
import torch
from scipy import stats

from bndl_hf import BNDLConfig
from bndl_hf.baselines import MCDropoutDecisionLayer
from bndl_hf.baselines.dropout import DropoutPosterior, mutual_information_of_scores
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.uncertainty import pavpu_from_p_value

D, C, P = 5, 3, 0.3


def layer_and_features(dtype=torch.float32):
    torch.manual_seed(0)
    layer = MCDropoutDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, projection="none"), P).eval()
    return layer, torch.randn(4, D, dtype=dtype)  # features of either sign


def every_mask(layer, features):
    """(probability, logits [B, C]) of all 2^D masks, in float64."""
    weight, bias = layer.raw_loadings.detach().double(), layer.bias.detach().double()
    for mask in itertools.product([0, 1], repeat=D):
        kept = sum(mask)
        probability = (1 - P) ** kept * P ** (D - kept)
        yield probability, features.double() * torch.tensor(mask) / (1 - P) @ weight + bias


def test_moments_are_those_of_every_mask():
    layer, features = layer_and_features()
    prediction = layer.predict(features)
    masks = list(every_mask(layer, features))
    mean = sum(q * logits for q, logits in masks)
    variance = sum(q * (logits - mean).square() for q, logits in masks)
    top = mean.argmax(-1, keepdim=True)
    gap_mean = mean - mean.gather(1, top)
    gap_variance = sum(q * (logits - logits.gather(1, top) - gap_mean).square() for q, logits in masks)
    torch.testing.assert_close(prediction.logits_mean.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(prediction.logits_variance.double(), variance, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(prediction.gap_variance.double(), gap_variance, atol=1e-6, rtol=1e-5)


def test_draws_have_the_exact_moments_and_zeros_as_often_as_p():
    posterior = DropoutPosterior(torch.tensor([[2.0, -3.0]]).expand(40_000, 2), P)
    draws = posterior.sample(torch.Generator().manual_seed(0)).double()
    error = (posterior.variance[0].double() / 40_000).sqrt()
    assert ((draws.mean(0) - torch.tensor([2.0, -3.0])).abs() < 4 * error).all()
    assert (draws == 0).double().mean().item() == pytest.approx(P, abs=4 * math.sqrt(P * (1 - P) / 80_000))
    torch.testing.assert_close(draws.var(0), posterior.variance[0].double(), rtol=0.03, atol=0)


def test_many_draws_predict_as_every_mask_does():
    layer, features = layer_and_features()
    prediction = layer.predict(features, "monte_carlo", num_samples=5000, generator=torch.Generator().manual_seed(0))
    masks = list(every_mask(layer, features))
    probs = sum(q * logits.softmax(-1) for q, logits in masks)
    aleatoric = sum(q * torch.special.entr(logits.softmax(-1)).sum(-1) for q, logits in masks)
    # A probability's standard error is at most 0.5 / sqrt(5000) = .007, an entropy's log(3) / 2 / sqrt(5000) = .008.
    torch.testing.assert_close(prediction.probs.double(), probs, atol=0.025, rtol=0)
    torch.testing.assert_close(prediction.aleatoric.double(), aleatoric, atol=0.03, rtol=0)
    exact = layer.predict(features)
    torch.testing.assert_close(exact.total, exact.aleatoric + exact.epistemic)
    torch.testing.assert_close(exact.probs.double(), probs, atol=0.03, rtol=0)  # the mean-field approximation


def test_information_of_masks_is_half_the_trace_of_covariance_and_curvature():
    layer, features = layer_and_features()
    random = layer(features, answer=lambda random: random)
    exact = layer.predict(features)
    masks = list(every_mask(layer, features))
    mean = sum(q * logits for q, logits in masks)
    for b, p in enumerate(exact.probs.double()):
        top = int(mean[b].argmax())
        gaps = [(q, logits[b] - logits[b, top]) for q, logits in masks]
        centre = sum(q * gap for q, gap in gaps)
        covariance = sum(q * torch.outer(gap - centre, gap - centre) for q, gap in gaps)
        damping = (1 + math.pi / 8 * covariance.diag()).sqrt()
        scaled = covariance / torch.outer(damping, damping)
        expected = 0.5 * ((torch.diag(p) - torch.outer(p, p)) @ scaled).trace()
        found = mutual_information_of_scores(random, exact.probs, Recalibration())[b]
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
        assert exact.epistemic[b].item() == pytest.approx(min(expected, exact.total[b]).item(), rel=1e-4)


def test_nothing_is_dropped_at_p_zero_and_p_one_is_refused():
    config = BNDLConfig(feature_dim=D, num_labels=C, projection="none")
    layer = MCDropoutDecisionLayer(config, dropout=0.0).eval()
    prediction = layer.predict(torch.randn(3, D), "monte_carlo")
    assert prediction.logits_variance.abs().max() < 1e-10
    assert prediction.epistemic.abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"dropout=1 is the share of features dropped; it must lie in \[0, 1\)"):
        MCDropoutDecisionLayer(config, dropout=1)


def test_training_sees_one_mask_of_each_image_and_pavpu_its_twenty_draws():
    torch.manual_seed(0)
    config = BNDLConfig(feature_dim=D, num_labels=C, projection="none", objective="sampled", kl_local_weight=0.0)
    layer = MCDropoutDecisionLayer(config)
    features, labels = torch.randn(50, D), torch.arange(50) % C
    outputs = [layer(features, labels) for _ in range(2)]
    assert not torch.equal(outputs[0].logits, outputs[1].logits)
    loss = torch.nn.functional.cross_entropy(outputs[0].logits, labels)
    torch.testing.assert_close(outputs[0].loss, loss)  # no prior's term beside it
    prediction = layer.eval().predict(features, "monte_carlo", generator=torch.Generator().manual_seed(1))
    assert prediction.logits_samples.shape == (20, 50, C)
    correct = prediction.predicted_labels == labels
    counts = pavpu_from_p_value(prediction.p_value, correct)
    draws, agreeing = prediction.logits_samples.double(), 0
    for b in range(50):
        first, second = draws[:, b].mean(0).topk(2).indices
        p_value = stats.ttest_rel(draws[:, b, first].numpy(), draws[:, b, second].numpy()).pvalue
        agreeing += bool(correct[b]) == (p_value < 0.05)
    assert counts.pavpu == pytest.approx(agreeing / 50)


def test_the_posterior_is_what_the_random_logits_are_made_of():
    layer, features = layer_and_features()
    random = layer(features, answer=lambda random: random)
    assert isinstance(random, LogitPosterior)
    assert isinstance(layer.scores(features), DropoutPosterior)
