"""Every out-of-distribution score against its formula, on predictions of trained-like layers and by hand."""

import math

import pytest
import torch
from scipy import stats

from bndl_hf import BNDLConfig
from bndl_hf.baselines import HEADS, make_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.uncertainty import OOD_SCORES, ood_auroc, ood_scores, recommended_ood_score

NAMES = [
    "max_probability",
    "entropy",
    "energy",
    "total_evidence",
    "mutual_information",
    "z",
    "joint",
    "tempered_entropy",
]


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=4)).eval()


@pytest.fixture(scope="module")
def features():
    return 3 * torch.rand(50, 12, generator=torch.Generator().manual_seed(1))


def test_scores_are_their_formulas(layer, features):
    prediction = layer.predict(features)
    scores = {name: score.double() for name, score in ood_scores(prediction).items()}
    assert list(scores) == NAMES == [name for name in OOD_SCORES if name not in ("mahalanobis", "fisher_statistic")]
    logits, probs = prediction.logits_mean.double().numpy(), prediction.probs.double()
    theta = layer.score_posterior(features).mean.double()
    halved = torch.from_numpy(logits / 2).softmax(dim=-1).numpy()
    expected = {
        "max_probability": 1 - probs.max(dim=-1).values,
        "entropy": torch.from_numpy(stats.entropy(probs.numpy(), axis=-1)),
        "energy": -torch.from_numpy(logits).exp().sum(dim=-1).log(),
        "total_evidence": -theta.sum(dim=-1),
        "mutual_information": prediction.epistemic.double(),
        "z": prediction.p_value.double(),
        "tempered_entropy": torch.from_numpy(stats.entropy(halved, axis=-1)),
        "joint": torch.from_numpy(stats.entropy(halved, axis=-1)) / theta.sum(dim=-1),
    }
    for name in NAMES:
        torch.testing.assert_close(scores[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_z_ranks_as_the_gap_in_its_own_standard_deviations(layer, features):
    prediction = layer.predict(features)
    z = torch.special.ndtri(1 - prediction.flip_probability.double())
    assert ((z > 0) & (z < 5)).all()  # where the normal quantile is still exact enough to rank by
    assert torch.equal(ood_scores(prediction)["z"].argsort(), z.argsort(descending=True))


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_and_method_has_every_score(head, method, features):
    torch.manual_seed(0)
    layer, _ = make_head(head, 12, 4)
    prediction = layer.eval().predict(features, method=method, generator=torch.Generator().manual_seed(0))
    for name, score in ood_scores(prediction).items():
        assert score.shape == (50,), name
        assert not score.isnan().any(), name
    torch.testing.assert_close(prediction.evidence, layer.score_posterior(features).mean.sum(dim=-1))
    assert (prediction.evidence >= 0).all()


def test_an_image_without_evidence_is_the_farthest_out(layer, features):
    with torch.no_grad():
        silent = BNDLDecisionLayer(BNDLConfig(feature_dim=12, num_labels=4, projection="none")).eval()
        nothing = silent.predict(torch.zeros(3, 12))
    assert ood_scores(nothing)["joint"].tolist() == [math.inf] * 3
    assert ood_scores(nothing)["total_evidence"].tolist() == [0.0] * 3
    assert ood_auroc(ood_scores(layer.predict(features))["joint"], ood_scores(nothing)["joint"]) == 1.0


def test_joint_sees_near_and_far_out_of_distribution_images():
    # Loadings like an identity: image 0 shows one class, 1 two classes at once (near), 2 a faint one (far).
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=2, num_labels=2, projection="none", normalize_features=False))
    with torch.no_grad():
        layer.raw_loadings.copy_(4 * torch.eye(2))
    scores = ood_scores(layer.eval().predict(torch.tensor([[2.0, 0.1], [1.1, 1.0], [0.3, 0.01]])))
    inside, near, far = scores["joint"].tolist()
    assert inside < near < math.inf
    assert inside < far < math.inf
    assert scores["total_evidence"][1] == pytest.approx(-2.1)  # the evidence alone does not see the near one
    assert scores["total_evidence"][0] == pytest.approx(-2.1)


def test_evidence_shared_by_all_classes_moves_joint_but_not_the_tempered_entropy():
    # Factor 2 says the same of both classes: image 1 has ten times the evidence of image 0 and the same gap.
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=3, num_labels=2, projection="none", normalize_features=False))
    with torch.no_grad():
        layer.raw_loadings.copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]))
    scores = ood_scores(layer.eval().predict(torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 9.1]])))
    assert scores["tempered_entropy"][1] == pytest.approx(scores["tempered_entropy"][0].item(), rel=1e-3)
    assert scores["joint"][1] < scores["joint"][0] / 5


def test_the_recommended_score_is_the_best_one_there():
    assert recommended_ood_score(OOD_SCORES) == "fisher_statistic"
    assert recommended_ood_score(NAMES) == "entropy"
    with pytest.raises(ValueError, match="scores energy hold neither of fisher_statistic, entropy"):
        recommended_ood_score(["energy"])
