"""Parts add up to scores and logits; a factor that sees one quadrant has all its evidence there; what is approximate
says so."""

import pytest
import torch

from bndl_hf import BNDLForImageClassification, BNDLModel
from bndl_hf.interpretability import class_maps, factor_maps, prune
from bndl_hf.interpretability.maps.feature_trace import FeatureTrace, trace_features
from bndl_hf.interpretability.maps.position_features import _average, position_features
from bndl_hf.model.backbone_inputs import example_inputs
from interpretability.quadrants import GRID, LOADINGS, quadrant, quadrants_model, striped_images
from model.architectures import SUPPORTED
from model.test_architectures import classifier_of

# What does not average a map: these read the CLS token, and Perceiver and SigLIP 2 have no map.
CLS_TOKEN = ("vit", "vit_msn", "deit", "pvt", "cvt")
NO_MAP = ("perceiver", "siglip2")
AVERAGED = [name for name in SUPPORTED if name not in CLS_TOKEN + NO_MAP]
# Larger images than those of the table, which leave one position.
LARGER = {"mobilenet_v1": 96, "mobilenet_v2": 96, "levit": 128}


def model_of(model_type, **bndl_config_kwargs):
    """A tiny BNDL model whose features depend on the image and are of the size of one, and two images for it."""
    size = LARGER.get(model_type)
    classifier = classifier_of(SUPPORTED[model_type], **({"image_size": size} if size else {}))
    torch.manual_seed(1)
    for module in classifier.modules():  # some initialisations are so small that nothing of the image arrives
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    model = BNDLForImageClassification.from_backbone_pretrained(classifier, num_labels=4, **bndl_config_kwargs)
    inputs = example_inputs(classifier, batch_size=2)
    with torch.no_grad():
        model.decision_layer.set_feature_scale(1 / model.extract_features(**inputs).std().clamp_min(1e-12))
    return model, inputs["pixel_values"]


# ---- exact ----


@pytest.mark.parametrize("model_type", AVERAGED)
def test_parts_of_averaged_features_add_up_to_scores_and_logits(model_type):
    model, pixel_values = model_of(model_type)
    factors, classes = factor_maps(model, pixel_values), class_maps(model, pixel_values, target=2)
    with torch.no_grad():
        output = model(pixel_values)
    scores = output.factor_scores.gather(1, factors.factors)
    assert (scores > 0).any()
    assert factors.exact
    assert classes.exact
    assert factors.method == classes.method == "pooled_average"
    if "dinov2" in model_type:  # the CLS token's half belongs to no position
        assert (factors.unplaced.abs() > 0.01 * scores).any()
    else:
        torch.testing.assert_close(factors.unplaced, torch.zeros_like(scores), rtol=0, atol=1e-5 * scores.max().item())
        torch.testing.assert_close(factors.evidence.sum(dim=(-2, -1)), scores, rtol=1e-5, atol=1e-7)
        assert factors.evidence[0, 0].std() > 0
    torch.testing.assert_close(factors.evidence.sum(dim=(-2, -1)) + factors.unplaced, scores, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(factors.maps.sum(dim=(-2, -1)), factors.evidence.sum(dim=(-2, -1)), rtol=1e-5, atol=1e-6)
    total = classes.evidence.sum(dim=(-2, -1)) + classes.unplaced + model.decision_layer.bias[2]
    torch.testing.assert_close(total, output.logits_mean[:, 2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(classes.total, output.logits_mean[:, 2], rtol=1e-5, atol=1e-6)
    assert factors.maps.shape == (2, 5, *pixel_values.shape[-2:])
    assert classes.maps.shape == (2, *pixel_values.shape[-2:])


def test_parts_of_powers_of_features_add_up_too():
    model, pixel_values = model_of("resnet", feature_power=0.7)
    factors = factor_maps(model, pixel_values)
    with torch.no_grad():
        scores = model(pixel_values).factor_scores.gather(1, factors.factors)
    assert factors.exact
    assert (scores > 0).any()
    torch.testing.assert_close(factors.evidence.sum(dim=(-2, -1)), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", ["resnet", "convnext", "dinov2", "levit"])
def test_each_part_is_that_of_a_naive_sum_over_features(model_type):
    # ConvNeXt: at the mean and variance of the pooled features; LeViT: after a BatchNorm; DINOv2: its patches' half.
    model, pixel_values = model_of(model_type, score_threshold=0.1)
    layer, maps = model.decision_layer, None
    with torch.no_grad():
        layer.feature_scale *= 0.5 + torch.rand(layer.feature_scale.shape)
        maps = factor_maps(model, pixel_values, factors=[0, 9])
        found = position_features(trace_features(model, pixel_values))
        weight, bias, h = layer.projection.weight.double(), layer.projection.bias.double(), found.features.double()
        mean, P = found.values.double().mean(dim=1), found.grid.num_positions
        for b in range(2):
            for column, k in enumerate([0, 9]):
                start, active = found.columns.start, maps.scores[b, column] > 0
                constant = bias[k].item() - 0.1
                for d in range(mean.shape[1]):
                    w = weight[k, start + d] * layer.feature_scale[start + d]
                    constant += (w * (h[b, start + d] - found.scale[b, d] * mean[b, d])).item()
                for p in range(0, P, max(1, P // 4)):
                    part = constant
                    for d in range(mean.shape[1]):
                        w = weight[k, start + d] * layer.feature_scale[start + d]
                        part += (w * found.scale[b, d] * found.values[b, p, d]).item()
                    expected = part / P if active else 0.0
                    assert maps.evidence[b, column].flatten()[p].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("model_type", ["resnet", "swin", "focalnet", "hiera", "convnext", "segformer", "clip"])
@pytest.mark.parametrize("corner", [(0, -1), (-1, 0)], ids=["top right", "bottom left"])
def test_another_corner_of_the_image_changes_the_evidence_of_that_corner_most(model_type, corner):
    # A transposed, mirrored or unrolled grid would put it elsewhere.
    model, pixel_values = model_of(model_type)
    before = factor_maps(model, pixel_values)
    changed, quarter = pixel_values.clone(), pixel_values.shape[-1] // 4
    rows, columns = (slice(0, quarter) if side == 0 else slice(-quarter, None) for side in corner)
    changed[..., rows, columns] += 2
    after = factor_maps(model, changed, factors=before.factors)
    change = (after.evidence - before.evidence).abs().sum(dim=(0, 1))
    half = change.shape[0] // 2
    quarters = change.unflatten(1, (2, half)).unflatten(0, (2, half)).sum(dim=(1, 3))  # [2, 2]
    assert quarters[corner] == quarters.max()


@pytest.mark.parametrize("f", range(4))
def test_a_factor_that_sees_one_quadrant_has_exactly_the_edges_of_that_quadrant(f):
    images, strength = striped_images()
    maps = factor_maps(quadrants_model(), images, factors=f)
    expected = torch.zeros(3, GRID, GRID)
    rows, columns = quadrant(f, GRID)
    expected[:, rows, columns] = strength[:, rows, columns] / GRID**2
    assert maps.exact
    torch.testing.assert_close(maps.evidence[:, 0], expected, rtol=1e-5, atol=1e-7)


def test_a_class_map_is_the_sum_of_its_factors_weighted_by_their_loadings():
    images, strength = striped_images()
    maps = class_maps(quadrants_model(bias="none"), images, target=torch.tensor([0, 1, 1]))
    expected = torch.zeros(3, GRID, GRID)
    for b, c in enumerate([0, 1, 1]):
        for f in range(4):
            rows, columns = quadrant(f, GRID)
            expected[b, rows, columns] = LOADINGS[f, c] * strength[b, rows, columns] / GRID**2
    torch.testing.assert_close(maps.evidence, expected, rtol=1e-5, atol=1e-6)
    assert maps.target.tolist() == [0, 1, 1]


def test_thresholds_are_spread_evenly_and_a_silent_factor_has_no_parts():
    images, strength = striped_images()
    mean = strength[:, :4, :4].mean() / 4  # feature 0, averaged over the images
    low = factor_maps(quadrants_model(), images, factors=0)
    shifted = factor_maps(quadrants_model(score_threshold=0.5 * mean.item()), images, factors=0)
    expected = low.evidence - 0.5 * mean / GRID**2
    torch.testing.assert_close(shifted.evidence, expected, rtol=1e-5, atol=1e-6)
    silent = factor_maps(quadrants_model(score_threshold=2.0), images, factors=0)
    assert not silent.scores.any()
    assert not silent.evidence.any()
    assert silent.exact


def test_factors_may_be_chosen_by_number_by_image_or_by_class():
    images, _ = striped_images()
    model = quadrants_model()
    assert factor_maps(model, images, factors=[3, 1]).factors.tolist() == [[3, 1]] * 3
    by_image = factor_maps(model, images, factors=torch.tensor([[0], [1], [2]]))
    assert by_image.factors.tolist() == [[0], [1], [2]]
    torch.testing.assert_close(by_image.evidence[1], factor_maps(model, images[1:2], factors=1).evidence[0])
    evidence = model.explain(images, target=1, top_k=2)
    assert torch.equal(factor_maps(model, images, target=1, top_k=2).factors, evidence.factors)


def test_the_model_without_classes_has_the_same_maps():
    model, pixel_values = model_of("resnet")
    features = BNDLModel(model.config).eval()
    features.load_state_dict(model.state_dict())
    assert torch.equal(factor_maps(features, pixel_values).maps, factor_maps(model, pixel_values).maps)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_backbones_are_recognised_and_their_parts_still_add_up(autocast):
    model, pixel_values = model_of("convnext")
    if not autocast:
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        maps = factor_maps(model, pixel_values)
    assert maps.exact
    assert maps.evidence.dtype == torch.float32
    torch.testing.assert_close(maps.evidence.sum(dim=(-2, -1)), maps.scores, rtol=1e-5, atol=1e-6)


def test_one_backbone_pass_leaves_mode_hooks_and_gradients_as_they_were():
    model, pixel_values = model_of("resnet")
    model.train()
    passes = []
    counter = model.backbone.register_forward_pre_hook(lambda *_: passes.append(1))
    maps = factor_maps(model, pixel_values)
    counter.remove()
    assert passes == [1]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert not maps.maps.requires_grad
    assert torch.equal(maps.maps, factor_maps(model.eval(), pixel_values).maps)  # its statistics did not move


# ---- approximate ----


@pytest.mark.parametrize("model_type", CLS_TOKEN)
def test_features_that_are_no_average_are_said_to_be_approximated(model_type):
    model, pixel_values = model_of(model_type)
    factors, classes = factor_maps(model, pixel_values), class_maps(model, pixel_values)
    assert not factors.exact
    assert not classes.exact
    assert factors.method == classes.method == "grad_cam"
    assert factors.maps.shape == (2, 5, *pixel_values.shape[-2:])
    assert factors.evidence.abs().sum() > 0
    torch.testing.assert_close(factors.evidence.sum(dim=(-2, -1)) + factors.unplaced, factors.scores)


def test_position_wise_evidence_is_what_the_layer_says_of_each_position():
    model, pixel_values = model_of("resnet", projection="two_layer")
    maps = factor_maps(model, pixel_values, factors=list(range(model.config.num_factors)))
    with torch.no_grad():
        positions = model.backbone.resnet(pixel_values).last_hidden_state.flatten(2)  # [B, D, P]
        P = positions.shape[-1]
        for p in range(P):
            expected = model.decision_layer.score_posterior(positions[..., p]).mean / P
            torch.testing.assert_close(maps.evidence.flatten(2)[..., p], expected, rtol=1e-4, atol=1e-6)


def test_a_projection_of_two_layers_is_not_linear_and_its_maps_are_approximate():
    model, pixel_values = model_of("resnet", projection="two_layer")
    maps = factor_maps(model, pixel_values)
    assert (maps.exact, maps.method) == (False, "position_wise")
    one_position = torch.ones(2, 3, 64, 64)  # all positions but those at the edges are alike
    assert factor_maps(model, one_position).evidence.isfinite().all()


def test_an_average_that_was_changed_afterwards_is_not_taken_for_one():
    model = quadrants_model()
    model.backbone.classifier.register_forward_hook(lambda *given: given[-1] * 1.01)
    maps = factor_maps(model, striped_images()[0], factors=0)
    assert (maps.exact, maps.method) == (False, "grad_cam")


# ---- errors ----


@pytest.mark.parametrize("explain", [factor_maps, class_maps])
def test_backbones_and_images_without_positions_are_errors(explain):
    perceiver, pixel_values = model_of("perceiver")
    with pytest.raises(ValueError, match="makes no map of two positions or more of an image of 8x8 pixels"):
        explain(perceiver, pixel_values)
    mobilenet, _ = model_of("mobilenet_v1")
    assert explain(mobilenet, torch.randn(1, 3, 32, 32)).method == "grad_cam"  # one position at the end, more before
    with pytest.raises(ValueError, match="pass larger images if it halves them until one position is left"):
        explain(mobilenet, torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"patches cut out beforehand \(SigLIP 2\) has none"):
        explain(*model_of("siglip2"))
    with pytest.raises(TypeError, match="A BNDLDecisionLayer reads features, which have no place in an image"):
        explain(perceiver.decision_layer, torch.zeros(1, 16))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"factors": 4}, "Factor 4 is out of range; this decision layer has 4 factors, 0 to 3"),
        ({"factors": [0, -1]}, "Factor -1 is out of range"),
        ({"factors": 0.5}, "0.5 is not a choice of factors; pass one number"),
        ({"factors": []}, r"\[\] is not a choice of factors"),
        ({"factors": "red"}, "'red' is not a choice of factors"),
        ({"factors": [[0], [1]]}, r"factors have shape \[2, 1\]; 3 images need \[3, k\]"),
        ({"factors": 0, "target": 1}, "a target only chooses among factors; pass one"),
        ({"target": 2}, r"target=2 must hold classes between 0 and 1"),
        ({"top_k": 5}, "top_k=5 must lie between 1 and the number of factors, 4"),
    ],
)
def test_choices_out_of_range_are_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        factor_maps(quadrants_model(), striped_images()[0], **{"top_k": 2, **arguments})


@pytest.mark.parametrize("preset", ["default", "released", "released_resnet"])
def test_maps_of_a_pruned_model_are_those_of_the_whole(preset):
    classifier = classifier_of(SUPPORTED["resnet"])
    model = BNDLForImageClassification.from_backbone_pretrained(classifier, num_labels=3, preset=preset).eval()
    layer = model.decision_layer
    layer.raw_loadings.data.uniform_(0.1, 1)
    layer.zero_loadings((torch.arange(len(layer.raw_loadings)) % 3 == 0)[:, None].expand_as(layer.raw_loadings))
    smaller = prune(model)
    assert smaller.config.num_factors < model.config.num_factors
    assert (smaller.decision_layer.selection is None) == (preset == "default")
    images = torch.randn(2, 3, 32, 32)
    for of_model, of_smaller in (
        (class_maps(model, images), class_maps(smaller, images)),
        (factor_maps(model, images, top_k=3), factor_maps(smaller, images, top_k=3)),
    ):
        assert of_smaller.exact
        torch.testing.assert_close(of_smaller.maps, of_model.maps, rtol=1e-4, atol=1e-6)


def test_a_weak_channel_that_is_no_average_is_noticed_beside_a_strong_one():
    values = torch.rand(4, 9, 8)
    values[..., 0] *= 3000
    features = values.mean(dim=1)
    trace = FeatureTrace(
        features=features,
        image_size=(3, 3),
        maps=[],
        norms=[],
        pixel_values=torch.zeros(len(features), 3, 3, 3),
        backbone_inputs={},
    )
    assert _average(trace, values) is not None
    features[:, 3] *= 1.01
    assert _average(trace, values) is None
