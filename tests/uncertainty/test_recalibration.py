"""Temperature and variance scale: known answers, scipy on a naive objective, and what a model does with them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from torch.utils.data import DataLoader

import reference
from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.logit_posterior import LogitPosterior
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.predictive import BNDLPrediction, predict_by_sampling, predict_exactly
from bndl_hf.training import FeatureDataset
from bndl_hf.uncertainty import (
    collect_predictions,
    fit_abstention,
    fit_conformal,
    fit_temperature,
    negative_log_likelihood,
)
from model.tiny import NUM_LABELS, tiny_model

N, D, C = 300, 12, 4


def prediction_of(logits, gap_variance=None, **fields):
    """A prediction of which only what the fit reads is filled in."""
    probs = logits.softmax(-1)
    names = [name for name in BNDLPrediction.__dataclass_fields__ if name not in ("logits_samples", "prediction_sets")]
    values = dict.fromkeys(names, probs[:, 0])
    gap_variance = torch.zeros_like(logits) if gap_variance is None else gap_variance
    known = {"probs": probs, "predicted_labels": probs.argmax(-1), "logits_mean": logits, "gap_variance": gap_variance}
    return BNDLPrediction(**{**values, **known, **fields})


def draw(probs, seed=0):
    return torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)


def random_logits(num_images=N, num_classes=C, seed=0):
    return 3 * torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed)).double()


def naive_nll(point, mean, variance, labels):
    """-log softmax of (m_c - m_t) / sqrt(T^2 + pi/8 v Var), image by image, in numpy; point is (log T, log v)."""
    T, v = np.exp(point)
    total = 0.0
    for m, var, y in zip(mean.numpy(), variance.numpy(), labels.numpy(), strict=True):
        s = (m - m.max()) / np.sqrt(T**2 + np.pi / 8 * v * var)
        total += math.log(np.exp(s).sum()) - s[y]
    return total / len(labels)


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C)).eval()
    with torch.no_grad():  # answers that differ, with concentrations of every size
        layer.raw_loadings.mul_(10)
        layer.score_concentration.weight.normal_(std=0.3)
        layer.loading_concentration.normal_(mean=5, std=1)
    return layer


@pytest.fixture(scope="module")
def held_out(layer):
    """Features and labels for which the layer is too sure of itself."""
    features = 3 * torch.rand(N, D, generator=torch.Generator().manual_seed(1))
    return features, draw((layer.predict(features).probs.log() / 2).softmax(-1))


@pytest.fixture
def fresh(layer):
    """The layer with nothing fitted, before and after."""
    yield layer
    for name, value in {"temperature": 1.0, "variance_scale": 1.0, "abstain_below": None, "conformal": None}.items():
        setattr(layer.config, name, value)


# ---- the fit ----


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_the_labels_were_drawn_with_is_found_again(true_temperature):
    logits = random_logits(20_000)
    probs = (logits / true_temperature).softmax(-1)
    fitted = fit_temperature(prediction_of(logits), draw(probs))
    # The Fisher information of log T is the mean variance, over classes, of the logit divided by T.
    scaled = logits / true_temperature
    variance = (probs * scaled.square()).sum(-1) - (probs * scaled).sum(-1).square()
    standard_error = true_temperature / math.sqrt(variance.sum().item())
    assert abs(fitted.temperature - true_temperature) < 4 * standard_error
    assert standard_error < 0.02 * true_temperature
    assert (fitted.variance_scale, fitted.num_images) == (1.0, 20_000)
    assert fitted.negative_log_likelihood_after <= fitted.negative_log_likelihood_before


def test_both_numbers_are_those_of_scipy_on_a_naive_objective():
    logits, generator = random_logits(2000), torch.Generator().manual_seed(3)
    variance = 40 * torch.rand(2000, C, generator=generator, dtype=torch.float64).square()
    variance.scatter_(1, logits.argmax(-1, keepdim=True), 0.0)
    gaps = logits - logits.amax(-1, keepdim=True)
    labels = draw((gaps / torch.sqrt(1.5**2 + math.pi / 8 * 0.5 * variance)).softmax(-1), seed=4)
    fitted = fit_temperature(prediction_of(logits, variance), labels, variance_scale=None)
    expected = minimize(
        naive_nll, [0.0, 0.0], args=(logits, variance, labels), method="Nelder-Mead", options={"xatol": 1e-6}
    )
    assert fitted.negative_log_likelihood_after == pytest.approx(expected.fun, abs=1e-8)
    assert (fitted.temperature, fitted.variance_scale) == pytest.approx(tuple(np.exp(expected.x)), rel=1e-3)
    alone = fit_temperature(prediction_of(logits, variance), labels)
    assert alone.negative_log_likelihood_after > fitted.negative_log_likelihood_after
    assert naive_nll([math.log(alone.temperature), 0.0], logits, variance, labels) == pytest.approx(
        alone.negative_log_likelihood_after
    )


def test_a_variance_that_says_nothing_is_scaled_away():
    logits = random_logits(4000)
    noise = 30 * torch.rand(4000, C, generator=torch.Generator().manual_seed(5)).double()
    fitted = fit_temperature(prediction_of(logits, noise), draw(logits.softmax(-1)), variance_scale=None)
    assert fitted.variance_scale < 0.01
    assert fitted.temperature == pytest.approx(1, abs=0.1)


def test_monte_carlo_predictions_are_fitted_by_the_mean_over_their_draws(layer, held_out):
    features, labels = held_out
    prediction = layer.predict(features, "monte_carlo", 10, torch.Generator().manual_seed(0))
    fitted = fit_temperature(prediction, labels, variance_scale=None)
    draws = prediction.logits_samples.double().numpy()

    def naive(point):
        T, spread = np.exp(point)
        moved = (draws.mean(0) + spread * (draws - draws.mean(0))) / T
        probs = softmax(moved, axis=-1)
        return -np.log(probs.mean(0)[np.arange(N), labels.numpy()]).mean()

    expected = minimize(naive, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    assert fitted.negative_log_likelihood_after <= expected.fun + 1e-8


def test_perfect_and_constant_predictions_have_defined_answers(caplog):
    logits = random_logits()
    perfect = fit_temperature(prediction_of(logits), logits.argmax(-1))
    assert perfect.temperature == 0.05
    assert "the end of the range searched. Either the 300 images do not determine it" in caplog.text
    spread = torch.rand(N, C)
    constant = fit_temperature(prediction_of(torch.zeros(N, C), spread), torch.arange(N) % C, variance_scale=None)
    assert (constant.temperature, constant.variance_scale) == (1.0, 1.0)
    assert constant.negative_log_likelihood_after == pytest.approx(math.log(C))


def test_one_image_and_gaps_without_variance_are_enough():
    fitted = fit_temperature(prediction_of(torch.tensor([[1.0, 0.0]])), torch.tensor([1]), variance_scale=None)
    assert (fitted.temperature, fitted.variance_scale) == (20.0, 1.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p, y: fit_temperature(p, y[:-1]), r"labels has shape \[299\]"),
        (lambda p, y: fit_temperature(p, y + C), r"labels holds \d; with C=4 classes"),
        (lambda p, y: fit_temperature(p, y, variance_scale=-1.0), r"variance_scale=-1.0 is not in \[0, 100\]"),
        (
            lambda p, y: fit_temperature(prediction_of(random_logits(), torch.full((N, C), math.nan)), y),
            "gap_variance holds 1200 values that are NaN",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(make, says):
    with pytest.raises(ValueError, match=says):
        make(prediction_of(random_logits()), torch.arange(N) % C)


@pytest.mark.parametrize("given", [BNDLDecisionLayer(BNDLConfig(feature_dim=2, num_labels=2)), torch.rand(3, 2)])
def test_what_is_not_a_prediction_is_told_how_to_become_one(given):
    name = type(given).__name__
    with pytest.raises(TypeError, match=rf"prediction is a {name}; .* collect_predictions\(model, held_out\)"):
        fit_temperature(given, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("fit", [partial(fit_conformal, coverage=0.8), partial(fit_abstention, risk=0.3)])
def test_a_prediction_and_its_probabilities_are_fitted_alike(fit):
    logits = random_logits()
    prediction, labels = prediction_of(logits), draw(logits.softmax(-1))
    assert fit(prediction=prediction, labels=labels) == fit(prediction=prediction.probs, labels=labels)


# ---- predictions of a whole set ----


def test_tensors_batches_loaders_and_datasets_give_the_same_predictions(layer, held_out):
    features, labels = held_out
    expected = layer.predict(features)
    dataset = FeatureDataset(features, labels)
    rows = [dataset[i] for i in range(N)]
    batches = [{"features": features[i : i + 70], "labels": labels[i : i + 70]} for i in range(0, N, 70)]
    tensors = collect_predictions(layer, features, labels, progress=False)
    for data in (dataset, batches, iter(batches), DataLoader(rows, batch_size=64)):
        for prediction, truth in (tensors, collect_predictions(layer, data, batch_size=32, progress=False)):
            torch.testing.assert_close(prediction.probs, expected.probs)
            assert torch.equal(truth, labels)


def test_a_models_predictions_are_collected_from_pixel_values():
    model = tiny_model("vit")
    images, labels = torch.rand(5, 3, 30, 30), torch.arange(5)
    whole = model.predict(images)
    prediction, truth = collect_predictions(model, images, labels, batch_size=2, progress=False)
    assert torch.equal(truth, labels)
    torch.testing.assert_close(prediction.probs, whole.probs)
    drawn, _ = collect_predictions(
        model, images, labels, batch_size=2, progress=False, method="monte_carlo", num_samples=3
    )
    assert drawn.logits_samples.shape == (3, 5, NUM_LABELS)


@pytest.mark.parametrize(
    ("model", "data", "labels", "error", "says"),
    [
        (torch.nn.Linear(2, 2), torch.rand(3, 2), torch.zeros(3), TypeError, "A Linear has no predict"),
        (None, torch.rand(3, D), torch.zeros(2), ValueError, "a tensor of 3 images with 2 labels"),
        (None, [], None, ValueError, "data holds no batch"),
        (None, [{"image": torch.rand(2, D)}], None, ValueError, "A batch has the entries image"),
        (None, {"features": torch.rand(2, D)}, None, TypeError, "data is a dict; pass a dataset"),
        (None, [], torch.zeros(2), ValueError, "labels go with a tensor; a list brings its own"),
    ],
)
def test_data_of_the_wrong_kind_are_named(layer, model, data, labels, error, says):
    with pytest.raises(error, match=says):
        collect_predictions(model or layer, data, labels, progress=False)


# ---- what a layer does with the numbers ----


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_predict_gives_the_likelihood_that_was_promised(fresh, held_out, method):
    features, labels = held_out

    def predict():
        return fresh.predict(features, method, 10, torch.Generator().manual_seed(0))

    before = predict()
    fitted = fit_temperature(before, labels, variance_scale=None)
    fresh.set_temperature(fitted)
    after = predict()
    assert fitted.negative_log_likelihood_before == pytest.approx(negative_log_likelihood(before.probs, labels))
    assert negative_log_likelihood(after.probs, labels) == pytest.approx(fitted.negative_log_likelihood_after, rel=1e-5)
    assert fitted.negative_log_likelihood_after < fitted.negative_log_likelihood_before - 0.05
    torch.testing.assert_close(after.total, torch.special.entr(after.probs).sum(-1), rtol=1e-4, atol=1e-5)
    for name in ("logits_mean", "logits_variance", "gap_variance"):  # of the layer's own logits
        assert torch.equal(getattr(after, name), getattr(before, name))
    again = fit_temperature(after, labels, variance_scale=None)  # absolute, whatever the model had
    assert again.temperature == fitted.temperature


def test_evaluation_loss_is_recalibrated_and_training_loss_is_not(fresh, held_out):
    features, labels = held_out
    training = fresh.train()(features, labels)
    fitted = fit_temperature(fresh.eval().predict(features), labels)
    fresh.set_temperature(fitted)
    assert fresh(features, labels).nll.item() == pytest.approx(fitted.negative_log_likelihood_after, rel=1e-5)
    retrained = fresh.train()(features, labels)
    fresh.eval()
    assert torch.equal(retrained.loss, training.loss)
    assert torch.equal(retrained.logits_mean, fresh(features).logits_mean)


@pytest.mark.parametrize("predict", [predict_exactly, predict_by_sampling])
def test_temperature_leaves_the_p_value_and_the_variance_scale_moves_it(predict):
    posteriors = reference.random_posteriors(B=30, K=6, C=4, lowest=0.8)

    def recalibrated(temperature, variance_scale):
        draws = [torch.Generator().manual_seed(0)] if predict is predict_by_sampling else []
        return predict(LogitPosterior(*posteriors), 20, 0.05, Recalibration(temperature, variance_scale), *draws)

    before, cooler, wider = recalibrated(1.0, 1.0), recalibrated(2.0, 1.0), recalibrated(1.0, 4.0)
    torch.testing.assert_close(cooler.p_value, before.p_value, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(cooler.flip_probability, before.flip_probability, rtol=1e-4, atol=1e-9)
    assert (wider.p_value >= before.p_value).all()
    assert wider.p_value.mean() > before.p_value.mean() + 0.01
    for prediction in (cooler, wider):
        assert torch.equal(prediction.predicted_labels, before.predicted_labels) or predict is predict_by_sampling
        assert prediction.probs.amax(-1).mean() < before.probs.amax(-1).mean()
        assert (prediction.epistemic >= 0).all()
        torch.testing.assert_close(prediction.total, prediction.aleatoric + prediction.epistemic)
    settled = recalibrated(1.0, 0.0)
    torch.testing.assert_close(settled.probs, settled.logits_mean.softmax(-1))
    assert settled.p_value.max() == 0
    assert settled.epistemic.max() < 1e-6


def test_recalibrated_probabilities_are_the_naive_formula():
    posteriors = reference.random_posteriors(B=6, K=5, C=4)
    top = (posteriors[0].mean @ posteriors[1].mean + posteriors[2]).argmax(-1)
    mean, variance = reference.gap_moments(*posteriors, top)
    # The random logits l / T have a T-th of the mean and a T^2-th of the variance; v multiplies that.
    expected = (mean / 1.7 / torch.sqrt(1 + math.pi / 8 * 0.6 * variance / 1.7**2)).softmax(-1)
    got = predict_exactly(LogitPosterior(*posteriors), 20, 0.05, Recalibration(1.7, 0.6))
    torch.testing.assert_close(got.probs, expected)


def test_draws_of_recalibrated_logits_have_the_recalibrated_moments():
    posteriors = reference.random_posteriors(B=4, K=5, C=3, lowest=1.5)
    logits, recalibration = LogitPosterior(*posteriors), Recalibration(1.7, 0.6)
    drawn = predict_by_sampling(logits, 4000, 0.05, recalibration, torch.Generator().manual_seed(0))
    exact = predict_exactly(logits, 20, 0.05, recalibration)
    # Means of 4000 softmaxes scatter by less than 0.008; the rest is what the mean-field approximation leaves.
    assert (drawn.probs - exact.probs).abs().sum(-1).mean() / 2 < 0.05
    assert torch.corrcoef(torch.stack([drawn.epistemic, exact.epistemic]))[0, 1] > 0.9
