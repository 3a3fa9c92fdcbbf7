"""preset="released" against the numbers the authors' head produced (shared/golden, tensors described there)."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.predictive import paired_p_value

FACTORS, CLASSES, DRAWS = 32, 7, 20


def assert_close(got, expected):
    """Within 1e-5, relative where values are above one: float32 sums of 32 products of draws up to 86."""
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def golden(shared):
    path = shared / "golden" / "reference_head.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    return load_file(path)


@pytest.fixture(scope="module")
def layer(golden):
    layer = BNDLDecisionLayer(BNDLConfig(preset="released", feature_dim=FACTORS, num_labels=CLASSES)).eval()
    released = {name.removeprefix("weights."): value for name, value in golden.items() if name.startswith("weights.")}
    layer.load_state_dict(
        {
            "feature_scale": torch.ones(FACTORS),
            "projection.weight": released["linear_add.0.weight"],
            "projection.bias": released["linear_add.0.bias"],
            "score_concentration.weight": released["linear_k.0.weight"],
            "score_concentration.bias": released["linear_k.0.bias"],
            "raw_loadings": released["linear.weight"].T,
            "raw_bias": released["linear.bias"],
            "loading_concentration.weight": released["linear_kw.0.weight"],
            "loading_concentration.bias": released["linear_kw.0.bias"],
        }
    )
    return layer


@torch.no_grad()
def test_posteriors_are_the_released_ones(layer, golden):
    scores, loadings = layer.score_posterior(golden["features"]), layer.loading_posterior()
    assert_close(scores.mean, golden["score_mean"])
    assert_close(scores.scale, golden["score_scale"])
    assert_close(1 / scores.concentration, golden["score_inverse_shape"])
    assert_close(loadings.scale, golden["loading_scale"])
    assert_close(1 / loadings.concentration, golden["loading_inverse_shape"])


@torch.no_grad()
def test_mean_logits_are_the_released_ones(layer, golden):
    assert_close(layer(golden["features"]).logits_mean, golden["mean_logits"])


@torch.no_grad()
def test_draws_from_the_same_uniforms_give_the_released_logits(layer, golden):
    scores, loadings = layer.score_posterior(golden["features"]), layer.loading_posterior()
    theta = scores.quantile(golden["uniform_scores"])  # [S, B, K]
    phi = loadings.quantile(golden["uniform_loadings"])  # [S, K, C]
    assert_close((theta @ phi + layer.bias).permute(1, 2, 0), golden["sampled_logits"])


@torch.no_grad()
def test_divergences_are_the_released_ones_under_their_convention(layer, golden):
    output = layer(golden["features"], golden["labels"])
    # Their mean over dimension 0 is ours over images for the scores, and one over the 32 factors for the loadings.
    assert_close(output.kl_local[None], golden["kl_scores"])
    assert_close(output.kl_global[None] / FACTORS, golden["kl_loadings"])


@torch.no_grad()
def test_loss_weighs_the_divergences_as_released(layer, golden):
    output = copy.deepcopy(layer).train()(golden["features"], golden["labels"])
    expected = output.nll + 1e-6 * golden["kl_scores"][0] + 1e-6 * golden["kl_loadings"][0]
    assert_close(output.loss, expected)


@torch.no_grad()
def test_p_values_of_the_released_draws_are_the_released_ones(golden):
    draws = golden["sampled_logits"].permute(2, 0, 1).double()  # [S, B, C]
    pair = draws.softmax(-1).mean(0).topk(2).indices
    gaps = draws.gather(-1, pair.expand(DRAWS, -1, -1))
    gap = gaps[..., 0] - gaps[..., 1]  # [S, B]
    assert_close(paired_p_value(gap.mean(0) / gap.std(0), DRAWS).float(), golden["p_value"])
