"""The paper, equation by equation and claim by claim: each test says in code what the text says in words.

Equation numbers and sections are those of Hu et al., ICLR 2025. tests/model tests the same functions in their corners.
"""

import math

import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy, linear, softplus

import reference
from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.predictive import predict_by_sampling, predict_exactly
from bndl_hf.model.weibull import WeibullPosterior, kl_weibull_gamma
from bndl_hf.uncertainty import accuracy_by_uncertainty_decile, pavpu

B, D, K, C = 12, 8, 6, 4


def make_layer(**kwargs):
    torch.manual_seed(0)
    fields = {"preset": "released", "feature_dim": D, "num_factors": K, "num_labels": C, **kwargs}
    return BNDLDecisionLayer(BNDLConfig(**fields))


@pytest.fixture
def features():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.arange(B) % C


# ---- Sec. 3.2: the model ----


def test_eq_3_the_loadings_prior_is_a_gamma():
    layer = make_layer(loading_prior_concentration=2.0, loading_prior_rate=0.5)
    q = layer.loading_posterior()
    expected = kl_weibull_gamma(q.scale, q.concentration, 2.0, 0.5).sum()
    torch.testing.assert_close(layer.kl_global(q), expected)


def test_eq_4_the_scores_prior_is_a_gamma(features):
    layer = make_layer(score_prior_concentration=2.0, score_prior_rate=0.5)
    q = layer.score_posterior(features)
    expected = kl_weibull_gamma(q.scale, q.concentration, 2.0, 0.5).sum(dim=1).mean()
    torch.testing.assert_close(layer.kl_local(q), expected)


def test_eq_5_the_label_is_categorical_over_the_softmax_of_scores_times_loadings_plus_bias(features, labels):
    layer = make_layer().train()
    torch.manual_seed(7)
    output = layer(features, labels)
    torch.manual_seed(7)
    logits = layer.score_posterior(features).sample() @ layer.loading_posterior().sample() + layer.bias
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.nll, -logits.softmax(-1)[torch.arange(B), labels].log().mean())


def test_every_logit_is_a_sum_of_non_negative_parts(features):
    layer = make_layer().eval()
    evidence = layer.explain(features, top_k=K)
    assert (evidence.contributions >= 0).all()
    total = evidence.contributions.sum(dim=1) + evidence.bias
    expected = layer(features).logits_mean.gather(1, evidence.target[:, None]).squeeze(1)
    torch.testing.assert_close(total, expected)


# ---- Sec. 3.3: the posteriors ----


def test_eq_6_a_draw_is_the_scale_times_the_kth_root_of_an_exponential():
    uniform = torch.tensor([0.0001, 0.3, 0.5, 0.99])
    expected = [2.0 * (-math.log(1 - u)) ** (1 / 1.5) for u in uniform.tolist()]
    posterior = WeibullPosterior(torch.tensor(2.0 * math.gamma(1 + 1 / 1.5)), torch.tensor(1.5))
    torch.testing.assert_close(posterior.quantile(uniform), torch.tensor(expected))


def test_eq_7_the_kl_in_closed_form():
    lam, k, a, r = 0.7, 2.3, 1.8, 0.4
    g = 0.5772156649015329
    expected = g * a / k - a * math.log(lam) + math.log(k) + r * lam * math.gamma(1 + 1 / k) - g - 1
    expected += -a * math.log(r) + math.lgamma(a)
    kl = kl_weibull_gamma(torch.tensor(lam).double(), torch.tensor(k).double(), a, r).item()
    assert kl == pytest.approx(expected, rel=1e-6)
    assert kl == pytest.approx(reference.kl_weibull_gamma(lam, k, a, r), rel=1e-6)


def test_eq_8_concentrations_of_the_scores_are_a_softplus_of_a_linear_map(features):
    layer = make_layer()
    q = layer.score_posterior(features)
    raw = linear(q.mean, layer.score_concentration.weight, layer.score_concentration.bias)
    torch.testing.assert_close(q.concentration, softplus(raw))


def test_eq_9_the_mean_score_is_a_thresholded_relu_of_the_projected_features(features):
    layer = make_layer(score_threshold=0.3)
    q = layer.score_posterior(features)
    mean = (linear(features, layer.projection.weight, layer.projection.bias) - 0.3).clamp_min(0)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.scale, mean / torch.exp(torch.lgamma(1 + 1 / q.concentration)))


def test_eq_10_concentrations_of_the_loadings_are_a_softplus_of_a_linear_map():
    layer = make_layer()
    q = layer.loading_posterior()
    raw = linear(q.mean, layer.loading_concentration.weight, layer.loading_concentration.bias)
    torch.testing.assert_close(q.concentration, softplus(raw))


def test_eq_11_the_mean_loading_is_a_thresholded_relu_of_a_free_matrix():
    layer = make_layer(loading_threshold=0.1)
    q = layer.loading_posterior()
    mean = (layer.raw_loadings - 0.1).clamp_min(0)
    assert 0 < (mean == 0).float().mean() < 1
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.scale, mean / torch.exp(torch.lgamma(1 + 1 / q.concentration)))


def test_gamma_functions_cancel_so_the_deterministic_pass_does_not_know_k(features):
    layer = make_layer().eval()
    before = layer(features).logits_mean
    torch.nn.init.constant_(layer.loading_concentration.bias, 3.0)
    torch.nn.init.constant_(layer.score_concentration.bias, -1.0)
    assert torch.equal(layer(features).logits_mean, before)


@pytest.mark.parametrize(("k", "cv"), [(1, 1.0), (2, 0.52), (5, 0.23), (10, 0.12)])
def test_k_sets_the_coefficient_of_variation(k, cv):
    assert relative_variance(torch.tensor(float(k))).sqrt().item() == pytest.approx(cv, abs=0.005)


def test_a_large_concentration_is_non_negative_matrix_factorisation():
    scores, loadings, bias = reference.random_posteriors(B, K, C)
    certain = [WeibullPosterior(q.mean, torch.full_like(q.mean, 1e7)) for q in (scores, loadings)]
    generator = torch.Generator().manual_seed(0)
    drawn = predict_by_sampling(LogitPosterior(*certain, bias), 5, 0.05, Recalibration(), generator).logits_samples
    nmf = scores.mean @ loadings.mean + bias
    torch.testing.assert_close(drawn, nmf.expand_as(drawn), rtol=1e-5, atol=1e-5)


def test_mean_and_variance_of_every_logit_and_gap_are_exact_sums():
    posteriors = reference.random_posteriors(B, K, C)
    logits = LogitPosterior(*posteriors)
    for got, expected in zip((logits.mean, logits.variance), reference.logit_moments(*posteriors), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-10)
    r = torch.arange(B) % C
    for got, expected in zip(logits.gaps(r), reference.gap_moments(*posteriors, r), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-10)


# ---- Sec. 3.4: the objective ----


@pytest.mark.parametrize("N", [10, 1000])
def test_eq_12_the_elbo_with_the_loadings_divergence_over_n(features, labels, N):
    weights = {"kl_local_weight": 1.0, "kl_global_weight": 1.0, "kl_global_scaling": "per_image"}
    layer = make_layer(num_training_images=N, **weights).train()
    output = layer(features, labels)
    likelihood = -cross_entropy(output.logits, labels)
    elbo = likelihood - layer.kl_local(layer.score_posterior(features)) - layer.kl_global(layer.loading_posterior()) / N
    torch.testing.assert_close(output.loss, -elbo)


def test_eq_12_summed_over_batches_counts_the_loadings_divergence_once(features, labels):
    weights = {"kl_local_weight": 1.0, "kl_global_weight": 1.0, "kl_global_scaling": "per_image"}
    layer = make_layer(objective="exact", num_training_images=B, **weights).train()
    whole = B * layer(features, labels).loss
    parts = sum(3 * layer(features[i : i + 3], labels[i : i + 3]).loss for i in range(0, B, 3))
    torch.testing.assert_close(parts, whole)


def test_eq_13_one_draw_of_theta_per_image_and_of_phi_per_batch(features):
    layer = make_layer().train()
    same = features[:1].expand(2, D)
    first = layer(same).logits
    assert not torch.equal(first[0], first[1])  # one theta for each of two equal images
    torch.nn.init.zeros_(layer.score_concentration.weight)
    torch.nn.init.constant_(layer.score_concentration.bias, 1e6)  # theta is certain: what is left is Phi
    shared, again = layer(same).logits, layer(same).logits
    torch.testing.assert_close(shared[0], shared[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shared, again, rtol=1e-2)


def test_eq_13_the_reparameterised_gradient_is_unbiased():
    # d/dm E[(theta - 2)^2] = 2 m (1 + relvar) - 4 for theta of mean m: known without sampling.
    mean = torch.full((100_000,), 1.5, requires_grad=True)
    draws = WeibullPosterior(mean, torch.tensor(2.0)).sample(torch.Generator().manual_seed(0))
    (draws - 2).square().sum().backward()
    expected = 2 * 1.5 * (4 / math.pi) - 4  # 1 + relvar = Gamma(2) / Gamma(1.5)^2 = 4 / pi at k = 2
    standard_error = mean.grad.std() / math.sqrt(len(mean))
    assert abs(mean.grad.mean() - expected) < 4 * standard_error


# ---- Sec. 5: measures and claims ----


def test_pavpu_is_accurate_and_certain_plus_inaccurate_and_uncertain():
    wide, tight = torch.linspace(-3, 3, 20), torch.linspace(-0.1, 0.1, 20)  # spread of the gap over S = 20 draws
    gap = torch.stack([1 + tight, 0.1 + wide, 1 + tight, 0.1 + wide], dim=1)  # certain, uncertain, certain, uncertain
    draws = torch.stack([gap, torch.zeros_like(gap)], dim=-1)
    counts = pavpu(draws, torch.tensor([0, 0, 1, 1]))  # right, right, wrong, wrong
    assert (counts.accurate_certain, counts.accurate_uncertain) == (1, 1)
    assert (counts.inaccurate_certain, counts.inaccurate_uncertain) == (1, 1)
    assert counts.pavpu == 0.5


def test_pavpu_tends_to_accuracy_as_the_number_of_draws_grows():
    posteriors = reference.random_posteriors(B=60, K=5, C=3, lowest=0.7)
    labels = torch.randint(3, (60,), generator=torch.Generator().manual_seed(3))
    distance = []
    for num_samples in (5, 20, 4000):
        counts = pavpu(reference.joint_logits(*posteriors, num_samples), labels)
        accuracy = (counts.accurate_certain + counts.accurate_uncertain) / counts.num_images
        distance.append(abs(counts.pavpu - accuracy))
    assert distance[0] > 0.1
    assert distance[2] <= 1 / 60 + 1e-9  # at most one image still uncertain
    assert distance[2] < distance[1]


def test_the_exact_p_value_is_the_paired_t_test_at_the_exact_moments():
    posteriors = reference.random_posteriors(B, K, C)
    prediction = predict_exactly(LogitPosterior(*posteriors), 20, 0.05, Recalibration())
    top = prediction.logits_mean.topk(2).indices
    mean, variance = reference.gap_moments(*posteriors, top[:, 1])
    row = torch.arange(B)
    t = mean[row, top[:, 0]] / (variance[row, top[:, 0]] / 20).sqrt()
    expected = torch.from_numpy(2 * stats.t.sf(t.numpy(), 19))
    torch.testing.assert_close(prediction.p_value, expected, rtol=1e-5, atol=1e-12)


def test_fig_2_accuracy_falls_from_decile_to_decile_where_uncertainty_tells_right_from_wrong():
    uncertainty = torch.arange(100).float()
    correct = torch.tensor([i % 10 >= i // 10 for i in range(100)])  # decile d has 10 - d right
    deciles = accuracy_by_uncertainty_decile(uncertainty, correct)
    assert torch.as_tensor(deciles.accuracy).tolist() == pytest.approx(
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_one_sparsity_is_the_share_of_loadings_above_one_in_a_hundred_thousand_and_falls_with_the_threshold():
    shares = []
    for threshold in (0.0, 0.1, 0.2, 0.3, 10.0):
        layer = make_layer(loading_threshold=threshold)
        shares.append(layer.sparsity())
        counted = sum(value > 1e-5 for value in layer.factor_loadings.flatten().tolist())
        assert layer.sparsity() == pytest.approx(counted / (K * C))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2] > shares[4] == 0.0


def test_the_gamma_1_1_prior_pulls_means_towards_one_and_not_to_zero():
    means = torch.tensor([1e-6, 1e-4, 1e-2, 1.0, 10.0]).double()
    kl = WeibullPosterior(means, torch.tensor(1.0).double()).kl(1.0, 1.0, 1e-10)
    assert kl[3] == kl.min()
    # diverging: another log(100) nats for each hundredth of the mean
    torch.testing.assert_close(kl[0] - kl[1], torch.tensor(math.log(100)).double(), rtol=1e-3, atol=0)


def test_the_released_threshold_leaves_78_percent_of_a_vit_head_dead_at_initialisation():
    layer = make_layer(feature_dim=768, num_factors=768, num_labels=1000)
    assert 1 - layer.sparsity() == pytest.approx(0.777, abs=0.005)


def test_the_released_bias_is_thresholded_too():
    layer = make_layer()
    torch.testing.assert_close(layer.bias, (layer.raw_bias - 0.02).clamp_min(0))


def test_identical_logits_are_a_tie_and_not_nan():
    flat = WeibullPosterior(torch.zeros(1, 2), torch.ones(1, 2)), WeibullPosterior(torch.zeros(2, 2), torch.ones(2, 2))
    prediction = predict_by_sampling(LogitPosterior(*flat, torch.zeros(2)), 20, 0.05, Recalibration())
    assert prediction.p_value.item() == 1
    assert not prediction.is_certain
