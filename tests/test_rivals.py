"""The rivals of the comparison: each against scikit-learn, a naive loop, or a limit that is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bndl_hf.baselines import (
    FeatureTask,
    LaplaceClassifier,
    PosteriorClassifier,
    VariationalLastLayer,
    logistic_regression,
    make_head,
)
from bndl_hf.baselines.laplace import gauss_newton
from bndl_hf.uncertainty import negative_log_likelihood


def clusters(count, num_labels=3, seed=0):
    """Rows of classes that overlap: [count, 4] and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_labels
    centres = 1.5 * torch.eye(4)[:num_labels]
    return centres[labels] + torch.randn(count, 4, generator=generator), labels


@pytest.fixture(scope="module")
def fit():
    return logistic_regression(*clusters(120), *clusters(90, seed=1))


# ---- logistic regression ----


@pytest.mark.parametrize("num_labels", [2, 3])
def test_logistic_regression_answers_as_scikit_learn_does_on_standardised_features(num_labels):
    (features, labels), held_out = clusters(120, num_labels), clusters(90, num_labels, seed=1)
    found = logistic_regression(features, labels, *held_out)
    mean, std = features.double().mean(0), features.double().std(0)
    own = LogisticRegression(C=1 / found.strength, tol=1e-8, max_iter=5000)
    own.fit(((features - mean) / std).numpy(), labels.numpy())
    expected = own.predict_proba(((held_out[0] - mean) / std).numpy())
    np.testing.assert_allclose(found.layer.predict(held_out[0]).probs.numpy(), expected, atol=2e-3)


def test_the_strength_chosen_is_the_best_on_held_out_rows_and_not_the_end_of_the_path(fit):
    assert not fit.is_at_end
    features, labels = clusters(120)
    standardised = ((features.double() - fit.mean) / fit.std).numpy()
    held_out, truth = clusters(90, seed=1)

    def loss(strength):
        own = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=5000).fit(standardised, labels.numpy())
        probs = own.predict_proba(((held_out.double() - fit.mean) / fit.std).numpy())
        return negative_log_likelihood(torch.from_numpy(probs), truth)

    assert loss(fit.strength) < min(loss(fit.strength * 10**0.5), loss(fit.strength / 10**0.5))


def test_a_class_without_rows_is_named():
    features, labels = clusters(60)
    with pytest.raises(ValueError, match="No training row has class 1; every class of 3 needs one"):
        logistic_regression(features[labels != 1], labels[labels != 1], features, labels)


# ---- Laplace ----


def test_the_gauss_newton_matrix_is_the_hessian_of_the_cross_entropy():
    torch.manual_seed(0)
    inputs, labels, weight = torch.randn(7, 2).double(), torch.arange(7) % 3, torch.randn(3, 2).double()

    def loss(flat):
        return torch.nn.functional.cross_entropy(inputs @ flat.view(3, 2).T, labels, reduction="sum")

    hessian = torch.autograd.functional.hessian(loss, weight.flatten())
    torch.testing.assert_close(gauss_newton(inputs, (inputs @ weight.T).softmax(-1)), hessian)


@pytest.mark.parametrize("structure", ["full", "kronecker"])
def test_the_variance_of_a_logit_is_the_quadratic_form_of_the_inverted_precision(fit, structure):
    features, labels = clusters(120)
    head = LaplaceClassifier(fit, features, features, labels, structure)
    head._set_precision(2.0)
    inputs = torch.cat([(features.double() - fit.mean) / fit.std, torch.ones(120, 1)], dim=-1)
    probs = (inputs @ torch.cat([fit.weight, fit.bias[None]])).softmax(-1)
    curvature = gauss_newton(inputs, probs)
    if structure == "kronecker":
        each = torch.stack([torch.diag(p) - torch.outer(p, p) for p in probs]).sum(0)
        curvature = torch.kron(each, inputs.T @ inputs / 120)
    covariance = torch.linalg.inv(curvature + 2 * torch.eye(15))
    for c in range(3):
        block = covariance[5 * c : 5 * c + 5, 5 * c : 5 * c + 5]
        expected = torch.stack([x @ block @ x for x in inputs[:4]])
        torch.testing.assert_close(head.variance(features[:4])[:, c], expected)


def test_without_variance_laplace_is_the_head_it_was_made_of(fit):
    features, labels = clusters(120)
    head = LaplaceClassifier(fit, features, features, labels)
    head._set_precision(math.inf)
    torch.testing.assert_close(head.probs(features), fit.layer.predict(features).probs, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="structure='diagonal' is unknown"):
        LaplaceClassifier(fit, features, features, labels, "diagonal")


def test_far_from_the_data_laplace_is_less_sure_than_its_head(fit):
    features, labels = clusters(120)
    head = LaplaceClassifier(fit, features, features, labels)
    head._set_precision(1.0)
    far = 50 * features[:8]
    assert (head.probs(far).amax(-1) < fit.layer.predict(far).probs.amax(-1)).all()


# ---- temperatures ----


def test_a_temperature_of_log_probabilities_is_that_of_the_logits(fit):
    features, held_out = clusters(120)[0], clusters(90, seed=1)
    own = LaplaceClassifier(fit, features, *held_out)
    own._set_precision(math.inf)  # the logistic regression itself, by its log-probabilities
    theirs = PosteriorClassifier(fit.layer)
    assert own.fit_temperature(*held_out) == pytest.approx(theirs.fit_temperature(*held_out), rel=1e-3)
    torch.testing.assert_close(own.probs(features), theirs.probs(features), atol=1e-4, rtol=0)
    fit.layer.set_temperature(1.0)


def test_a_posterior_head_keeps_its_scores_and_counts_its_weights():
    task = FeatureTask.digits()
    head = PosteriorClassifier(make_head("dense", 64, 10)[0].eval())
    assert (head.weights_per_class, head.density) == (64, 1.0)
    assert {"max_probability", "entropy", "energy", "joint"} <= set(head.ood_scores(task.ood["noise"]))


# ---- variational last layers ----


def test_vbll_s_logits_are_those_of_its_package_and_it_learns():
    pytest.importorskip("vbll")
    from vbll.layers import DiscClassification

    features, labels = clusters(120)
    held_out = clusters(90, seed=1)
    head = VariationalLastLayer(features, labels, *held_out, num_steps=300)
    own, package = head.layer.logit_predictive(features), DiscClassification.logit_predictive(head.layer, features)
    torch.testing.assert_close(own.mean, package.mean)
    torch.testing.assert_close(own.var, package.var)
    assert negative_log_likelihood(head.probs(held_out[0]), held_out[1]) < 0.9 * math.log(3)
    assert (head.ood_scores(features)["mutual_information"] >= -1e-6).all()
    torch.testing.assert_close(head.probs(features), head.probs(features))  # draws are those of the seed
