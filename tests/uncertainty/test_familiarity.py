"""Familiarity against scikit-learn's covariance and scipy's p-values; what travels, and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.covariance import ledoit_wolf

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.familiarity import Familiarity, log_ndtr
from bndl_hf.training import fit_decision_layer
from bndl_hf.uncertainty import OOD_SCORES, fit_familiarity, ood_auroc, ood_scores
from model.tiny import tiny_model

C, D = 3, 6


def rows(count, seed):
    """Features of three classes, each around a mean of its own, D - 1 directions of different spread."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % C
    noise = torch.randn(count, D, generator=generator) * torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    return 2 + 2 * torch.eye(C, D)[labels] + noise, labels


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C)).eval()


def test_the_distance_is_that_of_ledoit_and_wolfs_covariance(layer):
    features, labels = rows(90, 0)
    found = fit_familiarity(layer, features, labels, rows(30, 1)[0], rank=D - 1)  # D - 1 directions and one left: all
    means = np.stack([features[labels == c].double().numpy().mean(axis=0) for c in range(C)])
    covariance, _ = ledoit_wolf(features.double().numpy() - means[labels], assume_centered=True)
    new = torch.cat([rows(20, 2)[0], torch.full((1, D), 40.0)])
    differences = new.double().numpy()[:, None] - means  # [B, C, D]
    squared = np.einsum("bcd,de,bce->bc", differences, np.linalg.inv(covariance), differences)
    expected = torch.from_numpy(np.sqrt(squared.min(axis=1)))
    torch.testing.assert_close(found.mahalanobis_distance(new).double(), expected, rtol=1e-4, atol=1e-4)


def test_directions_beyond_the_rank_share_the_mean_of_their_variances():
    # Variances 4, 3, 2, 1 along the axes and no shrinkage to speak of: the last two share 1.5.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200_000, 4, generator=generator) * torch.tensor([4.0, 3.0, 2.0, 1.0]).sqrt()
    torch.manual_seed(0)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=4, num_labels=2)).eval()
    found = fit_familiarity(layer, features, torch.zeros(len(features)), features[:50], rank=2)
    distance = found.mahalanobis_distance(3 * torch.eye(4))
    expected = 3 / torch.tensor([4.0, 3.0, 1.5, 1.5]).sqrt()
    torch.testing.assert_close(distance, expected, rtol=0.02, atol=0)  # variances of 200,000 images: sd .3 %


def test_fishers_statistic_is_made_of_two_p_values(layer):
    held_out = rows(40, 1)[0]
    found = fit_familiarity(layer, *rows(90, 0), held_out)
    new = torch.cat([rows(7, 3)[0], torch.full((1, D), 5.0), found.class_means[:1]])
    usual, here = found.mahalanobis_distance(held_out).double().log(), found.mahalanobis_distance(new).double()
    z = ((here.clamp_min(1e-37).log() - usual.mean()) / usual.std()).numpy()
    expected_distance = np.minimum(np.minimum(stats.norm.sf(z) / 0.99, stats.norm.cdf(z) / 0.01), 1)
    # Both of the entropy's quantiles and of this share: linear between the sorted held-out values, at the same points.
    entropies = stats.entropy((layer.predict(held_out).logits_mean.double() / 2).softmax(-1).numpy(), axis=1)
    entropy = stats.entropy((layer.predict(new).logits_mean.double() / 2).softmax(-1).numpy(), axis=1)
    share = np.interp(entropy, np.quantile(entropies, np.linspace(0, 1, 101)), np.linspace(0, 1, 101))
    expected_entropy = ((1 - share) * 40 + 1) / 41
    distance, log_p_distance, log_p_entropy = found.p_values(new, layer.predict(new).logits_mean)
    near = z > -8  # the last image lies on a class mean, where float32 says little about the distance
    torch.testing.assert_close(distance.double(), here)
    np.testing.assert_allclose(log_p_distance.double().numpy()[near], np.log(expected_distance[near]), rtol=1e-3)
    np.testing.assert_allclose(log_p_entropy.double().exp().numpy(), expected_entropy, atol=1e-3)
    statistic = found(new, layer.predict(new).logits_mean)[1]
    torch.testing.assert_close(statistic, -2 * (log_p_distance + log_p_entropy))
    assert statistic[-1] > statistic[:7].max()  # nearer than any held-out image is unusual too


def test_more_evidence_than_usual_fools_joint_and_not_fishers_statistic():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, projection="none", normalize_features=False))
    with torch.no_grad():
        layer.raw_loadings.copy_(2 * torch.eye(D, C))
    layer.eval()
    layer.set_familiarity(fit_familiarity(layer, *rows(90, 0), rows(60, 1)[0]))
    inside, bright = (ood_scores(layer.predict(x)) for x in (rows(60, 2)[0], 5 * rows(60, 2)[0]))
    assert ood_auroc(inside["joint"], bright["joint"]) < 0.05
    assert ood_auroc(inside["max_probability"], bright["max_probability"]) < 0.5
    assert ood_auroc(inside["fisher_statistic"], bright["fisher_statistic"]) == 1.0
    assert list(inside) == list(OOD_SCORES)


def test_a_class_without_images_changes_no_distance(layer):
    features, labels = rows(90, 0)
    kept = labels != 1
    found = fit_familiarity(layer, features[kept], labels[kept], rows(30, 1)[0])
    assert found.class_means.isfinite().all()
    distance = found.mahalanobis_distance(found.class_means)
    torch.testing.assert_close(distance, torch.zeros(C), rtol=0, atol=1e-3)
    assert torch.equal(found.class_means[1], found.class_means[labels[0]])


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_a_saved_model_keeps_what_is_familiar(method, tmp_path):
    model = tiny_model("resnet")
    features = model.config.feature_dim
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(60, features, generator=generator), torch.arange(60) % 5
    images = torch.rand(2, 3, 32, 32, generator=generator)
    assert model.predict(images).fisher_statistic is None
    model.set_familiarity(fit_familiarity(model.decision_layer, *known, torch.rand(30, features, generator=generator)))
    before = model.predict(images, method=method, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path)
    again = BNDLForImageClassification.from_pretrained(tmp_path)
    assert again.config.familiarity_rank == min(64, features - 1)
    after = again.predict(images, method=method, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before.fisher_statistic, after.fisher_statistic)
    assert torch.equal(before.mahalanobis_distance, after.mahalanobis_distance)
    assert before.fisher_statistic.isfinite().all()
    again.set_familiarity(None)
    assert again.config.familiarity_rank is None
    assert again.predict(images).fisher_statistic is None


def test_training_anew_forgets_what_was_familiar():
    features, labels = rows(60, 0)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C)).eval()
    layer.set_familiarity(fit_familiarity(layer, features, labels, rows(30, 1)[0]))
    layer = fit_decision_layer(features, labels, layer.config, layer=layer, max_steps=1, disable_tqdm=True)
    assert layer.familiarity is None
    assert layer.config.familiarity_rank is None


def test_a_layer_whose_familiarity_was_not_loaded_has_nothing_to_say():
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, familiarity_rank=2)).eval()
    assert layer.predict(rows(3, 0)[0]).fisher_statistic.isnan().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": torch.zeros(4)}, r"features have shape \[90, 6\] and labels \[4\]"),
        ({"held_out_features": torch.zeros(30, 5)}, r"shape \[30, 5\]; \[M, 6\] fits"),
        ({"held_out_features": torch.ones(3, 6)}, "3 held-out images do not say what is usual; pass 20 or more"),
        ({"rank": 0}, "rank=0 of 6 features"),
        ({"labels": torch.full((90,), 3)}, "labels run from 3 to 3; this layer knows 0 to 2"),
        ({"features": torch.ones(90, 6)}, "Images do not differ from the mean of their class"),
        ({"features": torch.full((90, 6), math.nan)}, "features"),
    ],
)
def test_what_does_not_fit_is_answered_with_a_sentence(layer, change, sentence):
    features, labels = rows(90, 0)
    arguments = {"features": features, "labels": labels, "held_out_features": rows(30, 1)[0], **change}
    with pytest.raises(ValueError, match=sentence):
        fit_familiarity(layer, **arguments)


def test_familiarity_of_another_backbone_is_refused(layer):
    with pytest.raises(ValueError, match=r"class means of shape \[3, 9\]; this decision layer needs \[3, 6\]"):
        layer.set_familiarity(Familiarity(3, 9, 2))


@pytest.mark.parametrize("name", ["mahalanobis", "fisher_statistic"])
def test_scores_that_need_familiarity_say_so(layer, name):
    prediction = layer.predict(rows(3, 0)[0])
    assert name not in ood_scores(prediction)
    with pytest.raises(ValueError, match=r"a model without familiarity; call model\.set_familiarity"):
        OOD_SCORES[name](prediction)


def test_the_normal_tail_is_scipys_far_beyond_where_erf_is_one():
    z = torch.linspace(-40, 10, 2001)
    wanted = torch.from_numpy(special.log_ndtr(z.double().numpy()))
    assert ((log_ndtr(z).double() - wanted).abs() <= 4e-7 * wanted.abs().clamp_min(1)).all()
