"""Tensors on an accelerator give the numbers they give on the CPU."""

import pytest
import torch

from bndl_hf import BNDLConfig, uncertainty
from bndl_hf.model.decision_layer import BNDLDecisionLayer

from .reference import random_probs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def numbers(result):
    return vars(result) if hasattr(result, "__dict__") else result


def test_metrics_of_an_accelerator_are_those_of_the_cpu():
    probs, labels = random_probs(200, 5, seed=0)
    for name in [
        "accuracy",
        "negative_log_likelihood",
        "brier_score",
        "brier_decomposition",
        "expected_calibration_error",
        "adaptive_calibration_error",
        "classwise_calibration_error",
    ]:
        function = getattr(uncertainty, name)
        assert numbers(function(probs.cuda(), labels.cuda())) == pytest.approx(numbers(function(probs, labels)))
    streamed = uncertainty.StreamingMetrics()
    streamed.update(probs.cuda(), labels.cuda(), confidence=probs.cuda().amax(dim=-1))
    assert streamed.compute()["accuracy"] == uncertainty.accuracy(probs, labels)


def test_draws_and_scores_of_an_accelerator_are_those_of_the_cpu():
    draws = torch.randn(10, 40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 4
    for test in ("paired", "welch"):
        for values in ("logits", "probabilities"):
            on_cpu = uncertainty.pavpu(draws, labels, test=test, values=values)
            assert uncertainty.pavpu(draws.cuda(), labels.cuda(), test=test, values=values) == on_cpu
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=8, num_labels=4)).eval()
    features = torch.rand(20, 8)
    expected = uncertainty.ood_scores(layer.predict(features))
    for name, score in uncertainty.ood_scores(layer.cuda().predict(features.cuda())).items():
        torch.testing.assert_close(score.cpu(), expected[name], rtol=1e-4, atol=1e-5, msg=name)
