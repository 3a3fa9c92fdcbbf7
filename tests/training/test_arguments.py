"""What `BNDLTrainingArguments` refuses, in which words, and what it is on the command line."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from bndl_hf import BNDLTrainingArguments

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kl_warmup_ratio": -0.1}, "kl_warmup_ratio=-0.1 is a share of the steps; it must lie in [0, 1]."),
        ({"kl_warmup_ratio": 1.5}, "kl_warmup_ratio=1.5 is a share of the steps; it must lie in [0, 1]."),
        ({"kl_local_weight": -1.0}, "kl_local_weight=-1.0 must be zero or above."),
        ({"kl_local_weight": NAN}, "kl_local_weight=nan must be zero or above."),
        ({"kl_global_weight": -2.0}, "kl_global_weight=-2.0 must be zero or above."),
        ({"decision_layer_learning_rate": -1e-3}, "decision_layer_learning_rate=-0.001 must be zero or above."),
        ({"num_eval_samples": 1}, "num_eval_samples=1: a t-test needs 2 draws or more; 0 draws none."),
        ({"num_eval_samples": -3}, "num_eval_samples=-3: a t-test needs 2 draws or more; 0 draws none."),
        (
            {"cache_features": True},
            "cache_features=True needs freeze_backbone=True: features of a moving backbone go stale.",
        ),
        ({"feature_batch_size": 0}, "feature_batch_size=0 images at a time; pass 1 or more."),
        ({"num_train_epochs": 0}, "num_train_epochs=0 trains nothing; pass a number above 0."),
        (
            {"label_smoothing_factor": 1.0},
            "label_smoothing_factor=1.0 is the share of a label that is spread over all classes; it must lie in "
            "[0, 1).",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
        BNDLTrainingArguments(output_dir=str(tmp_path), **values)


@pytest.mark.parametrize(
    "values",
    [
        {"kl_warmup_ratio": 0.0},
        {"kl_warmup_ratio": 1.0},
        {"kl_local_weight": 0.0, "kl_global_weight": 0.0},
        {"num_eval_samples": 2},
        {"freeze_backbone": True, "cache_features": True},
        {"decision_layer_learning_rate": None},
    ],
)
def test_the_edges_of_the_allowed_are_allowed(values: dict[str, Any], tmp_path: Path) -> None:
    arguments = BNDLTrainingArguments(output_dir=str(tmp_path), **values)
    assert {name: getattr(arguments, name) for name in values} == values


def test_every_field_is_a_documented_flag(tmp_path: Path) -> None:
    parser = HfArgumentParser(BNDLTrainingArguments)
    flags = "--kl_warmup_ratio .5 --kl_local_weight 0.1 --decision_layer_learning_rate 0.3 --num_eval_samples 20"
    (arguments,) = parser.parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--freeze_backbone", "--cache_features", *flags.split()]
    )
    assert (arguments.kl_warmup_ratio, arguments.kl_local_weight, arguments.num_eval_samples) == (0.5, 0.1, 20)
    assert arguments.decision_layer_learning_rate == 0.3
    assert (arguments.freeze_backbone, arguments.cache_features) == (True, True)
    assert arguments.kl_global_weight is None
    # "%" and the like in a help text would fail here.
    assert "the model configuration's" in parser.format_help()


def test_image_columns_are_kept_by_default(tmp_path: Path) -> None:
    assert BNDLTrainingArguments(output_dir=str(tmp_path)).remove_unused_columns is False


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("accuracy", True),
        ("eval_pavpu", True),
        ("error_detection_auroc", True),
        ("loss", False),
        ("nll", False),
        ("eval_negative_log_likelihood", False),
        ("expected_calibration_error", False),
        ("brier_score", False),
        ("area_under_risk_coverage", False),
    ],
)
def test_the_best_model_is_the_one_with_less_of_a_measure_of_error(metric: str, greater: bool, tmp_path: Path) -> None:
    assert BNDLTrainingArguments(str(tmp_path), metric_for_best_model=metric).greater_is_better is greater
    assert BNDLTrainingArguments(str(tmp_path), metric_for_best_model=metric, greater_is_better=True).greater_is_better


@pytest.mark.parametrize("given", ["[1, 9]", "1,9", [1, 9], (1.0, 9.0)])
def test_class_weights_are_read_from_a_command_line_or_python(given: Any, tmp_path: Path) -> None:
    assert BNDLTrainingArguments(str(tmp_path), class_weights=given).class_weights == [1.0, 9.0]


@pytest.mark.parametrize("given", ["even", "[]", "[1, -1]", "[1, NaN]", [0, 0], {"cat": 2}, "[[1], [2]]"])
def test_class_weights_that_are_none_are_named(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither 'balanced' nor a list of numbers >= 0, one for each class"):
        BNDLTrainingArguments(str(tmp_path), class_weights=given)


@pytest.mark.parametrize(
    "values", [{"class_weights": "balanced"}, {"train_sampling_strategy": "sequential"}], ids=["weights", "order"]
)
def test_a_weighted_sampler_does_not_go_with_what_it_contradicts(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass one of them"):
        BNDLTrainingArguments(str(tmp_path), weighted_sampler=True, **values)


def test_a_frozen_backbone_leaves_no_unused_weight_to_look_for(tmp_path: Path) -> None:
    assert BNDLTrainingArguments(output_dir=str(tmp_path)).ddp_find_unused_parameters is None
    frozen = BNDLTrainingArguments(output_dir=str(tmp_path), freeze_backbone=True)
    assert frozen.ddp_find_unused_parameters is False
    asked = BNDLTrainingArguments(output_dir=str(tmp_path), freeze_backbone=True, ddp_find_unused_parameters=True)
    assert asked.ddp_find_unused_parameters is True
