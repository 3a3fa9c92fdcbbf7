"""The posterior of a warm-started layer: two numbers that are recovered, loadings that are shrunk, what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bndl_hf import BNDLConfig, BNDLDecisionLayer, BNDLForImageClassification
from bndl_hf.baselines import HEADS
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.warm_start import start_from_dense
from bndl_hf.training import fit_posterior
from bndl_hf.training.warm_posterior import DENSITIES

D, C = 6, 4


def warm_layer(signed: bool = False, scale: float = 1.0, **fields: Any) -> BNDLDecisionLayer:
    """The equivalent of a random dense head of 4 classes over 6 features."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = scale * torch.randn(C, D, generator=generator), torch.randn(C, generator=generator)
    config = BNDLConfig(feature_dim=D, num_labels=C, num_factors=2 * D if signed else D, **fields)
    layer = BNDLDecisionLayer(config)
    start_from_dense(layer, weight, None if fields.get("bias") == "none" else bias, signed=signed)
    return layer.eval()


def some_features(count: int, signed: bool = False) -> Tensor:
    """[count, 6], every feature of another spread, some images of three times the evidence of others."""
    generator = torch.Generator().manual_seed(1)
    x = (
        torch.rand(count, D, generator=generator)
        * torch.linspace(0.5, 2.0, D)
        * (1 + 2 * (torch.arange(count) % 2))[:, None]
    )
    return x - x.mean(0) if signed else x


def probabilities(layer: BNDLDecisionLayer, scores: Tensor, temperature: float, ratio: float) -> Tensor:
    """The mean-field predictive in float64, image by image: Var[Phi] = ratio E[Phi]^2, scores certain, [B, C]."""
    phi, b = layer.factor_loadings.double(), layer.bias.detach().double()
    rows = []
    for theta in scores.double():
        mean = theta @ phi + b
        own = ratio * theta.square() @ phi.square()
        top = mean.argmax()
        variance = own + own[top]
        variance[top] = 0
        gaps = (mean - mean[top]) / torch.sqrt(temperature**2 + math.pi / 8 * variance)
        rows.append(gaps.softmax(0))
    return torch.stack(rows)


def drawn_labels(probs: Tensor, seed: int = 0) -> Tensor:
    return torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)


def zigzag(count: int) -> Tensor:
    return torch.arange(count) % C


def test_temperature_and_spread_that_labels_were_drawn_with_are_found_again() -> None:
    layer, x = warm_layer(scale=3.0), some_features(4000)
    probs = probabilities(layer, x, temperature=0.8, ratio=0.3)
    fitted = fit_posterior(layer, x, drawn_labels(probs), density=1.0)
    # Two fitted numbers beat the truth by half a chi-squared of two degrees: under 7 nats in 99.9 % of all cases.
    truth = -probs.gather(1, drawn_labels(probs)[:, None]).log().mean().item()
    assert 0 <= truth - fitted.negative_log_likelihood_after < 7 / 4000
    torch.testing.assert_close(layer.predict(x).probs.double(), probs, atol=0.03, rtol=0)
    ratio = relative_variance(torch.tensor(fitted.loading_concentration)).item()
    assert 0.1 < ratio < 0.9
    assert fitted.temperature == layer.config.temperature == pytest.approx(0.8, abs=0.3)
    assert layer.config.variance_scale == 1


@pytest.mark.parametrize("signed", [False, True])
def test_what_the_layer_answers_is_the_formula_of_the_fitted_numbers(signed: bool) -> None:
    layer, x = warm_layer(signed), some_features(60, signed)
    means, bias = layer.factor_loadings.clone(), layer.bias.clone()
    scores = torch.cat([x.relu(), (-x).relu()], dim=1) if signed else x
    y = drawn_labels(probabilities(layer, scores, temperature=0.2, ratio=1.0))
    before = layer(x, y).nll.item()
    fitted = fit_posterior(layer, x, y, density=1.0)
    torch.testing.assert_close(layer.factor_loadings, means)  # means stay
    torch.testing.assert_close(layer.bias, bias)
    ratio = relative_variance(torch.tensor(fitted.loading_concentration)).item()
    assert ratio > 0.01
    expected = probabilities(layer, scores, fitted.temperature, ratio)
    torch.testing.assert_close(layer.predict(x).probs.double(), expected, atol=1e-5, rtol=0)
    loss = -expected.gather(1, y[:, None]).log().mean().item()
    assert fitted.negative_log_likelihood_after == pytest.approx(loss, abs=1e-5)
    assert fitted.negative_log_likelihood_before == pytest.approx(before)
    assert fitted.num_images == 60
    posterior = layer.scores(x)
    assert (posterior.variance <= 1e-6 * posterior.mean.square()).all()


def test_loadings_stay_certain_where_their_spread_buys_less_than_a_nat() -> None:
    layer, x = warm_layer(), some_features(40)
    y = drawn_labels(probabilities(layer, x, temperature=0.5, ratio=0.0))
    fitted = fit_posterior(layer, x, y, density=1.0)
    assert fitted.loading_concentration == pytest.approx(layer.config.max_concentration, rel=1e-3)
    expected = ((x.double() @ layer.factor_loadings.double() + layer.bias.double()) / fitted.temperature).softmax(-1)
    torch.testing.assert_close(layer.predict(x).probs, expected.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bias", ["free", "non_negative"])
def test_shrinking_lifts_small_weights_to_a_floor_per_factor_and_leaves_the_mean_image_alone(bias: str) -> None:
    layer, x = warm_layer(bias=bias), some_features(50)
    old, old_bias = layer.factor_loadings.clone(), layer.bias.clone()
    fitted = fit_posterior(layer, x, zigzag(50), density=0.5)
    new = layer.factor_loadings
    assert (new > 0).sum() == 12  # half of 24
    assert fitted.density == layer.sparsity() == 0.5
    # by hand: the 13th largest of loading times spread is the floor in those units, for every factor
    spread = x.std(0, correction=0)
    floor = (old * spread[:, None]).flatten().sort(descending=True).values[12] / spread
    torch.testing.assert_close(new, (old - floor[:, None]).clamp_min(0), atol=1e-6, rtol=1e-5)
    # softmax of the mean image is as it was
    middle = x.mean(0)
    before, after = (middle @ old + old_bias).softmax(-1), (middle @ new + layer.bias).softmax(-1)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_without_a_bias_the_loadings_are_shrunk_all_the_same() -> None:
    layer, x = warm_layer(bias="none"), some_features(50)
    fit_posterior(layer, x, zigzag(50), density=0.5)
    assert layer.sparsity() == 0.5
    assert not layer.bias.any()


def test_the_density_is_the_smallest_within_a_standard_error_of_the_best() -> None:
    def half_idle_layer() -> BNDLDecisionLayer:
        layer = warm_layer()
        layer.raw_loadings.data[3:] *= 0.02  # three factors in which the classes hardly differ
        return layer

    layer, x = half_idle_layer(), some_features(80)
    y = drawn_labels(probabilities(layer, x, temperature=0.5, ratio=0.2))
    fitted = fit_posterior(layer, x, y)
    tried = {}
    for density in DENSITIES:
        one = half_idle_layer()
        loss = fit_posterior(one, x, y, density=density).negative_log_likelihood_after
        losses = -one.predict(x).probs.double().gather(1, y[:, None]).log().squeeze(1)
        assert losses.mean().item() == pytest.approx(loss, abs=1e-5)
        tried[one.sparsity()] = losses
    # every density once: a quarter of the loadings is zero from the start
    assert [density for density, _ in fitted.path] == list(tried)[: len(fitted.path)]
    best = min(list(tried.values())[: len(fitted.path)], key=lambda loss: loss.mean().item())
    as_good = [
        density
        for density, loss in list(tried.items())[: len(fitted.path)]
        if (loss - best).mean() <= (loss - best).std() / math.sqrt(80)
    ]
    assert layer.sparsity() == fitted.density == as_good[-1] <= 0.5
    assert as_good == list(tried)[: len(fitted.path) - 1]  # the path ends at the first that costs


def test_a_layer_that_is_sparse_already_is_left_at_its_density() -> None:
    layer, x = warm_layer(), some_features(50)
    layer.prune_smallest(0.5)
    means = layer.factor_loadings.clone()
    fit_posterior(layer, x, zigzag(50), density=0.8)
    torch.testing.assert_close(layer.factor_loadings, means)


def test_a_factor_the_images_do_not_show_keeps_its_largest_loadings() -> None:
    layer, x = warm_layer(), some_features(50)
    x[:, 0] = 0
    fit_posterior(layer, x, zigzag(50), density=0.8)
    assert (layer.factor_loadings[0] > 0).any()


@pytest.mark.parametrize("fields", [{"preset": "released"}, {"loading_concentration": "per_factor"}])
def test_every_form_of_concentrations_can_hold_one_number(fields: dict[str, Any]) -> None:
    layer, x = warm_layer(**fields), some_features(60)
    y = drawn_labels(probabilities(layer, x, temperature=0.2, ratio=1.0))
    fitted = fit_posterior(layer, x, y, density=1.0)
    k = torch.tensor(fitted.loading_concentration)
    torch.testing.assert_close(layer.loading_posterior().concentration, k.expand(D, 1), rtol=1e-4, atol=0)


def test_a_warm_started_model_carries_its_posterior_to_disk(tmp_path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=10, hidden_sizes=[10, 20], depths=[1, 1], layer_type="basic", num_labels=3)
    torch.manual_seed(0)
    model = BNDLForImageClassification.from_backbone_pretrained(ResNetForImageClassification(config), warm_start=True)
    pixels = torch.rand(12, 3, 32, 32)
    layer = model.decision_layer.train()
    fitted = fit_posterior(layer, model.extract_features(pixels), torch.arange(12) % 3, density=0.7)
    assert layer.training
    assert model.config.temperature == fitted.temperature
    model.save_pretrained(tmp_path)
    again = BNDLForImageClassification.from_pretrained(tmp_path).predict(pixels)
    torch.testing.assert_close(again.probs, model.predict(pixels).probs)
    torch.testing.assert_close(again.logits_variance, model.predict(pixels).logits_variance)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    layer, x, y = warm_layer(), some_features(8), zigzag(8)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    dense: nn.Module = HEADS["dense"].make(BNDLConfig(feature_dim=D, num_labels=C, projection="none"))
    with pytest.raises(TypeError, match=r"needs a BNDLDecisionLayer.*pass model.decision_layer"):
        fit_posterior(dense, x, y)
    for density in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"not in \(0, 1\]; None takes it from the data"):
            fit_posterior(layer, x, y, density=density)
    with pytest.raises(ValueError, match=r"reads \[B, 6\]"):
        fit_posterior(layer, x[:, :5], y)
    with pytest.raises(ValueError, match="labels run from 0 to 9"):
        fit_posterior(layer, x, y.clone().fill_(0).index_fill(0, torch.tensor([0]), 9))
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_posterior(layer, x * torch.nan, y)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
