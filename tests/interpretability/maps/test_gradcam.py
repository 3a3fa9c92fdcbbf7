"""Grad-CAM for every backbone with a map from one call, and where the answer is known, the known answer."""

import pytest
import torch

from bndl_hf import BNDLForImageClassification
from bndl_hf.interpretability import class_maps, factor_maps, gradcam
from interpretability.quadrants import quadrant, quadrants_model, striped_images
from model.architectures import SUPPORTED
from model.test_architectures import classifier_of


def model_of(model_type):
    return BNDLForImageClassification.from_backbone_pretrained(classifier_of(SUPPORTED[model_type]), num_labels=4)


@pytest.mark.parametrize(
    "model_type",
    ["vit", "deit", "swin", "dinov2", "dinov2_with_registers", "convnext", "resnet", "pvt", "cvt", "hiera"],
)
def test_one_call_gives_maps_of_the_image_size_between_zero_and_one(model_type):
    size = (64, 32) if model_type in ("resnet", "cvt") else (32, 32)  # where any size will do, no square
    model, images = model_of(model_type), torch.randn(2, 3, *size)
    for cam in (gradcam(model, images), gradcam(model, images, target=1), gradcam(model, images, factor=3)):
        assert cam.shape == (2, *images.shape[-2:])
        assert cam.isfinite().all()
        assert ((cam >= 0) & (cam <= 1)).all()
        for image in cam:
            assert image.max() in (0.0, 1.0)
    k = factor_maps(model, images, top_k=1).factors[:, 0]
    cams = torch.stack([gradcam(model, images, factor=k), gradcam(model, images)])
    assert (cams.amax(dim=(-2, -1)) == 1).any()
    for maps in (factor_maps(model, images).maps[:, 0], class_maps(model, images).maps):  # and so do the others
        assert maps.shape == cams[0].shape


@pytest.mark.parametrize("f", range(4))
def test_a_factor_that_sees_one_quadrant_lights_up_there_and_nowhere_else(f):
    images, _ = striped_images()
    cam, maps = gradcam(quadrants_model(), images, factor=f), factor_maps(quadrants_model(), images, factors=f)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    rows, columns = quadrant(f, 32)
    inside[rows, columns] = True
    for b in range(3):
        assert inside.flatten()[cam[b].argmax()]
        assert cam[b][inside].sum() > 0.9 * cam[b].sum()  # bilinear: half a block lies outside
    # The one feature this factor reads is the activation itself: Grad-CAM is the exact map, up to its scale.
    exact = torch.nn.functional.interpolate(maps.evidence, size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(cam, exact / exact.amax(dim=(-2, -1), keepdim=True), rtol=1e-4, atol=1e-5)


def test_a_class_lights_up_where_its_heaviest_factor_sees_something():
    images, _ = striped_images()
    cam = gradcam(quadrants_model(), images, target=torch.tensor([0, 1, 1]))
    for b, f in enumerate([0, 3, 3]):
        rows, columns = quadrant(f, 32)
        assert cam[b][rows, columns].max() == 1


def test_a_vit_is_read_where_its_last_block_reads_because_the_patches_it_writes_go_nowhere():
    model, images = model_of("vit"), torch.randn(2, 3, 32, 32)
    k = factor_maps(model, images, top_k=1).factors[0, 0].item()
    with torch.enable_grad():
        output = model._run_backbone(images, output_hidden_states=True)
        score = model.decision_layer.score_posterior(output.logits).mean[:, k].sum()
        before, after = torch.autograd.grad(score, output.hidden_states[-2:])
    assert not after[:, 1:].any()
    weights = before[:, 1:].mean(dim=1)  # [B, D]
    expected = torch.relu(torch.einsum("bd,bpd->bp", weights, output.hidden_states[-2][:, 1:])).view(2, 1, 2, 2)
    expected = torch.nn.functional.interpolate(expected, size=(32, 32), mode="bilinear")[:, 0]
    expected = expected / expected.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(gradcam(model, images, factor=k), expected.detach(), rtol=1e-4, atol=1e-5)


def test_without_a_gradient_the_map_is_zero():
    cam = gradcam(quadrants_model(score_threshold=2.0), striped_images()[0], factor=0)
    assert cam.shape == (3, 32, 32)
    assert not cam.any()


def test_each_image_has_a_map_of_its_own():
    images, _ = striped_images()
    model = quadrants_model()
    together = gradcam(model, images, factor=torch.tensor([0, 1, 2]))
    for b in range(3):
        torch.testing.assert_close(together[b], gradcam(model, images[b : b + 1], factor=b)[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_model_gradients_and_images_are_left_as_they_were(mode):
    model, images = model_of("resnet"), torch.randn(2, 3, 64, 64)
    model.freeze_backbone()
    model.train()
    with mode():
        cam = gradcam(model, images)
    assert (cam.amax(dim=(-2, -1)) == 1).all()
    assert not cam.requires_grad
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.backbone.training


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": 0, "factor": 1}, "target=0 and factor=1: Grad-CAM explains a class or a factor; pass one"),
        ({"target": 5}, r"target=5 must hold classes between 0 and 1"),
        ({"factor": 4}, "Factor 4 is out of range"),
        ({"factor": torch.tensor([0, 1])}, r"3 images need"),
        (
            {"factor": torch.zeros(3, 2, dtype=torch.long)},
            r"factor has shape \[3, 2\]; pass one, or one for each image",
        ),
    ],
)
def test_choices_that_do_not_fit_are_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        gradcam(quadrants_model(), striped_images()[0], **arguments)


def test_a_backbone_without_positions_and_a_layer_without_a_backbone_are_errors():
    with pytest.raises(ValueError, match="makes no map of two positions or more"):
        gradcam(model_of("perceiver"), torch.zeros(1, 3, 8, 8))
    with pytest.raises(TypeError, match="A BNDLDecisionLayer reads features"):
        gradcam(quadrants_model().decision_layer, torch.zeros(1, 4))


@pytest.mark.parametrize("explain", [class_maps, factor_maps, gradcam])
def test_explainers_work_in_inference_mode_and_with_int32(explain):
    model = BNDLForImageClassification.from_backbone_pretrained(classifier_of(SUPPORTED["cvt"]), num_labels=3).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = explain(model, images, target=torch.tensor([0, 2]))
    with torch.inference_mode():
        found = explain(model, images, target=torch.tensor([0, 2], dtype=torch.int32))
    expected, found = (getattr(one, "maps", one) for one in (expected, found))
    torch.testing.assert_close(found, expected)
