"""The strength of a decision layer from the data: logistic regression beside the trained layer, the better one kept."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.moments import relative_variance
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.candidates import FEATURE_POWER, judge
from bndl_hf.training.convex_layer import concentration_of, layer_from_regression
from bndl_hf.training.joined_layer import join_layers
from bndl_hf.training.logistic_regression import Split, choose_strength, fit_logistic_regression, folds
from bndl_hf.training.trained_layer import NOISES, Training, _enough_steps, _lowest, _with_noise, trained_candidate

QUICK = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1, "per_device_train_batch_size": 32}


def overlapping(count: int, seed: int, signed: bool = False) -> tuple[Tensor, Tensor]:
    """Three classes half a spread apart in 8 features of spreads from 0.5 to 4."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    x = torch.randn(count, 8, generator=generator) + 1.5 * torch.eye(8)[labels]
    x = x * torch.linspace(0.5, 4, 8)
    return (x if signed else x.clamp_min(0)), labels


def config(**values: Any) -> BNDLConfig:
    return BNDLConfig(feature_dim=8, num_labels=3, **values)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, y = overlapping(150, seed=0)
    spread = x.std(0, correction=0)
    theirs = sklearn.LogisticRegression(C=1 / 4.0, tol=1e-8, max_iter=1000).fit((x / spread).double().numpy(), y)
    ours = fit_logistic_regression(x, y, 3, precision=4.0, power=1.0)
    expected = theirs.predict_proba((x / spread).double().numpy())
    np.testing.assert_allclose(ours.logits(x).softmax(-1).numpy(), expected, atol=2e-4)
    np.testing.assert_allclose(ours.scale.numpy(), 1 / spread.numpy(), rtol=1e-5)


def test_the_path_finds_the_strength_that_every_fit_of_its_own_finds() -> None:
    split = Split(*overlapping(60, seed=0), *overlapping(300, seed=1))
    multiples = (10.0, 1.0, 0.1, 0.01)
    alone = [fit_logistic_regression(split.features, split.labels, 3, m * 8, 0.5) for m in multiples]
    losses = [F.cross_entropy(r.logits(split.held_features), split.held_labels).item() for r in alone]
    multiple, loss, logits = choose_strength([split], 3, 0.5, multiples)
    assert multiple == multiples[int(np.argmin(losses))]
    assert loss == pytest.approx(min(losses), abs=1e-4)
    assert logits.shape == (300, 3)


def test_folds_hold_every_row_out_once_and_spread_the_classes() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 5)
    splits = folds(torch.arange(20.0)[:, None], labels, 5, seed=0)
    held = torch.cat([split.held_features for split in splits]).flatten()
    assert held.sort().values.tolist() == list(range(20))
    for split in splits:
        assert split.held_labels.bincount().tolist() == [2, 1, 1]
        assert not set(split.features.flatten().tolist()) & set(split.held_features.flatten().tolist())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("feature_power", [1.0, 0.7])
def test_the_layer_gives_the_probabilities_of_the_regression(signed: bool, feature_power: float) -> None:
    x, y = overlapping(90, seed=0, signed=signed)
    regression = fit_logistic_regression(x, y, 3, precision=2.0, power=0.5, feature_power=feature_power)
    powers = x.sign() * x.abs() ** feature_power
    torch.testing.assert_close(regression.logits(x), powers @ regression.weight + regression.bias, atol=0.02, rtol=0)
    layer = layer_from_regression(config(), regression, x, variance_scale=0.0)
    torch.testing.assert_close(layer.predict(x).probs, regression.logits(x).softmax(-1), atol=1e-5, rtol=0)
    assert layer.config.num_factors == (16 if signed else 8)
    assert (layer.factor_loadings >= 0).all()


def test_loadings_have_the_variance_of_a_diagonal_laplace_posterior() -> None:
    x, y = overlapping(90, seed=0)
    regression = fit_logistic_regression(x, y, 3, precision=2.0, power=1.0)
    loadings = layer_from_regression(config(), regression, x, variance_scale=0.1).loading_posterior()
    probs = (x @ regression.weight + regression.bias).softmax(-1).double()
    for k, c in [(0, 0), (3, 1), (7, 2)]:
        curvature = sum(x[n, k].double() ** 2 * probs[n, c] * (1 - probs[n, c]) for n in range(90))
        expected = 0.1 / (2.0 * x[:, k].double().var(correction=0) + curvature)
        mean = loadings.mean[k, c]
        assert loadings.variance[k, c].item() == pytest.approx(0.0 if mean == 0 else expected.item(), rel=2e-3)


def test_a_concentration_is_found_by_its_relative_variance() -> None:
    k = torch.tensor([0.4, 1.0, 5.0, 300.0])
    torch.testing.assert_close(concentration_of(relative_variance(k), 0.3, 1e4), k, rtol=1e-3, atol=0)
    assert concentration_of(torch.tensor([1e9, 0.0]), 0.3, 1e4).tolist() == pytest.approx([0.3, 1e4])


@pytest.mark.parametrize("has_held_out", [False, True])
def test_a_tuned_layer_is_better_than_one_trained_for_few_steps(has_held_out: bool) -> None:
    x, y = overlapping(120, seed=0)
    new, truth = overlapping(600, seed=2)
    held = dict(zip(("eval_features", "eval_labels"), overlapping(150, seed=1), strict=True)) if has_held_out else {}
    plain = fit_decision_layer(x, y, config(), **QUICK)
    tuned = fit_decision_layer(x, y, config(), tune=True, **held, **QUICK)
    loss = F.nll_loss(tuned.predict(new).probs.log(), truth)
    assert loss < F.nll_loss(plain.predict(new).probs.log(), truth)
    best = min(
        F.cross_entropy(fit_logistic_regression(x, y, 3, m * 8).logits(new), truth) for m in (10, 3, 1, 0.3, 0.1, 0.01)
    )
    assert loss < 1.05 * best  # of the test rows' own choice
    assert tuned.config.temperature != 1
    if not has_held_out:  # with held-out rows: test_tuned_training.py
        again = fit_decision_layer(x, y, config(), tune=True, **QUICK)
        assert torch.equal(tuned.raw_loadings, again.raw_loadings)
        assert tuned.config.temperature == again.config.temperature


def test_images_learned_by_heart_are_not_tuned_on(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.arange(60) % 3
    x = 5 * torch.eye(3)[labels].repeat(1, 3)[:, :8] + 0.1 * torch.rand(
        60, 8, generator=torch.Generator().manual_seed(0)
    )
    tuned = fit_decision_layer(x, labels, config(), tune=True, **QUICK)
    assert torch.equal(tuned.raw_loadings, fit_decision_layer(x, labels, config(), **QUICK).raw_loadings)
    assert "by heart" in caplog.text


def test_what_cannot_be_tuned_is_refused() -> None:
    x, y = overlapping(30, seed=0)
    layer = fit_decision_layer(x, y, config(), **QUICK)
    with pytest.raises(ValueError, match="layers of its own"):
        fit_decision_layer(x, y, config(), layer=layer, tune=True, **QUICK)
    with pytest.raises(ValueError, match="has 1 image"):
        fit_decision_layer(x[:4], y[:4], config(), tune=True, **QUICK)
    with pytest.raises(ValueError, match=r"labels run from 0 to 2; this model knows 0 to 1"):
        fit_decision_layer(x, y, BNDLConfig(feature_dim=8, num_labels=2), tune=True, **QUICK)


def test_a_configuration_logistic_regression_cannot_have_is_trained(caplog: pytest.LogCaptureFixture) -> None:
    x, y = overlapping(60, seed=0)
    tuned = fit_decision_layer(x, y, config(num_factors=5), tune=True, **QUICK)
    assert tuned.config.num_factors == 5


@pytest.mark.parametrize(("least", "visited"), [(0.25, 4), (1.0, 3), (4.0, 3)])
def test_the_amount_of_noise_is_found_downhill(least: float, visited: int) -> None:
    seen = []

    def loss(noise: float) -> float:
        seen.append(noise)
        return abs(np.log(noise / least))

    assert _lowest(loss, NOISES, 1.0) == least
    assert len(set(seen)) == visited


def epochs_of_ten_steps(_: int, min_steps: int) -> float:
    return max(12, min_steps / 10)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({200: 1.0, 400: 0.985}, 400),  # the last doubling bought nothing, so the next is not tried
        ({200: 1.0, 400: 1.1}, 400),
        ({200: 1.0, 400: 0.9, 800: 0.85, 1600: 0.845}, 800),
        ({200 * 2**i: 0.9**i for i in range(5)}, 3200),  # eight times as many are the most
    ],
)
def test_steps_double_while_that_pays(losses: dict[int, float], expected: int) -> None:
    training = Training(lambda *_: BNDLDecisionLayer(config()), epochs_of_ten_steps, 400)
    split = Split(*overlapping(100, seed=0), *overlapping(60, seed=1))
    assert _enough_steps(losses.__getitem__, training, split, 400) == expected
    # The same losses of so few rows are too little to go by.
    assert (
        _enough_steps(losses.__getitem__, training, Split(*overlapping(100, seed=0), *overlapping(3, seed=1)), 400)
        == 400
    )


def test_steps_are_not_sought_where_the_epochs_are_more_or_were_asked_for() -> None:
    def loss(steps: int) -> float:
        raise AssertionError(f"{steps} steps are the same epochs")

    for training in (
        Training(lambda *_: BNDLDecisionLayer(config()), lambda *_: 12, 400),
        Training(lambda *_: BNDLDecisionLayer(config()), lambda *_: 12, 0),
    ):
        split = Split(*overlapping(100, seed=0), *overlapping(60, seed=1))
        assert _enough_steps(loss, training, split, training.min_steps) == training.min_steps


def test_a_layer_that_learns_slowly_gets_more_steps() -> None:
    split = Split(*overlapping(120, seed=0), *overlapping(150, seed=1))
    fitted: list[tuple[float, float]] = []

    def fit(features: Tensor, labels: Tensor, config: BNDLConfig, epochs: float) -> PosteriorHead:
        """One step of Adam an epoch."""
        fitted.append((config.feature_noise, epochs))
        torch.manual_seed(0)
        config.num_training_images = len(labels)
        layer = BNDLDecisionLayer(config)
        optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
        for _ in range(int(epochs)):
            optimizer.zero_grad()
            layer(features, labels).loss.backward()
            optimizer.step()
        return layer.eval()

    chosen, _ = trained_candidate([split], config(), Training(fit, lambda _, min_steps: min_steps, 16))
    steps = int(chosen.settings.split(" at least ")[1].split()[0])
    assert steps in (32, 64, 128)
    assert len(fitted) == len(set(fitted))  # nothing is trained twice
    short = judge([split], partial(fit, config=_with_noise(config(), 1.0, ()), epochs=16))
    assert chosen.judged.loss < 0.9 * short.loss


def test_noise_power_and_density_are_chosen_unless_they_are_given() -> None:
    plain = _with_noise(config(), 2.0, ())
    assert (plain.feature_noise, plain.feature_power, plain.loading_density) == (2.0, FEATURE_POWER, 1.0)
    given = _with_noise(config(feature_power=0.5, loading_density=0.3), 2.0, ())
    assert (given.feature_noise, given.feature_power, given.loading_density) == (2.0, 0.5, 0.3)
    kept = _with_noise(config(), 2.0, ("loading_density", "feature_power"))
    assert (kept.feature_noise, kept.feature_power, kept.loading_density) == (2.0, 1.0, 0.1)
    for own in (config(feature_noise=0.7), BNDLConfig(feature_dim=8, num_labels=3, preset="released")):
        assert _with_noise(own, 2.0, ()).to_dict() == own.to_dict()


def test_a_few_rows_that_are_all_right_do_not_make_a_layer_sure_of_everything() -> None:
    x, y = overlapping(90, seed=0)
    layer = layer_from_regression(config(), fit_logistic_regression(x, y, 3, precision=2.0), x, variance_scale=0.0)
    right = layer.predict(x).probs.argmax(-1) == y
    rows, labels = x[right], y[right]
    judged = judge([Split(x, y, rows, labels)], lambda *_: layer)
    logits, n = layer.predict(rows).logits_mean.double(), len(labels)

    def loss(temperature: float) -> float:
        """Of these rows and of half a row, whose label may be any and whose logits are the mean row's."""
        log_probs = (logits / temperature).log_softmax(-1)
        return float(-(log_probs[torch.arange(n), labels].sum() + 0.5 * log_probs.mean()) / (n + 0.5))

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6})
    assert judged.mean_temperature == pytest.approx(expected.x, rel=1e-2)
    assert judged.mean_temperature > 0.1


@pytest.mark.parametrize("signed", [False, True])
def test_the_random_logits_of_a_joined_layer_are_the_weighted_sum_of_those_of_its_parts(signed: bool) -> None:
    x, y = overlapping(90, seed=0, signed=signed)
    regression = fit_logistic_regression(x, y, 3, precision=2.0, feature_power=FEATURE_POWER)
    layers = [
        layer_from_regression(config(), regression, x, variance_scale=0.1),
        fit_decision_layer(x, y, config(feature_power=FEATURE_POWER), **QUICK),
    ]
    joined, weights = join_layers(layers, [0.5, 0.2]), (0.5, 0.2)
    parts = [layer.predict(x) for layer in layers]
    whole = joined.predict(x)
    mean = sum(w * part.logits_mean.double() for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(whole.logits_mean.double(), mean, atol=1e-4, rtol=1e-4)
    variance = sum(  # of the logits, which are independent between the parts
        w**2 * layer(x, answer=lambda random: random.variance) for w, layer in zip(weights, layers, strict=True)
    )
    torch.testing.assert_close(joined(x, answer=lambda random: random.variance), variance, atol=1e-4, rtol=1e-3)
    assert joined.config.num_factors == sum(layer.config.num_factors for layer in layers)
    assert (joined.factor_loadings >= 0).all()
    with pytest.raises(ValueError, match="cannot be joined"):
        join_layers([layers[0], fit_decision_layer(x, y, config(), **QUICK)], weights)
