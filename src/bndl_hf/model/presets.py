"""Named sets of configuration values: this library's default, one to read, and the two heads of the released code."""

# One row per field a preset decides. "default" was chosen by measurement (docs/research). "released" is the
# head of the authors' ViT script, "released_resnet" that of their ResNet script (App. A.1 and the released code).
PRESETS: dict[str, dict[str, str | float | bool]] = {
    "default": {
        "objective": "exact",
        "projection": "linear",
        "normalize_features": True,
        "score_threshold": 0.0,
        "loading_threshold": 0.0,
        "score_concentration": "per_factor",
        "score_concentration_input": "pre_activation",
        "loading_concentration": "per_entry",
        "min_concentration": 0.3,
        "max_concentration": 1e4,
        "kl_global_weight": 1.0,
        "kl_global_scaling": "per_image",
        "score_prior_concentration": 5.0,
        "score_prior_rate": 5.0,
        "score_scale_floor": 0.1,
        "loading_scale_floor": 1e-3,
        "bias": "free",
        "loading_init": "alive",
        "loading_density": 0.1,
    },
    "released": {
        "objective": "sampled",
        "projection": "linear",
        "normalize_features": False,
        "score_threshold": 0.0,
        "loading_threshold": 0.02,
        "score_concentration": "per_image",
        "score_concentration_input": "score_mean",
        "loading_concentration": "per_factor",
        "min_concentration": 0.0,
        "max_concentration": 1e6,
        "kl_local_weight": 1e-6,
        "kl_global_weight": 1e-6,
        "kl_global_scaling": "per_factor",
        "score_prior_concentration": 1.0,
        "score_prior_rate": 1.0,
        "score_scale_floor": 1e-10,
        "loading_scale_floor": 1e-10,
        "bias": "non_negative",
        "loading_init": "linear",
        "loading_density": 1.0,
    },
}
PRESETS["released_resnet"] = {
    **PRESETS["released"],
    "projection": "none",
    "score_threshold": 1.0,
    "loading_threshold": 0.0,
    "score_concentration_input": "features",
    "kl_global_weight": 0.0,
}

# "interpretable": the default with few loadings; what share of all they are depends on the number of factors (below).
PRESETS["interpretable"] = {name: value for name, value in PRESETS["default"].items() if name != "loading_density"}

# Weight of the scores' KL in the default preset, shared by the K factors: the KL sums over them, the likelihood does
# not, so an equal pull on every image whatever K is needs a weight of 0.03/K. Where features stay as they are, the
# Trainer multiplies it by the separation of the classes in them (docs/research has what chose both).
KL_LOCAL_BUDGET = 0.03

# Factors where the preset is "default" or "interpretable" and a projection makes them: twice as many as features, which
# are worth more than many loadings each (docs/research), but no more than 512 unless there are as many features.
FACTORS_PER_FEATURE, MAX_EXTRA_FACTORS = 2, 512

# "interpretable": loadings a class that training keeps, and the most that tuning may choose (training/density.py).
WEIGHTS_TO_READ, MOST_WEIGHTS_TO_READ = 10, 20
