"""What the fields of a BNDL configuration may hold; configuration_bndl.py says what they mean."""

from __future__ import annotations

from typing import Any

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
)
_NON_NEGATIVE = (
    "feature_noise",
    "score_threshold",
    "loading_threshold",
    "min_concentration",
    "kl_local_weight",
    "kl_global_weight",
)
_COUNTS = ("feature_dim", "num_factors", "num_projected", "projection_dim", "num_training_images")


def check_fields(config: Any) -> None:
    """Raise ValueError where a field of a BNDL configuration is out of its range, naming field and value."""
    unset = ("kl_local_weight",) if config.kl_local_weight is None else ()  # until the Trainer sets it
    for name in (*_POSITIVE, *_NON_NEGATIVE, "certainty_threshold"):
        if name in unset:
            continue
        if isinstance(getattr(config, name), bool) or not isinstance(getattr(config, name), int | float):
            raise ValueError(f"{name}={getattr(config, name)!r} must be a number.")
    for name in (*_COUNTS, "num_samples"):
        if not isinstance(getattr(config, name), int | None):
            raise ValueError(f"{name}={getattr(config, name)!r} must be a whole number.")
    if config.num_labels < 2:
        raise ValueError(f"num_labels={config.num_labels}: a decision is between 2 classes or more.")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name}={getattr(config, name)!r} is unknown; choose one of {', '.join(choices)}.")
    for name in _POSITIVE:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)} must be above zero.")
    for name in _NON_NEGATIVE:
        if name not in unset and not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)} must be zero or above.")
    for name in _COUNTS:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be 1 or more.")
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
    if config.num_samples < 2:
        raise ValueError(f"num_samples={config.num_samples}: a t-test needs 2 draws or more (the paper takes 20).")
    if not 0 < config.certainty_threshold < 1:
        raise ValueError(f"certainty_threshold={config.certainty_threshold} must lie between 0 and 1.")
