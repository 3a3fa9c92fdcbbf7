"""LIME finds the quadrant a factor sees, repeats itself bit for bit, and changes no other random numbers."""

import random
import sys

import numpy as np
import pytest
import torch

from bndl_hf import BNDLForImageClassification
from bndl_hf.interpretability import factor_maps, lime_factor
from interpretability.quadrants import quadrant, quadrants_model, striped_images
from model.architectures import SUPPORTED
from model.test_architectures import classifier_of

# 16 super-pixels of 8x8 pixels, each of four blocks.
SQUARES = (torch.arange(32)[:, None] // 8) * 4 + torch.arange(32) // 8
FEW = {"segments": SQUARES, "num_samples": 200, "progress": False}


@pytest.fixture(scope="module")
def model():
    return quadrants_model()


@pytest.fixture(scope="module")
def image():
    return striped_images()[0][0]


@pytest.mark.parametrize("f", range(4))
def test_lime_finds_the_super_pixels_of_the_quadrant_a_factor_sees(model, image, f):
    explanation = lime_factor(model, image, factor=f, **FEW)
    evidence = factor_maps(model, image[None], factors=f).evidence[0, 0]  # [8, 8]
    exact = evidence.unflatten(0, (4, 2)).unflatten(2, (4, 2)).sum(dim=(1, 3)).flatten()  # [16], per super-pixel
    assert explanation.factor == f
    assert explanation.factor_score == pytest.approx(exact.sum().item(), rel=1e-5)
    # A score that is a sum over super-pixels is what LIME assumes: only the ridge keeps it from the exact shares.
    assert explanation.r2 > 0.9
    torch.testing.assert_close(explanation.weights, exact / exact.sum(), rtol=0, atol=0.1)
    assert explanation.weights.argmax() == exact.argmax()
    inside = torch.zeros(32, 32, dtype=torch.bool)
    rows, columns = quadrant(f, 32)
    inside[rows, columns] = True
    assert torch.equal(explanation.top_segments(4), inside)
    assert torch.equal(explanation.map, explanation.weights[SQUARES])


def test_without_a_penalty_the_weights_are_the_exact_shares(model, image):
    explanation = lime_factor(model, image, factor=1, ridge_strength=1e-8, **FEW)
    evidence = factor_maps(model, image[None], factors=1).evidence[0, 0]
    exact = evidence.unflatten(0, (4, 2)).unflatten(2, (4, 2)).sum(dim=(1, 3)).flatten()
    torch.testing.assert_close(explanation.weights, exact / exact.sum(), rtol=0, atol=1e-4)
    assert explanation.r2 == pytest.approx(1, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(model, image):
    one, again, other = (lime_factor(model, image, factor=0, seed=seed, **FEW) for seed in (3, 3, 4))
    assert torch.equal(one.weights, again.weights)
    assert torch.equal(one.map, again.map)
    assert one.r2 == again.r2
    assert not torch.equal(one.weights, other.weights)


def test_weights_do_not_depend_on_how_many_images_the_model_sees_at_a_time(model, image):
    one, other = (lime_factor(model, image, factor=0, batch_size=size, **FEW) for size in (7, 200))
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-4, atol=1e-6)


def test_no_other_random_numbers_change(model, image):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002 - the global state is what is tested
    expected = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    model.train()
    lime_factor(model, image, factor=0, **FEW)
    assert model.training
    model.eval()
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(), random.random()) == expected[1:]  # noqa: NPY002


def test_by_default_it_explains_the_largest_part_of_the_answer_on_slic_super_pixels(model):
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    explanation = lime_factor(model, image, num_segments=12, num_samples=50, progress=False)
    assert explanation.factor == model.explain(image, top_k=1).factors.item()
    assert explanation.segments.shape == explanation.map.shape == (32, 32)
    M = len(explanation.weights)
    assert 4 <= M <= 24
    assert explanation.segments.unique().tolist() == list(range(M))


@pytest.mark.parametrize("model_type", ["vit", "dinov2", "swin"])
def test_it_asks_nothing_of_the_backbone(model_type):
    classifier = classifier_of(SUPPORTED[model_type])
    model = BNDLForImageClassification.from_backbone_pretrained(classifier, num_labels=4)
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    explanation = lime_factor(model, image, segments=SQUARES, num_samples=20, progress=False)
    assert explanation.map.shape == (32, 32)
    assert explanation.weights.any()


def test_where_hiding_changes_nothing_no_super_pixel_counts(model, image):
    model = quadrants_model(score_threshold=0.0)
    model.backbone.edges.conv.weight.data.zero_()
    model.backbone.edges.conv.bias = torch.nn.Parameter(torch.ones(4))  # the same score whatever the image
    explanation = lime_factor(model, image, factor=0, **FEW)
    torch.testing.assert_close(explanation.weights, torch.zeros(16), rtol=0, atol=1e-6)
    assert np.isnan(explanation.r2)


def test_top_segments_are_the_largest_positive_weights(model, image):
    explanation = lime_factor(model, image, factor=0, **FEW)
    expected = explanation.weights.sort(descending=True).values[1]
    assert torch.equal(explanation.top_segments(2), explanation.map >= expected)
    explanation.weights = -torch.ones(16)
    assert not explanation.top_segments().any()


def test_a_mask_numbered_anyhow_is_numbered_from_zero(model, image):
    shifted = {**FEW, "segments": 7 * SQUARES + 3}
    one, other = lime_factor(model, image, factor=0, **FEW), lime_factor(model, image, factor=0, **shifted)
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(other.segments, SQUARES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"segments": torch.zeros(32, 32)}, "segments hold one super-pixel only, and LIME compares several"),
        ({"segments": torch.zeros(8, 8)}, r"segments have shape \[8, 8\]; the image's pixels are \[32, 32\]"),
        ({"factor": 9}, "Factor 9 is out of range; this decision layer has 4 factors, 0 to 3"),
        ({"num_samples": 1}, "num_samples=1 and batch_size=32: a regression needs 2 samples or more"),
    ],
)
def test_what_does_not_fit_is_an_error(model, image, arguments, says):
    with pytest.raises(ValueError, match=says):
        lime_factor(model, image, **{"factor": 0, **FEW, **arguments})


def test_two_images_a_silent_factor_and_a_layer_without_a_backbone_are_errors(model, image):
    with pytest.raises(ValueError, match="image is a batch of 2; LIME explains one image"):
        lime_factor(model, image.expand(2, -1, -1, -1), **FEW)
    with pytest.raises(ValueError, match="Factor 0 has a score of zero on this image"):
        lime_factor(model, torch.zeros_like(image), factor=0, **FEW)
    with pytest.raises(TypeError, match="A BNDLDecisionLayer reads features"):
        lime_factor(model.decision_layer, image, **FEW)
    with pytest.raises(TypeError, match="The image is a ndarray; pass what the model's processor makes of it"):
        lime_factor(model, image.numpy(), **FEW)


def test_without_captum_the_error_names_the_extra(model, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r'pip install "bndl-hf\[explain\]"'):
        lime_factor(model, image, factor=0, **FEW)
