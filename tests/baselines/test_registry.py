"""Heads of both kinds by name, and what the comparison says of each."""

import pytest
import torch

from bndl_hf.baselines import (
    CLASSIFIERS,
    HEADS,
    FeatureTask,
    about_head,
    elastic_net_at,
    fit_classifier,
    head_names,
    is_random,
    judge_classifier,
    train_and_judge,
)


def small_task():
    """Three classes that overlap, in six features."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for part, count in (("train", 240), ("test", 120), ("noise", 40)):
        labels = torch.arange(count) % 3
        tensors[f"{part}.features"] = torch.rand(count, 6, generator=generator) + torch.eye(6)[labels]
        tensors[f"{part}.labels"] = labels
    return FeatureTask.split(tensors)


def test_every_name_has_words_and_every_head_made_by_a_function_a_citation():
    assert head_names() == [*HEADS, *CLASSIFIERS]
    assert not set(HEADS) & set(CLASSIFIERS)
    assert all(about_head(name) for name in head_names())
    assert all(recipe.citation.startswith("@") for recipe in CLASSIFIERS.values())
    assert is_random("dense")
    assert not is_random("debuggable_12")
    with pytest.raises(ValueError, match="head 'vblll' is unknown; heads made by a function are debuggable_37"):
        fit_classifier("vblll", small_task(), 0)


@pytest.mark.parametrize("name", ["laplace", "debuggable_37"])
def test_a_head_made_by_a_function_gets_the_figures_of_the_others(name):
    pytest.importorskip("sklearn")
    task = small_task()
    figures, dense = (train_and_judge(head, task, 0, all_rows=True, disable_tqdm=True) for head in (name, "dense"))
    of_training = {"kl_local_weight", "dead_loadings_at_init", "train_images_per_second"}
    lacks = {"pavpu", "pavpu_20_draws"} if name == "laplace" else set()
    assert set(figures) == set(dense) - of_training - lacks
    assert set(figures["all_rows"]) == set(dense["all_rows"]) - lacks
    assert figures["accuracy"] > 0.5
    assert figures["tempered"]["negative_log_likelihood"] > 0


def test_all_rows_are_the_choosing_and_the_reporting_rows():
    task = small_task()
    found = train_and_judge("dense", task, 0, all_rows=True, disable_tqdm=True)
    chosen = train_and_judge("dense", task, 0, choose=True, disable_tqdm=True)
    for name in ("accuracy", "negative_log_likelihood"):  # 60 rows each
        assert found["all_rows"][name] == pytest.approx((found[name] + chosen[name]) / 2)


def test_arguments_that_would_not_reach_a_head_are_refused():
    with pytest.raises(ValueError, match="'laplace' has a training of its own, which bias, num_train_epochs would not"):
        train_and_judge("laplace", small_task(), 0, {"bias": "none"}, disable_tqdm=True, num_train_epochs=3)


def test_a_temperature_of_a_classifier_is_set_back():
    pytest.importorskip("sklearn")
    task = small_task()
    classifier = fit_classifier("laplace", task, 0)
    before = classifier.probs(task.reporting[0])
    assert judge_classifier(classifier, task)["tempered"]["temperature"] != 1
    assert torch.equal(classifier.probs(task.reporting[0]), before)


def test_the_head_at_a_density_is_a_point_of_the_path():
    task = FeatureTask.digits()
    layer = elastic_net_at(*task.train, 0.2)
    assert layer.sparsity() == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match=r"density=1.2 is a share of the weights; it must lie in \(0, 1\)"):
        elastic_net_at(*task.train, 1.2)


def test_the_p_value_of_a_variational_layer_is_that_of_its_gap():
    pytest.importorskip("vbll")
    from scipy import stats

    from bndl_hf.baselines import VariationalLastLayer

    task = small_task()
    head = VariationalLastLayer(*task.train, *task.choosing, num_steps=20, parameterization="diagonal")
    features = task.reporting[0][:5]
    logits = head.layer.logit_predictive(head._standardised(features))
    mean, variance = logits.mean.double().tolist(), logits.covariance_diagonal.double().tolist()
    for row, p_value in enumerate(head.p_value(features).tolist()):
        first, second = sorted(range(3), key=lambda c: -mean[row][c])[:2]
        std = (variance[row][first] + variance[row][second]) ** 0.5
        t = (mean[row][first] - mean[row][second]) / (std / 20**0.5)
        assert p_value == pytest.approx(2 * stats.t.sf(t, 19), abs=1e-5)
    with pytest.raises(ValueError, match="'full' is unknown; choose 'dense', 'diagonal', 'lowrank' or None"):
        VariationalLastLayer(*task.train, *task.choosing, parameterization="full")
