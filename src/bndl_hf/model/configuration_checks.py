"""What the fields of a BNDL configuration may hold; configuration_bndl.py says what they mean.

A configuration may come from any file, so every field has a type and a range. A value that does not fit is a ValueError
that names the field, what it holds and what fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch

from .prediction_sets import ConformalPredictor, is_number
from .verdicts import VerdictRule

_CHOICES: dict[str, tuple[str, ...]] = {
    "objective": ("exact", "sampled"),
    "projection": ("none", "linear", "two_layer"),
    "score_concentration": ("per_image", "per_factor"),
    "score_concentration_input": ("features", "score_mean", "pre_activation"),
    "loading_concentration": ("per_factor", "per_entry"),
    "kl_global_scaling": ("per_image", "per_factor"),
    "bias": ("free", "non_negative", "none"),
    "loading_init": ("alive", "linear"),
}
_POSITIVE = (
    "score_prior_concentration",
    "score_prior_rate",
    "loading_prior_concentration",
    "loading_prior_rate",
    "score_scale_floor",
    "loading_scale_floor",
    "max_concentration",
    "loading_density",
    "feature_power",
)
_NON_NEGATIVE = (
    "feature_noise",
    "score_threshold",
    "loading_threshold",
    "min_concentration",
    "kl_local_weight",
    "kl_global_weight",
)
# Largest value of a number: its square is still a float32.
_MAX_NUMBER = 1e18
# Largest count: widths that fit into a memory, classes whose names do, images there are.
_COUNTS = {
    "feature_dim": 10**6,
    "num_factors": 10**6,
    "num_projected": 10**6,
    "familiarity_rank": 10**6,
    "projection_dim": 10**6,
    "num_training_images": 10**15,
    "format_version": 10**6,
}
_MAY_BE_NONE = ("kl_local_weight", *(name for name in _COUNTS if name != "format_version"))
_MAX_LABELS = 10**6
_MAX_SAMPLES = 10**6
# T squared, and pi/8 v times any variance of logits, are far from both ends of float32.
MIN_TEMPERATURE, MAX_TEMPERATURE, MAX_VARIANCE_SCALE = 1e-3, 1e3, 1e6


def check_raw_values(config: Any, num_labels: object, torch_dtype: object) -> None:
    """ValueError for values that transformers' own configuration class would stumble over.

    Args:
        config: before `PretrainedConfig.__post_init__`.
        num_labels, torch_dtype: keywords that are not fields.
    """
    for dtype in (config.dtype, torch_dtype):
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not isinstance(found, torch.dtype):
            raise ValueError(f"dtype={dtype!r} is not a torch dtype; write 'float32', 'bfloat16' or 'float16'.")
    if num_labels is not None and not (_is_whole(num_labels) and num_labels <= _MAX_LABELS):
        raise ValueError(f"num_labels={num_labels!r} must be a whole number from 2 to {_MAX_LABELS:,}.")
    if config.label2id is not None and not isinstance(config.label2id, Mapping):
        raise ValueError(f"label2id={config.label2id!r} must map names of classes to their numbers; or leave it out.")
    if config.head_name is not None and not isinstance(config.head_name, str):
        raise ValueError(f"head_name={config.head_name!r} must be the dotted name of a layer, such as 'classifier'.")
    if not isinstance(config.preset, str):
        raise ValueError(f"preset={config.preset!r} must be the name of a preset, such as 'default'.")
    if config.feature_dim is not None and not _is_whole(config.feature_dim):
        raise ValueError(f"feature_dim={config.feature_dim!r} must be a whole number.")
    for name in ("normalize_features", "kl_local_weight_is_measured"):
        if not isinstance(getattr(config, name), bool | None):
            raise ValueError(f"{name}={getattr(config, name)!r} must be true or false.")


def name_labels_by_number(config: Any) -> None:
    """Write `id2label` of a configuration as {0: name, 1: name, ...}, and `label2id` where it is missing."""
    if config.id2label is not None:
        config.id2label = labels_by_number(config.id2label)
        if config.label2id is None:
            config.label2id = {name: number for number, name in config.id2label.items()}


def labels_by_number(given: Any) -> dict[int, Any]:
    """{0: name, 1: name, ...} from a list of names, or a mapping whose keys may be strings.

    Raises:
        ValueError: it is something else, or its numbers are not 0 .. C - 1.
    """
    pairs = list(enumerate(given)) if isinstance(given, list | tuple) else None
    pairs = list(given.items()) if isinstance(given, Mapping) else pairs
    if pairs is None or any(isinstance(name, dict | list | None) for _, name in pairs):
        raise ValueError(f"id2label={given!r} must be a list of class names, or map the numbers 0, 1, ... to them.")
    try:
        labels = {int(number): name for number, name in pairs}
    except (TypeError, ValueError):
        labels = {}
    if sorted(labels) != list(range(len(pairs))) or not pairs:
        keys = [key for key, _ in pairs]
        raise ValueError(f"id2label has the keys {keys[:10]}; they must be the numbers 0 to {max(len(pairs), 2) - 1}.")
    return labels


def check_fields(config: Any) -> None:
    """Raise ValueError where a field of a BNDL configuration is out of its range, naming field and value."""
    for name in (*_POSITIVE, *_NON_NEGATIVE, "certainty_threshold"):
        value = getattr(config, name)
        if (value is None and name in _MAY_BE_NONE) or (isinstance(value, float) and value != value):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be a number.")
    for name in _COUNTS:
        value = getattr(config, name)
        if not (_is_whole(value) or (value is None and name in _MAY_BE_NONE)):
            raise ValueError(f"{name}={value!r} must be a whole number.")
    if config.num_labels is None or config.num_labels < 2:
        raise ValueError(f"num_labels={config.num_labels}: a decision is between 2 classes or more.")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name}={getattr(config, name)!r} is unknown; choose one of {', '.join(choices)}.")
    for name in (*_POSITIVE, *_NON_NEGATIVE):
        value = getattr(config, name)
        if value is None:
            continue
        if not (value > 0 if name in _POSITIVE else value >= 0):
            raise ValueError(f"{name}={value} must be {'above zero' if name in _POSITIVE else 'zero or above'}.")
        if value > _MAX_NUMBER:
            raise ValueError(f"{name}={value:g} must be finite, at most {_MAX_NUMBER:g}.")
    for name, most in _COUNTS.items():
        value = getattr(config, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"{name}={value} must be 1 or more, and at most {most:,}.")
    if config.feature_power > 1:
        raise ValueError(f"feature_power={config.feature_power} must be at most 1, which leaves features as they are.")
    if config.loading_density > 1:
        raise ValueError(f"loading_density={config.loading_density} is a share of the loadings; it is at most 1.")
    if config.max_concentration <= config.min_concentration:
        raise ValueError(
            f"max_concentration={config.max_concentration} leaves no room above "
            f"min_concentration={config.min_concentration}; raise the one or lower the other."
        )
    if (config.score_concentration, config.score_concentration_input) == ("per_image", "pre_activation"):
        raise ValueError(
            "score_concentration='per_image' is one number for all factors, which no factor's own pre-activation can "
            "give; pass score_concentration_input='features' or 'score_mean' with it."
        )
    if config.num_projected is not None and config.num_projected < (config.num_factors or 1):
        raise ValueError(
            f"num_projected={config.num_projected} is less than num_factors={config.num_factors}, which are selected "
            "from it; leave it out (bndl_hf.interpretability.prune sets it)."
        )
    name = "num_factors" if config.num_projected is None else "num_projected"
    if config.projection == "none" and getattr(config, name) != config.feature_dim:
        raise ValueError(
            f"{name}={getattr(config, name)} differs from feature_dim={config.feature_dim}, which projection='none' "
            f"cannot bridge; pass projection='linear' or leave {name} out."
        )
    check_num_samples(config.num_samples)
    if not 0 < config.certainty_threshold < 1:
        raise ValueError(f"certainty_threshold={config.certainty_threshold} must lie between 0 and 1.")
    check_recalibration(config.temperature, config.variance_scale)
    check_abstain_below(config.abstain_below)
    check_conformal(config.conformal, config.num_labels)
    check_verdict(config.verdict)


def check_num_samples(num_samples: object) -> None:
    """ValueError unless S is a whole number of draws that a t-test can use."""
    if not _is_whole(num_samples):
        raise ValueError(f"num_samples={num_samples!r} must be a whole number.")
    if not 2 <= num_samples <= _MAX_SAMPLES:
        raise ValueError(
            f"num_samples={num_samples}: a t-test needs 2 draws or more (the paper takes 20), and at most "
            f"{_MAX_SAMPLES:,} are made."
        )


def check_recalibration(temperature: object, variance_scale: object) -> None:
    """ValueError unless T and v are numbers within the ranges above."""
    if not (is_number(temperature) and MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE):
        raise ValueError(
            f"temperature={temperature!r} must be a finite number above zero, from {MIN_TEMPERATURE:g} to "
            f"{MAX_TEMPERATURE:g}; 1 changes nothing."
        )
    if not (is_number(variance_scale) and 0 <= variance_scale <= MAX_VARIANCE_SCALE):
        raise ValueError(
            f"variance_scale={variance_scale!r} must be a finite number, zero or above and at most "
            f"{MAX_VARIANCE_SCALE:g}; 1 changes nothing."
        )


def check_abstain_below(threshold: object) -> None:
    """ValueError unless the threshold is None or a probability."""
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(
            f"abstain_below={threshold!r} must lie in [0, 1]: it is compared with the largest probability. Apply a "
            "threshold on another confidence yourself, or pass None to answer always."
        )


def check_verdict(values: Any) -> None:
    """ValueError unless `values` is None or describes a verdict."""
    if values is not None:
        VerdictRule.from_dict(values)


def check_conformal(values: Any, num_labels: int) -> None:
    """ValueError unless `values` is None or describes prediction sets a model of `num_labels` classes can store."""
    if values is None:
        return
    predictor = ConformalPredictor.from_dict(values)
    if predictor.num_classes != num_labels:
        raise ValueError(
            f"The prediction sets were fitted on {predictor.num_classes} classes; this model has {num_labels}. Fit "
            "them on its own probabilities."
        )
    if predictor.randomized:
        raise ValueError(
            "Randomised prediction sets are not stored: a model answers the same image the same way twice. Fit them "
            "with randomized=False, or call predictor.predict_sets(probs, generator) yourself."
        )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
