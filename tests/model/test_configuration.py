"""BNDLConfig: presets, checks where a value enters, and the way to a file and back."""

import copy
import json
import math
import re

import pytest
import torch
from transformers import AutoConfig, ResNetConfig, ViTConfig

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.model.configuration_bndl import _OWN_FIELDS
from bndl_hf.model.presets import PRESETS
from model.tiny import tiny_backbone_config, tiny_model


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_was_not_given_and_nothing_else(preset):
    config = BNDLConfig(preset=preset, feature_dim=8, num_labels=3)
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert config.num_factors == (16 if preset in ("default", "interpretable") else 8)
    departed = BNDLConfig(preset=preset, feature_dim=8, num_labels=3, kl_local_weight=0.25, bias="none")
    assert (departed.kl_local_weight, departed.bias) == (0.25, "none")
    assert departed.objective == PRESETS[preset]["objective"]


def test_the_interpretable_preset_keeps_ten_loadings_a_class():
    for feature_dim in (8, 64, 1280):
        config = BNDLConfig(preset="interpretable", feature_dim=feature_dim, num_labels=10)
        assert config.num_factors == BNDLConfig(feature_dim=feature_dim, num_labels=10).num_factors
        assert config.loading_density * config.num_factors == pytest.approx(10)
        assert BNDLConfig.from_dict(config.to_dict()).loading_density == config.loading_density
    assert BNDLConfig(preset="interpretable", feature_dim=4, num_labels=10).loading_density == 1  # eight factors in all
    given = BNDLConfig(preset="interpretable", feature_dim=64, num_labels=10, num_factors=40, loading_density=0.1)
    assert (given.num_factors, given.loading_density) == (40, 0.1)


def test_the_released_presets_are_the_released_conventions():
    vit = BNDLConfig(preset="released", feature_dim=8)
    assert (vit.score_threshold, vit.loading_threshold, vit.projection) == (0.0, 0.02, "linear")
    assert (vit.score_concentration, vit.score_concentration_input) == ("per_image", "score_mean")
    assert (vit.kl_local_weight, vit.kl_global_weight, vit.kl_global_scaling) == (1e-6, 1e-6, "per_factor")
    assert (vit.bias, vit.loading_concentration, vit.objective) == ("non_negative", "per_factor", "sampled")
    resnet = BNDLConfig(preset="released_resnet", feature_dim=8)
    assert (resnet.score_threshold, resnet.loading_threshold, resnet.projection) == (1.0, 0.0, "none")
    assert (resnet.score_concentration_input, resnet.kl_global_weight) == ("features", 0.0)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_round_trip_through_a_folder_keeps_every_field(tmp_path, kind):
    config = BNDLConfig.from_backbone_config(
        tiny_backbone_config(kind),
        num_labels=3,
        preset="released",
        num_factors=11,
        loading_threshold=0.07,
        num_training_images=123,
        certainty_threshold=0.01,
        id2label={0: "ant", 1: "bee", 2: "cat"},
        label2id={"ant": 0, "bee": 1, "cat": 2},
    )
    config.save_pretrained(tmp_path)
    for loaded in (BNDLConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is BNDLConfig
        before, after = config.to_dict(), loaded.to_dict()
        del before["_name_or_path"], after["_name_or_path"]  # where it was loaded from, not saved
        assert after == before
        assert type(loaded.backbone_config) is {"vit": ViTConfig, "resnet": ResNetConfig}[kind]
        assert loaded.backbone_config.to_dict() == config.backbone_config.to_dict()
        assert loaded.id2label == {0: "ant", 1: "bee", 2: "cat"}


def test_every_preset_field_is_saved_so_that_a_changed_default_changes_no_checkpoint(tmp_path):
    BNDLConfig(feature_dim=8, num_labels=3).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for name, value in PRESETS["default"].items():
        assert saved[name] == value, name


def test_labels_come_from_the_backbone_unless_given():
    backbone = tiny_backbone_config("vit", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert BNDLConfig.from_backbone_config(backbone).id2label == {0: "no", 1: "yes"}
    assert BNDLConfig.from_backbone_config(backbone, num_labels=4).num_labels == 4
    named = BNDLConfig.from_backbone_config(backbone, id2label={0: "a", 1: "b", 2: "c"})
    assert (named.num_labels, named.id2label[2]) == (3, "c")


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (
            {"preset": "best"},
            "preset='best' is unknown; presets are 'default', 'released', 'released_resnet', 'interpretable'",
        ),
        ({"objective": "elbo"}, "objective='elbo' is unknown; choose one of exact, sampled"),
        ({"projection": "mlp"}, "projection='mlp' is unknown; choose one of none, linear, two_layer"),
        ({"score_concentration": "per_entry"}, "choose one of per_image, per_factor"),
        ({"score_concentration_input": "h"}, "choose one of features, score_mean, pre_activation"),
        ({"score_concentration": "per_image"}, "pass score_concentration_input='features' or 'score_mean' with it"),
        ({"loading_concentration": "per_image"}, "choose one of per_factor, per_entry"),
        ({"kl_global_scaling": "N"}, "choose one of per_image, per_factor"),
        ({"bias": "relu"}, "choose one of free, non_negative, none"),
        ({"loading_init": "zeros"}, "choose one of alive, linear"),
        ({"feature_noise": -0.1}, "feature_noise=-0.1 must be zero or above"),
        ({"score_prior_concentration": 0.0}, "score_prior_concentration=0.0 must be above zero"),
        ({"score_prior_rate": -1.0}, "score_prior_rate=-1.0 must be above zero"),
        ({"loading_prior_concentration": 0.0}, "loading_prior_concentration=0.0 must be above zero"),
        ({"loading_prior_rate": float("nan")}, "loading_prior_rate=nan must be above zero"),
        ({"score_scale_floor": 0.0}, "score_scale_floor=0.0 must be above zero"),
        ({"loading_scale_floor": 0.0}, "loading_scale_floor=0.0 must be above zero"),
        ({"score_threshold": -0.1}, "score_threshold=-0.1 must be zero or above"),
        ({"loading_threshold": -0.1}, "loading_threshold=-0.1 must be zero or above"),
        ({"min_concentration": -1.0}, "min_concentration=-1.0 must be zero or above"),
        ({"kl_local_weight": -1.0}, "kl_local_weight=-1.0 must be zero or above"),
        ({"kl_global_weight": -1.0}, "kl_global_weight=-1.0 must be zero or above"),
        ({"min_concentration": 5.0, "max_concentration": 5.0}, "max_concentration=5.0 leaves no room above"),
        ({"num_factors": 0}, "num_factors=0 must be 1 or more"),
        ({"projection_dim": 0}, "projection_dim=0 must be 1 or more"),
        ({"num_training_images": 0}, "num_training_images=0 must be 1 or more"),
        ({"projection": "none", "num_factors": 9}, "num_factors=9 differs from feature_dim=8, which projection='none'"),
        ({"projection": "none", "num_factors": 5, "num_projected": 9}, "num_projected=9 differs from feature_dim=8"),
        ({"num_factors": 5, "num_projected": 4}, "num_projected=4 is less than num_factors=5, which are selected from"),
        ({"num_samples": 1}, "num_samples=1: a t-test needs 2 draws or more"),
        ({"certainty_threshold": 0.0}, "certainty_threshold=0.0 must lie between 0 and 1"),
        ({"certainty_threshold": 1.0}, "certainty_threshold=1.0 must lie between 0 and 1"),
        ({"backbone_config": {"model_type": "vitt"}}, "model_type='vitt', which this transformers does not know"),
        ({"backbone_config": {"hidden_size": 3}}, "model_type=None, which this transformers does not know"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_says_what_does(kwargs, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        BNDLConfig(**{"feature_dim": 8, "num_labels": 3, **kwargs})


def test_a_width_of_zero_is_an_error():
    with pytest.raises(ValueError, match="feature_dim=0 must be 1 or more"):
        BNDLConfig(feature_dim=0)


def test_a_saved_configuration_does_not_change_its_preset_in_name_only(tmp_path):
    BNDLConfig(feature_dim=4, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="preset='released', but this configuration was made with 'default'"):
        BNDLConfig.from_pretrained(tmp_path, preset="released")
    assert BNDLConfig.from_pretrained(tmp_path, preset="default").preset == "default"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_labels": 1}, "num_labels=1: a decision is between 2 classes or more"),
        ({"score_threshold": "a"}, "score_threshold='a' must be a number"),
        ({"num_factors": 2.5}, "num_factors=2.5 must be a whole number"),
    ],
)
def test_values_of_the_wrong_kind_are_named(values, says):
    with pytest.raises(ValueError, match=says):
        BNDLConfig(**{"feature_dim": 4, "num_labels": 3, **values})


ODD = (True, None, "x", [], [1], {}, {"a": 1}, -1, 0, 1.5, 10**12, 10**30, math.nan, math.inf)


@pytest.mark.parametrize("name", sorted({*_OWN_FIELDS, "id2label", "label2id", "num_labels", "dtype", "torch_dtype"}))
def test_a_file_with_a_value_of_another_type_or_size_is_read_or_refused_in_words(name):
    good = BNDLConfig.from_backbone_config(tiny_backbone_config("resnet"), num_labels=3).to_dict()
    for value in ODD:
        for make in (BNDLConfig.from_dict, lambda values: BNDLConfig(**values)):
            try:
                config = make(copy.deepcopy({**good, name: value}))
            except ValueError as error:
                assert len(str(error)) > 20  # noqa: PT017 - either is fine
            else:
                assert BNDLConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
                repr(config)


@pytest.mark.parametrize("name", ["attribute_map", "quantization_config", "use_return_dict"])
def test_an_entry_of_transformers_with_a_value_of_another_type_is_refused_in_words(name):
    with pytest.raises(ValueError, match="The configuration holds a value that does not fit its entry"):
        BNDLConfig.from_dict({**BNDLConfig(feature_dim=4).to_dict(), name: 5})


def test_a_saved_model_whose_file_was_edited_loads_and_predicts_or_is_refused_in_words(tmp_path):
    tiny_model("resnet").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved, images = json.loads(path.read_text()), torch.randn(2, 3, 30, 30)
    for name in sorted(_OWN_FIELDS):
        for value in (None, True, "x", [], {}, -1, 0, math.inf, math.nan, 10**30):
            path.write_text(json.dumps({**saved, name: value}))
            try:
                probs = BNDLForImageClassification.from_pretrained(tmp_path).predict(images).probs
            except ValueError as error:
                assert len(str(error)) > 20, (name, value)  # noqa: PT017 - either is fine
            else:
                torch.testing.assert_close(probs.sum(-1), torch.ones(2))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_factors": True}, "num_factors=True must be a whole number"),
        ({"num_samples": None}, "num_samples=None must be a whole number"),
        ({"feature_dim": 10**12}, "feature_dim=1000000000000 must be 1 or more, and at most 1,000,000"),
        ({"head_name": 5}, "head_name=5 must be the dotted name of a layer"),
        ({"backbone_config": "resnet"}, "backbone_config='resnet' must be the configuration of an image classifier"),
        ({"backbone_config": {"model_type": ["resnet"]}}, "model_type=['resnet'], which this transformers does not"),
        (
            {"backbone_config": {"model_type": "resnet", "depths": "deep"}},
            "backbone_config does not describe a resnet model",
        ),
        ({"preset": ["default"]}, "preset=['default'] must be the name of a preset"),
        ({"normalize_features": "no"}, "normalize_features='no' must be true or false"),
        ({"loading_density": True}, "loading_density=True must be a number"),
        ({"score_threshold": math.inf}, "score_threshold=inf must be finite, at most 1e+18"),
        ({"dtype": "evil"}, "dtype='evil' is not a torch dtype"),
        ({"num_labels": 10**9}, "num_labels=1000000000 must be a whole number from 2 to 1,000,000"),
        ({"id2label": {"a": "cat", "b": "dog"}}, "id2label has the keys ['a', 'b']; they must be the numbers 0 to 1"),
        ({"id2label": {0: "cat", 2: "dog"}}, "id2label has the keys [0, 2]; they must be the numbers 0 to 1"),
        ({"id2label": 5}, "id2label=5 must be a list of class names"),
        ({"conformal": "raps"}, "A conformal predictor is stored as a mapping of its entries, not as 'raps'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_fits(values, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        BNDLConfig(**{"feature_dim": 4, **values})


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], {"0": "cat", "1": "dog", "2": "owl"}])
def test_class_names_may_be_a_list_or_have_numbers_as_text(labels):
    config = BNDLConfig(feature_dim=4, id2label=labels)
    assert config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    backbone = tiny_backbone_config("resnet")
    assert BNDLConfig.from_backbone_config(backbone, id2label=labels).label2id == config.label2id


def test_a_file_that_is_not_an_object_and_a_version_that_is_not_a_number_are_errors(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"holds \[\]; a configuration is a JSON object"):
        BNDLConfig.from_pretrained(tmp_path)
    for version in ("x", None, 0, True):
        with pytest.raises(ValueError, match=f"format_version={version!r} must be a whole number from 1 to 3"):
            BNDLConfig.from_dict({**BNDLConfig(feature_dim=4).to_dict(), "format_version": version})
