"""The layer alone on features: posteriors, losses, gradients, initialisation, warm start and its checks."""

import math
import re

import pytest
import torch
from scipy import stats
from torch import nn

import reference
from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import signed_power
from bndl_hf.model.warm_start import start_from_dense

PRESETS = ("default", "released", "released_resnet")
OBJECTIVES = ("exact", "sampled")
D, C, B = 16, 5, 24


def make_layer(seed=0, **kwargs):
    torch.manual_seed(seed)
    return BNDLDecisionLayer(BNDLConfig(**{"feature_dim": D, "num_labels": C, "num_training_images": 100, **kwargs}))


def batch(seed=0, signed=True):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, D, generator=generator)
    return (features if signed else features.abs()), torch.randint(C, (B,), generator=generator)


# ---- loss ----


def test_loss_terms_equal_naive_sums_over_quadratures():
    layer = make_layer(
        preset="released",
        score_prior_concentration=2.0,
        score_scale_floor=0.1,
        loading_prior_concentration=0.5,
        loading_prior_rate=3.0,
    ).eval()
    features, labels = batch()
    output = layer(features, labels)
    scores, loadings = layer.score_posterior(features), layer.loading_posterior()

    def kl_sum(posterior, alpha, beta, floor):
        total = 0.0
        k = posterior.concentration.expand_as(posterior.mean)
        for mean, concentration in zip(posterior.mean.flatten().tolist(), k.flatten().tolist(), strict=True):
            scale = mean / math.gamma(1 + 1 / concentration)
            kl = reference.kl_weibull_gamma(max(scale, floor), concentration, alpha, beta)
            if scale < floor:  # only the logarithm sees the floor: the mean is charged as it is
                kl += beta * (mean - floor * math.gamma(1 + 1 / concentration))
            total += kl
        return total

    assert output.kl_local.item() == pytest.approx(kl_sum(scores, 2.0, 1.0, 0.1) / B, rel=1e-4)
    assert output.kl_global.item() == pytest.approx(kl_sum(loadings, 0.5, 3.0, 1e-10), rel=1e-4)
    assert output.loss is output.nll  # in evaluation mode
    output = layer.train()(features, labels)
    weighted = output.nll + 1e-6 * output.kl_local + 1e-6 * output.kl_global / D
    torch.testing.assert_close(output.loss, weighted)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_exact_nll_is_the_mean_field_predictive_of_the_label(mode):
    layer = make_layer(objective="exact").train(mode == "train")
    features, labels = batch()
    output = layer(features, labels)
    posteriors = layer.score_posterior(features), layer.loading_posterior(), layer.bias
    # The label is the reference while training, the top class otherwise.
    against = labels if mode == "train" else output.logits_mean.argmax(-1)
    mean, variance = reference.gap_moments(*posteriors, against)
    damped = mean / torch.sqrt(1 + math.pi / 8 * variance)
    expected = nn.functional.cross_entropy(damped, labels)
    assert output.nll.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(output.logits.double(), damped, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_nll_is_the_cross_entropy_of_the_logits(preset, objective, mode):
    layer = make_layer(preset=preset, objective=objective).train(mode == "train")
    layer.set_temperature(1.7, 0.6)
    features, labels = batch()
    output = layer(features, labels)
    torch.testing.assert_close(output.nll, nn.functional.cross_entropy(output.logits, labels))
    scores, loadings = layer.score_posterior(features), layer.loading_posterior()
    torch.testing.assert_close(output.logits_mean, scores.mean @ loadings.mean + layer.bias)
    assert (output.loss == output.nll) == (mode == "eval")


@pytest.mark.parametrize("recalibration", [(1.0, 1.0), (0.4, 3.0), (2.5, 0.0)])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_softmax_of_the_logits_in_evaluation_mode_is_the_predictive(preset, recalibration):
    layer = make_layer(preset=preset).eval()
    with torch.no_grad():
        layer.raw_loadings.mul_(4)
    layer.set_temperature(*recalibration)
    features, labels = batch()
    for output in (layer(features), layer(features, labels)):
        prediction = layer.predict(features)
        torch.testing.assert_close(output.logits.softmax(-1), prediction.probs, rtol=0, atol=1e-6)
        assert torch.equal(output.logits.argmax(-1), prediction.predicted_labels)
        torch.testing.assert_close(output.logits_mean, prediction.logits_mean)


def test_exact_objective_has_no_noise_and_the_sampled_one_has():
    features, labels = batch()
    exact, sampled = make_layer(objective="exact").train(), make_layer(objective="sampled").train()
    assert exact(features, labels).loss == exact(features, labels).loss
    assert sampled(features, labels).loss != sampled(features, labels).loss
    assert sampled.eval()(features, labels).loss == sampled(features, labels).loss


def test_mean_logits_are_those_at_the_posterior_mean():
    layer = make_layer(preset="released").eval()
    features, _ = batch()
    mean, _ = reference.logit_moments(layer.score_posterior(features), layer.loading_posterior(), layer.bias)
    torch.testing.assert_close(layer(features).logits_mean.double(), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_without_labels_there_is_neither_a_loss_nor_a_term_of_it(mode):
    output = make_layer().train(mode == "train")(batch()[0])
    assert output.loss is output.nll is output.kl_local is output.kl_global is None
    assert set(output) == {"logits", "logits_mean", "factor_scores"}


def test_the_exact_objective_learns_and_so_does_the_sampled_one():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % C
    features = 3 * torch.randn(C, D, generator=generator)[labels] + torch.randn(200, D, generator=generator)
    for objective in OBJECTIVES:
        layer = make_layer(objective=objective, num_training_images=200).train()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            layer(features, labels).loss.backward()
            optimizer.step()
        assert (layer.predict(features).predicted_labels == labels).float().mean() > 0.95, objective


# ---- gradients ----


def zero_means(layer):
    nn.init.constant_(layer.raw_loadings, -1.0)
    if isinstance(layer.projection, nn.Linear):
        nn.init.zeros_(layer.projection.weight)
        nn.init.constant_(layer.projection.bias, -1.0)


def concentrations(raw):
    def set_raw(layer):
        nn.init.zeros_(layer.score_concentration.weight)
        nn.init.constant_(layer.score_concentration.bias, raw)
        if isinstance(layer.loading_concentration, nn.Linear):
            nn.init.zeros_(layer.loading_concentration.weight)
            nn.init.constant_(layer.loading_concentration.bias, raw)
        else:
            nn.init.constant_(layer.loading_concentration, raw)

    return set_raw


def both(layer):
    zero_means(layer)
    concentrations(-1e3)(layer)


CORNERS = {
    "as_initialised": lambda layer: None,
    "means_exactly_zero": zero_means,
    "concentrations_at_the_floor": concentrations(-1e3),
    "concentrations_at_the_ceiling": concentrations(1e9),
    "means_zero_and_concentrations_at_the_floor": both,
}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16_autocast"])
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("preset", PRESETS)
def test_loss_and_gradients_are_finite(preset, objective, corner, autocast):
    layer = make_layer(preset=preset, objective=objective).train()
    CORNERS[corner](layer)
    features, labels = batch(signed=preset != "released_resnet")
    features.requires_grad_()
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            backbone = torch.eye(D) if not autocast else torch.eye(D).bfloat16()
            output = layer(features @ backbone, labels)  # bfloat16 features under autocast, as a backbone makes them
        assert output.loss.dtype == torch.float32
        assert output.logits.dtype == torch.float32
        output.loss.backward()
        for name in ("loss", "logits", "nll", "kl_local", "kl_global"):
            assert getattr(output, name).isfinite().all(), name
    for name, parameter in [*layer.named_parameters(), ("features", features)]:
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert layer.raw_loadings.grad is not None
    for method in ("exact", "monte_carlo"):
        prediction = layer.predict(features.detach(), method=method)
        assert prediction.probs.isfinite().all()
        assert not prediction.p_value.isnan().any()


def test_bf16_autocast_changes_nothing_in_the_layer():
    layer = make_layer(objective="exact").train()
    features, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(features, labels)
        prediction = layer.predict(features)
    assert torch.equal(inside.loss, layer(features, labels).loss)
    assert torch.equal(prediction.probs, layer.predict(features).probs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_stays_float32_when_the_model_is_cast(dtype):
    layer = make_layer()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.to(dtype)
    for name, value in layer.state_dict().items():
        assert value.dtype == torch.float32, name
        assert torch.equal(value, before[name]), name
    features, labels = batch()
    assert layer(features.to(dtype), labels).loss.dtype == torch.float32


# ---- initialisation ----


@pytest.mark.parametrize("width", [16, 768])
def test_nothing_is_dead_at_initialisation(width):
    layer = make_layer(feature_dim=width, objective="exact").train()
    assert (layer.factor_loadings > 0).all()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, width, generator=generator)
    layer(features, torch.arange(64) % C).loss.backward()
    assert (layer.raw_loadings.grad != 0).all()
    layer.check_active(features)


def test_the_released_head_starts_with_78_percent_of_its_loadings_dead():
    layer = make_layer(preset="released", feature_dim=768, num_labels=100).train()
    # Uniform within 1/sqrt(768) = 0.0361, of which (0.0361 + 0.02) / 0.0722 = 0.777 lie below c_phi = 0.02.
    share = (1 + 0.02 * math.sqrt(768)) / 2
    standard_error = math.sqrt(share * (1 - share) / (768 * 100))
    assert abs(1 - layer.sparsity() - share) < 4 * standard_error
    layer(torch.randn(64, 768), torch.arange(64)).loss.backward()
    dead = layer.factor_loadings == 0
    assert (layer.raw_loadings.grad[dead] == 0).all()
    assert (layer.raw_loadings.grad[~dead] != 0).any()


def test_reset_parameters_draws_linear_layers_as_torch_does():
    layer = make_layer(preset="released", feature_dim=400, num_labels=50)
    for values in (layer.projection.weight, layer.raw_loadings):
        uniform = stats.uniform(-1 / 20, 2 / 20)
        assert stats.kstest(values.detach().flatten().numpy()[:5000], uniform.cdf).pvalue > 1e-3


def test_sparsity_is_the_share_of_loadings_above_one_in_a_hundred_thousand():
    layer = make_layer(preset="released", loading_threshold=0.0)
    nn.init.zeros_(layer.raw_loadings)
    with torch.no_grad():
        layer.raw_loadings[0, :] = torch.tensor([1.0, 2e-5, 0.9e-5, -3.0, 0.0])
    assert layer.sparsity() == pytest.approx(2 / (D * C))


# ---- projections and concentrations ----


def test_scores_read_the_features_as_each_projection_says():
    features, _ = batch()
    none = make_layer(projection="none", score_threshold=0.3)
    torch.testing.assert_close(none.score_posterior(features).mean, (features - 0.3).clamp_min(0))
    linear = make_layer(projection="linear", num_factors=7, score_threshold=0.1)
    expected = (features @ linear.projection.weight.T + linear.projection.bias - 0.1).clamp_min(0)
    torch.testing.assert_close(linear.score_posterior(features).mean, expected)
    deep = make_layer(projection="two_layer", num_factors=7, projection_dim=9)
    assert [m.out_features for m in deep.projection if isinstance(m, nn.Linear)] == [9, 7]
    assert deep.score_posterior(features).mean.shape == (B, 7)


@pytest.mark.parametrize(("kind", "width"), [("per_image", 1), ("per_factor", 7)])
@pytest.mark.parametrize("source", ["features", "score_mean"])
def test_score_concentration_has_the_width_and_the_input_asked_for(kind, width, source):
    layer = make_layer(
        projection="linear",
        num_factors=7,
        score_concentration=kind,
        score_concentration_input=source,
        min_concentration=0.4,
    )
    features, _ = batch()
    posterior = layer.score_posterior(features)
    inputs = features if source == "features" else posterior.mean
    raw = inputs @ layer.score_concentration.weight.T + layer.score_concentration.bias
    assert posterior.concentration.shape == (B, width)
    torch.testing.assert_close(posterior.concentration, nn.functional.softplus(raw) + 0.4)


def test_score_concentration_of_a_factor_from_its_own_pre_activation():
    layer = make_layer(
        projection="linear", num_factors=7, score_threshold=0.2, score_concentration_input="pre_activation"
    )
    features, _ = batch()
    with torch.no_grad():
        for raw in (layer.score_concentration.weight, layer.score_concentration.bias):
            raw.normal_()
    z = features @ layer.projection.weight.T + layer.projection.bias - 0.2
    raw = torch.stack(
        [z[:, k] * layer.score_concentration.weight[k] + layer.score_concentration.bias[k] for k in range(7)], 1
    )
    expected = nn.functional.softplus(raw) + layer.config.min_concentration
    torch.testing.assert_close(layer.score_posterior(features).concentration, expected.clamp(0.05))


def test_feature_scale_multiplies_the_features_before_anything_else():
    layer = make_layer(score_concentration_input="features")
    features, _ = batch()
    scale = torch.rand(D) + 0.5
    expected = layer.score_posterior(features * scale)
    layer.set_feature_scale(scale)
    assert torch.equal(layer.score_posterior(features).mean, expected.mean)
    assert torch.equal(layer.score_posterior(features).concentration, expected.concentration)
    assert torch.equal(layer.state_dict()["feature_scale"], scale)


@pytest.mark.parametrize("bias", ["free", "non_negative", "none"])
def test_bias_is_what_the_configuration_says(bias):
    layer = make_layer(preset="released", bias=bias, loading_threshold=0.02)
    if bias == "none":
        assert layer.bias.tolist() == [0.0] * C
        return
    with torch.no_grad():
        layer.raw_bias.copy_(torch.tensor([-1.0, 0.01, 0.02, 0.05, 1.0]))
    expected = [-1.0, 0.01, 0.02, 0.05, 1.0] if bias == "free" else [0.0, 0.0, 0.0, 0.03, 0.98]
    torch.testing.assert_close(layer.bias, torch.tensor(expected))


# ---- warm start ----


@pytest.mark.parametrize("bias", ["free", "non_negative"])
@pytest.mark.parametrize("signed", [True, False])
def test_warm_start_is_the_softmax_of_the_dense_head(signed, bias):
    head = nn.Linear(D, C)
    features, _ = batch(signed=signed)
    factors = 2 * D if signed else D
    layer = make_layer(
        projection="linear", num_factors=factors, score_threshold=0.2, loading_threshold=0.1, bias=bias
    ).eval()
    layer.set_feature_scale(torch.rand(D) + 0.5)
    start_from_dense(layer, head.weight, head.bias, signed=signed)
    torch.testing.assert_close(layer(features).logits_mean.softmax(-1), head(features).softmax(-1), rtol=0, atol=1e-5)
    assert (layer.factor_loadings >= 0).all()


@pytest.mark.parametrize("loading_init", ["alive", "linear"])
@pytest.mark.parametrize("bias", ["free", "non_negative", "none"])
def test_warm_start_from_a_head_without_bias(loading_init, bias):
    head = nn.Conv2d(D, C, kernel_size=1, bias=False)
    layer = make_layer(projection="none", score_threshold=0.0, bias=bias, loading_init=loading_init).eval()
    features, _ = batch(signed=False)
    start_from_dense(layer, head.weight, head.bias, signed=False)
    expected = head(features[:, :, None, None]).flatten(1).softmax(-1)
    torch.testing.assert_close(layer(features).logits_mean.softmax(-1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "head", "signed", "says"),
    [
        ({}, (C + 1, D), False, "num_labels=5"),
        ({"projection": "linear", "num_factors": D}, (C, D), True, "num_factors=16"),
        ({"projection": "two_layer"}, (C, D), False, "projection='two_layer'"),
        ({"projection": "none", "score_threshold": 1.0}, (C, D), False, "score_threshold=0"),
        ({"projection": "linear", "num_factors": D, "bias": "none"}, (C, D), False, "bias='free'"),
    ],
)
def test_warm_start_says_why_it_cannot_be_exact(kwargs, head, signed, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        start_from_dense(make_layer(**kwargs), torch.randn(*head), torch.randn(head[0]), signed=signed)


# ---- errors ----


def test_features_of_another_width_are_an_error():
    for features in (torch.randn(3, D + 1), torch.randn(3, 2, D), torch.randn(D)):
        for call in (make_layer(), make_layer().predict, make_layer().explain):
            with pytest.raises(ValueError, match=re.escape(f"this decision layer reads [B, {D}]")):
                call(features)


@pytest.mark.parametrize("labels", [[0, C], [-1, 0], [-100, -100]])
def test_labels_out_of_range_are_an_error(labels):
    with pytest.raises(ValueError, match=f"labels run from {min(labels)} to {max(labels)}; this model knows 0 to 4"):
        make_layer()(torch.randn(2, D), torch.tensor(labels))


@pytest.mark.parametrize(
    "labels",
    [torch.eye(3, C, dtype=torch.long), torch.zeros(2).long(), torch.zeros(3), torch.ones(3).bool(), torch.tensor(1)],
)
def test_labels_that_are_not_one_class_an_image_are_an_error(labels):
    with pytest.raises(ValueError, match="one whole number for each of the 3 images fits, its class"):
        make_layer()(torch.randn(3, D), labels)


def test_labels_of_any_whole_number_type_fit():
    layer, (features, labels) = make_layer(), batch()
    assert layer(features, labels.to(torch.uint8)).loss == layer(features, labels.int()).loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("projection", ["none", "linear"])
def test_features_that_are_not_finite_are_seen_behind_pruned_factors_too(projection, value):
    layer = make_layer(projection=projection).eval()
    layer.zero_loadings(torch.ones_like(layer.raw_loadings, dtype=torch.bool).index_fill(0, torch.arange(3), False))
    features, labels = batch()
    features[2, 7] = value
    for call in (layer, layer.predict, layer.explain, lambda x: layer.predict(x, method="monte_carlo")):
        with pytest.raises(ValueError, match=re.escape("in 1 of 24 images (first: image 2 of the batch)")):
            call(features)
    if math.isnan(value):  # while training the loss says it
        assert layer.train()(features, labels).loss.isnan()


def test_unknown_method_and_too_few_draws_are_errors():
    layer, features = make_layer(), batch()[0]
    with pytest.raises(ValueError, match="method='laplace' is unknown; choose 'exact' or 'monte_carlo'"):
        layer.predict(features, method="laplace")
    for num_samples in (1, 0):
        with pytest.raises(ValueError, match=f"num_samples={num_samples}: a t-test needs 2 draws"):
            layer.predict(features, method="monte_carlo", num_samples=num_samples)


def test_a_layer_needs_the_width_of_its_features():
    with pytest.raises(ValueError, match="feature_dim is missing"):
        BNDLDecisionLayer(BNDLConfig(num_labels=C))


def test_thresholds_that_leave_no_active_factor_are_an_error():
    features, _ = batch()
    layer = make_layer(preset="released", loading_threshold=5.0)
    with pytest.raises(ValueError, match=r"loading_threshold=5\.0 leaves no active factor: the largest raw loading is"):
        layer.check_active(features)
    layer = make_layer(preset="released", loading_threshold=0.0, score_threshold=50.0)
    with pytest.raises(ValueError, match=r"score_threshold=50\.0 leaves no active factor on 24 images"):
        layer.check_active(features)
    assert make_layer(preset="released").check_active(features) is None


# ---- noise on the features ----


def test_noise_on_the_features_has_the_spread_asked_for_and_is_there_in_training_alone():
    layer = make_layer(projection="none", num_factors=D, bias="none", feature_noise=0.3, score_threshold=0.0)
    scale = torch.rand(D) + 0.5
    layer.set_feature_scale(scale)
    features = torch.full((4000, D), 5.0)
    with torch.no_grad():
        noisy = layer.train()(features).factor_scores / scale  # far above zero: what the layer read
        quiet = layer.eval()(features).factor_scores / scale
    torch.testing.assert_close(quiet, features)
    assert torch.equal(layer.predict(features[:2]).evidence, layer(features[:2]).factor_scores.sum(-1))
    expected = 0.3 / scale
    # The standard error of a standard deviation from n normal draws is sd / sqrt(2 n); of the mean sd / sqrt(n).
    assert ((noisy.std(0) - expected).abs() < 5 * expected / math.sqrt(8000)).all()
    assert ((noisy.mean(0) - 5).abs() < 5 * expected / math.sqrt(4000)).all()


def test_features_are_read_to_a_power_whose_slope_stays_finite():
    features = torch.tensor([[0.0, 1e-9, 0.25, 4.0], [-0.0, -1e-9, -0.25, -4.0]], requires_grad=True)
    powers = signed_power(features, 0.5)
    torch.testing.assert_close(powers[:, 2:], torch.tensor([[0.5, 2.0], [-0.5, -2.0]]))
    assert powers[:, :2].abs().max() < 1e-4
    powers.sum().backward()
    torch.testing.assert_close(features.grad[:, 2:], torch.tensor([[1.0, 0.25], [1.0, 0.25]]))
    assert features.grad.isfinite().all()
    layer = make_layer(projection="none", num_factors=D, bias="none", feature_power=0.7, score_threshold=0.0)
    scale, rows = torch.rand(D) + 0.5, torch.rand(6, D) + 0.1
    layer.set_feature_scale(scale)
    torch.testing.assert_close(layer.score_posterior(rows).mean, rows**0.7 * scale)
