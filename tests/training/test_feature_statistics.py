"""Spread and separation of features against scikit-learn's and by hand; the KL weight that follows from them."""

import pytest
import torch
from accelerate import Accelerator
from sklearn.preprocessing import StandardScaler

from bndl_hf import BNDLConfig
from bndl_hf.model.presets import KL_LOCAL_BUDGET
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.feature_statistics import FeatureStatistics
from bndl_hf.uncertainty import fit_conformal

from .runs import classifier, make_trainer
from .test_fit_decision_layer import QUICK


def statistics(features, labels, num_labels):
    return FeatureStatistics(features, labels, num_labels, Accelerator(cpu=True))


def clusters(n, D, C, separation, seed=0):
    """Normal clusters whose variance between classes is `separation` times the one within them, in every feature."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(C, D, generator=generator).double()
    centres = (centres - centres.mean(0)) / centres.std(0, unbiased=False) * separation**0.5
    labels = torch.arange(n) % C
    return centres[labels] + torch.randn(n, D, generator=generator).double(), labels


def test_the_spread_is_scikit_learns():
    features, labels = clusters(500, 7, 3, 2.0)
    scaler = StandardScaler(with_mean=False).fit(features.numpy())
    torch.testing.assert_close(statistics(features, labels, 3).inverse_spread, 1 / torch.from_numpy(scaler.scale_))


def test_features_that_never_move_keep_their_scale_and_those_that_hardly_do_are_not_blown_up():
    features = torch.stack([torch.randn(100), torch.full((100,), 3.0), 1e-6 * torch.randn(100)], dim=1)
    inverse = statistics(features, torch.zeros(100, dtype=torch.long), 2).inverse_spread
    assert inverse[1] == 1.0
    assert inverse[2] < 1e3


@pytest.mark.parametrize("separation", [0.1, 2.0])
@pytest.mark.parametrize(("n", "C"), [(20000, 10), (2000, 1000)])
def test_the_separation_of_clusters_is_found_whether_classes_have_many_images_or_two(separation, n, C):
    features, labels = clusters(n, 40, C, separation)
    # Unbiased; its standard error is some (1 + separation) sqrt(4 / (n D)), below 0.01 + 0.02 here.
    assert statistics(features, labels, C).class_separation == pytest.approx(separation, rel=0.05, abs=0.02)


def test_classes_that_do_not_show_have_no_separation_and_collapsed_ones_a_finite_one():
    assert statistics(torch.randn(2000, 20), torch.arange(2000) % 10, 10).class_separation < 0.01
    assert statistics(torch.eye(3)[torch.arange(30) % 3], torch.arange(30) % 3, 3).class_separation > 1e3
    assert statistics(torch.randn(5, 4), torch.arange(5), 5).class_separation is None  # one image of each
    assert statistics(torch.ones(6, 4), torch.arange(6) % 2, 2).class_separation is None


def test_the_kl_weight_follows_the_separation_of_features_that_stay_and_is_written_down():
    for separation, counted in ((0.2, 0.2), (100.0, 4.0)):
        features, labels = clusters(2000, 16, 4, separation)
        config = BNDLConfig(feature_dim=16, num_labels=4)
        assert config.kl_local_weight is None
        layer = fit_decision_layer(features.float(), labels, config, **{**QUICK, "num_train_epochs": 1})
        weight = KL_LOCAL_BUDGET * counted / config.num_factors
        assert layer.config.kl_local_weight == pytest.approx(weight, rel=0.15)
    config = BNDLConfig(feature_dim=16, num_labels=4, kl_local_weight=0.5)
    layer = fit_decision_layer(features.float(), labels, config, **{**QUICK, "num_train_epochs": 1})
    assert layer.config.kl_local_weight == 0.5


def test_a_backbone_that_moves_gets_the_weight_that_does_not_look(tmp_path):
    model = classifier()
    make_trainer(tmp_path, model, max_steps=1).train()
    assert model.config.kl_local_weight == KL_LOCAL_BUDGET / model.config.num_factors
    frozen = classifier()
    make_trainer(tmp_path, frozen, max_steps=1, freeze_backbone=True).train()
    assert frozen.config.kl_local_weight != KL_LOCAL_BUDGET / model.config.num_factors


def test_what_was_fitted_before_a_training_is_dropped():
    features, labels = clusters(200, 16, 4, 1.0)
    for fitted in ({"temperature": 2.0}, {"abstain_below": 0.5}):
        config = BNDLConfig(feature_dim=16, num_labels=4, **fitted)
        layer = fit_decision_layer(features.float(), labels, config, **{**QUICK, "num_train_epochs": 1})
        assert (layer.config.temperature, layer.config.abstain_below) == (1.0, None)
    layer.set_conformal(fit_conformal(layer.predict(features.float()), labels, 0.9))
    again = fit_decision_layer(features.float(), labels, layer.config, layer=layer, **{**QUICK, "num_train_epochs": 1})
    assert again.config.conformal is None


def test_a_measured_weight_is_measured_again_and_a_chosen_one_is_kept():
    near, labels = clusters(2000, 16, 4, 0.5)
    far, _ = clusters(2000, 16, 4, 2.0)
    config = BNDLConfig(feature_dim=16, num_labels=4)
    arguments = {**QUICK, "num_train_epochs": 1}
    layer = fit_decision_layer(near.float(), labels, config, **arguments)
    first = layer.config.kl_local_weight
    fit_decision_layer(far.float(), labels, layer.config, layer=layer, **arguments)
    assert layer.config.kl_local_weight == pytest.approx(4 * first, rel=0.2)
    fit_decision_layer(near.float(), labels, layer.config, layer=layer, kl_local_weight=0.5, **arguments)
    fit_decision_layer(near.float(), labels, layer.config, layer=layer, **arguments)
    assert layer.config.kl_local_weight == 0.5


def test_a_separation_that_cannot_be_measured_leaves_the_weight_that_does_not_look():
    config = BNDLConfig(feature_dim=5, num_labels=8)
    layer = fit_decision_layer(torch.rand(8, 5), torch.arange(8), config, **{**QUICK, "num_train_epochs": 1})
    assert layer.config.kl_local_weight == KL_LOCAL_BUDGET / config.num_factors
