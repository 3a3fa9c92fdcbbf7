"""A pruned model is smaller, answers alike, and goes on learning as before; the one it was made of stays as it is."""

import copy
import itertools

import pytest
import torch

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.baselines import DenseDecisionLayer
from bndl_hf.interpretability import prune
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import fit_decision_layer
from model.tiny import tiny_model

D, K, C = 12, 12, 4
PROJECTIONS = ("none", "linear", "two_layer")
ANSWERS = (
    "probs",
    "logits_mean",
    "logits_variance",
    "gap_variance",
    "p_value",
    "flip_probability",
    "total",
    "aleatoric",
    "epistemic",
)
PRESETS = ("default", "released", "released_resnet")


def sparse(layer):
    """`layer` with a third of its factors without loadings, most others' loadings zero too, and every k its own."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator))
        unused = torch.arange(len(layer.raw_loadings)) % 3 == 1
        drawn = torch.rand(layer.raw_loadings.shape, generator=generator)
        layer.zero_loadings(unused[:, None] | (drawn < 0.5))
        layer.raw_loadings[0, 0] = layer.config.loading_threshold - 1e-4  # zero, but within an optimizer's reach
        layer.raw_loadings[0, 1] = 0.7
    return layer.eval()


def make_layer(**config):
    torch.manual_seed(0)
    return sparse(BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_factors=K, num_labels=C, **config)))


def features(num_images=9):
    return torch.rand(num_images, D, generator=torch.Generator().manual_seed(1)) * 2


def assert_equal_answers(one, other):
    for name in ANSWERS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5, msg=name)
    assert torch.equal(one.predicted_labels, other.predicted_labels)


def config_fields():
    grains = itertools.product(("per_image", "per_factor"), ("features", "score_mean"), ("per_factor", "per_entry"))
    grains = [*grains, ("per_factor", "pre_activation", "per_factor"), ("per_factor", "pre_activation", "per_entry")]
    for projection, (score, source, loading) in itertools.product(PROJECTIONS, grains):
        yield {
            "projection": projection,
            "score_concentration": score,
            "score_concentration_input": source,
            "loading_concentration": loading,
        }


@pytest.mark.parametrize("fields", [*config_fields(), *({"preset": preset} for preset in PRESETS)], ids=str)
def test_answers_are_equal_whatever_makes_scores_and_concentrations(fields):
    layer = make_layer(**fields)
    state, config = copy.deepcopy(layer.state_dict()), layer.config.to_dict()
    smaller = prune(layer)
    alive = (layer.factor_loadings > 0).any(dim=1)
    assert smaller.config.num_factors == len(smaller.raw_loadings) == int(alive.sum()) < K
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in layer.parameters())
    assert torch.equal(smaller.factor_loadings, layer.factor_loadings[alive])
    assert_equal_answers(smaller.predict(features()), layer.predict(features()))
    torch.testing.assert_close(
        smaller.explain(features(), top_k=3).contribution_std, layer.explain(features(), top_k=3).contribution_std
    )
    torch.testing.assert_close(smaller(features()).factor_scores, layer(features()).factor_scores[:, alive])
    # The input is untouched, in weights and configuration.
    assert all(torch.equal(state[name], value) for name, value in layer.state_dict().items())
    assert layer.config.to_dict() == config
    again = prune(smaller)  # nothing is left to drop, and nothing changes any more
    assert again.config.to_dict() == smaller.config.to_dict()
    assert_equal_answers(again.predict(features()), layer.predict(features()))


@pytest.mark.parametrize("fields", [{"projection": "none"}, {"score_concentration_input": "score_mean"}, {}], ids=str)
def test_a_pruned_layer_can_lose_more_factors(fields):
    smaller = prune(make_layer(**fields))
    is_zero = torch.zeros_like(smaller.raw_loadings, dtype=torch.bool)
    is_zero[[0, 2]] = True
    smaller.zero_loadings(is_zero)
    smallest = prune(smaller)
    assert smallest.config.num_factors == smaller.config.num_factors - 2
    assert_equal_answers(smallest.predict(features()), smaller.predict(features()))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_pruned_model_is_saved_and_loaded(tmp_path, pixel_values, kind, preset):
    model = tiny_model(kind, preset=preset)
    sparse(model.decision_layer)
    smaller = prune(model)
    assert smaller.decision_layer.config is smaller.config
    assert smaller.config.num_factors < model.config.num_factors
    assert_equal_answers(smaller.predict(pixel_values), model.predict(pixel_values))
    smaller.save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.num_factors == smaller.config.num_factors
    for name, value in smaller.decision_layer.state_dict().items():
        assert torch.equal(loaded.decision_layer.state_dict()[name], value), name
        assert loaded.decision_layer.state_dict()[name].dtype == value.dtype
    assert_equal_answers(loaded.predict(pixel_values), model.predict(pixel_values))
    # In half precision everything of the decision layer stays as it was, whichever way the model got there.
    halved = BNDLForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    halved.save_pretrained(tmp_path / "again")
    again = BNDLForImageClassification.from_pretrained(tmp_path / "again", dtype=torch.bfloat16)
    expected = smaller.to(torch.bfloat16).predict(pixel_values).logits_mean
    for changed in (halved, again, loaded.to(torch.bfloat16)):
        assert torch.equal(changed.predict(pixel_values).logits_mean, expected)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kl_local_weight", [None, 0.02])
def test_what_is_left_is_pulled_as_before(preset, kl_local_weight):
    layer = make_layer(preset=preset, kl_global_weight=0.5, loading_density=0.1, objective="exact")
    layer.config.kl_local_weight, layer.config.kl_local_weight_is_measured = kl_local_weight, True
    layer.config.num_training_images = 100
    smaller = prune(layer)
    assert smaller.config.kl_local_weight == (0.03 / K if kl_local_weight is None else kl_local_weight)
    assert not smaller.config.kl_local_weight_is_measured
    left = smaller.config.num_factors
    assert smaller.config.loading_density * left == pytest.approx(0.1 * K)
    alive = (layer.factor_loadings > 0).any(dim=1)
    gradients = []
    for one in (layer, smaller):
        one.train()(features(), torch.arange(9) % C).loss.backward()
        gradients.append([one.raw_loadings.grad, one.raw_bias.grad])
    torch.testing.assert_close(gradients[1][0], gradients[0][0][alive], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[1][1], gradients[0][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"projection": "none"}, {"preset": "released", "loading_density": 0.4}], ids=str
)
def test_a_pruned_layer_is_trained_on_by_the_trainer(fields):
    layer = prune(make_layer(**fields))
    weight, left = layer.config.kl_local_weight, int((layer.factor_loadings > 0).sum())
    labels = torch.arange(48) % C
    images = features(48) * 0.3 + torch.eye(D)[labels]
    before = layer(images, labels).nll.item()
    trained = fit_decision_layer(
        images,
        labels,
        layer.config,
        layer=layer,
        num_train_epochs=15,
        decision_layer_learning_rate=0.05,
        disable_tqdm=True,
    )
    assert trained.config.num_factors == len(trained.raw_loadings) < K
    assert trained.config.kl_local_weight == weight
    assert int((trained.factor_loadings > 0).sum()) <= left
    assert trained.eval()(images, labels).nll < before - 0.02


def test_zero_loadings_do_not_come_back():
    layer = make_layer()
    smaller = prune(layer).train()
    was_zero = smaller.factor_loadings == 0
    optimizer = torch.optim.AdamW(smaller.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        smaller(features(), torch.arange(9) % C).loss.backward()
        optimizer.step()
    assert (smaller.factor_loadings[was_zero] == 0).all()


def test_mode_and_frozen_parameters_are_kept_and_no_random_number_is_drawn():
    layer = make_layer().train()
    layer.projection.requires_grad_(False)
    torch.manual_seed(5)
    smaller = prune(layer)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert smaller.training
    assert not smaller.projection.weight.requires_grad
    assert smaller.raw_loadings.requires_grad


def test_one_factor_stays_where_none_has_a_loading():
    layer = make_layer()
    layer.zero_loadings(torch.ones(K, C, dtype=torch.bool))
    smaller = prune(layer)
    assert smaller.config.num_factors == 1
    torch.testing.assert_close(smaller(features()).logits_mean, layer.bias.expand(9, C))


def test_what_has_no_factors_is_refused():
    with pytest.raises(ValueError, match="A Linear has no BNDL decision layer"):
        prune(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="A DenseDecisionLayer makes no factors"):
        prune(DenseDecisionLayer(BNDLConfig(feature_dim=3, num_labels=2, projection="none")))


def test_a_wrapper_that_hands_on_the_layer_of_another_model_is_refused():
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(tiny_model("resnet"), peft.LoraConfig(target_modules=["convolution"]))
    with pytest.raises(ValueError, match="only hands on the decision layer of the model inside it"):
        prune(wrapped)
