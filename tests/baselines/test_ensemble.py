"""Deep ensembles: members beside heads of their own, and the mean of their probabilities."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from bndl_hf import BNDLConfig
from bndl_hf.baselines import EnsembleDecisionLayer
from bndl_hf.baselines.own_losses import expected_loss
from bndl_hf.model.loss import likelihood_loss

D, C, M = 5, 3, 4


def ensemble_and_rows(**config):
    torch.manual_seed(0)
    layer = EnsembleDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, projection="none", **config), M)
    return layer, torch.randn(8, D), torch.arange(8) % C


def naive_logits(layer, features):
    """[M, B, C], a loop over the members."""
    weights = layer.raw_loadings.detach().double().view(M, D, C)
    return torch.stack([features.double() @ w + b for w, b in zip(weights, layer.member_bias.double(), strict=True)])


@pytest.mark.parametrize("bias", ["free", "non_negative", "none"])
def test_the_answer_is_the_mean_of_the_members_probabilities(bias):
    layer, features, labels = ensemble_and_rows(bias=bias)
    layer.eval()
    each = naive_logits(layer, features).detach().softmax(-1)
    exact, draws = layer.predict(features), layer.predict(features, "monte_carlo")
    for prediction in (exact, draws):
        torch.testing.assert_close(prediction.probs.double(), each.mean(0), atol=1e-6, rtol=1e-5)
        aleatoric = torch.special.entr(each).sum(-1).mean(0)
        torch.testing.assert_close(prediction.aleatoric.double(), aleatoric, atol=1e-5, rtol=1e-4)
    assert draws.logits_samples.shape == (M, 8, C)
    assert exact.logits_samples is None
    output = layer(features, labels)
    torch.testing.assert_close(output.logits.softmax(-1), exact.probs)
    torch.testing.assert_close(output.nll, -exact.probs.gather(1, labels[:, None]).log().mean())


def test_its_p_value_is_the_paired_t_test_of_the_members():
    layer, features, _ = ensemble_and_rows()
    prediction = layer.eval().predict(features, "monte_carlo")
    logits = naive_logits(layer, features).detach()
    first, second = logits.mean(0).topk(2, dim=-1).indices.unbind(-1)
    for b in range(8):
        expected = stats.ttest_rel(logits[:, b, first[b]].numpy(), logits[:, b, second[b]].numpy()).pvalue
        assert prediction.p_value[b].item() == pytest.approx(expected, abs=1e-4)
    assert (layer.predict(features).p_value <= prediction.p_value).all()  # twenty draws of the same spread
    with pytest.raises(ValueError, match="num_samples=20, but the draws of an ensemble are its 4 members"):
        layer.predict(features, "monte_carlo", num_samples=20)


def test_every_member_learns_from_its_own_cross_entropy():
    layer, features, labels = ensemble_and_rows(kl_local_weight=0.0, kl_global_weight=0.0)
    output = layer(features, labels)
    output.loss.backward()
    weights = layer.raw_loadings.detach().double().view(M, D, C).requires_grad_()
    biases = layer.member_bias.detach().double()
    losses = [F.cross_entropy(features.double() @ w + b, labels) for w, b in zip(weights, biases, strict=True)]
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.testing.assert_close(output.loss.double(), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.raw_loadings.grad.double(), weights.grad.view(M * D, C), rtol=1e-4, atol=1e-6)
    assert layer.raw_bias.grad.shape == (M, C)


def test_members_start_apart_and_explanations_add_up_to_their_mean():
    layer, features, _ = ensemble_and_rows()
    members = layer.raw_loadings.view(M, D, C)
    assert not any(torch.equal(members[0], other) for other in members[1:])
    evidence = layer.eval().explain(features, target=1)
    mean = naive_logits(layer, features).mean(0)[:, 1]
    torch.testing.assert_close(evidence.total.double(), mean, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="num_members=1; an ensemble has two members or more"):
        EnsembleDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, projection="none"), 1)


def test_an_expected_loss_of_log_probabilities_is_the_cross_entropy():
    logits, labels, weights = torch.randn(6, 3).double(), torch.arange(6) % 3, torch.tensor([1.0, 2.0, 0.5]).double()
    for case in ((None, 0.0), (weights, 0.0), (None, 0.2), (weights, 0.2)):
        found = expected_loss(logits.log_softmax(-1), labels, *case)
        torch.testing.assert_close(found, likelihood_loss(logits, labels, *case))
