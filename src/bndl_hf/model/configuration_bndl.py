"""Configuration of a classifier whose decision layer is Bayesian and non-negative (Sec. 3 of the BNDL paper).

It holds the wrapped classifier's own configuration, the name of the layer that was replaced, and everything the
decision layer is made of: factors, thresholds, concentrations, priors and the weights of the loss. Values that a preset
decides may be left at None; they are filled in at once and saved, so that a checkpoint never depends on a default that
changes later. Read decision_layer.py next: it turns these fields into posteriors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from .auto_map import CODE_ENTRIES, naming_the_code_in
from .backbone import probe_architecture, public_config
from .configuration_checks import check_fields, check_raw_values, name_labels_by_number
from .factor_names import checked_factor_names
from .presets import FACTORS_PER_FEATURE, MAX_EXTRA_FACTORS, PRESETS, WEIGHTS_TO_READ

_UNSET: Any = None  # until the preset, or the width of the features, decides

# Counted up whenever older code would read a new configuration wrongly. 2: temperature, variance_scale, abstain_below
# and conformal; code of version 1 keeps the fields and answers as if they were not there. 3: num_projected, and
# concentrations of scores made of their own pre-activation.
FORMAT_VERSION = 3


class BNDLConfig(PretrainedConfig):
    r"""Everything a BNDL classifier is made of.

    Fields marked (preset) default to None and take the value of `preset`; pass a value to depart from it.

    Args:
        backbone_config (`PretrainedConfig` or `dict`): the wrapped classifier's configuration; None for a decision
            layer that works alone on features.
        head_name (`str`): dotted name of the layer inside the wrapped classifier that made the logits.
        feature_dim (`int`): D, the width of that layer's input.
        num_factors (`int`): K; None takes max(D, min(2 D, 512)), D where there is no projection or the preset is a
            released one. A layer that is tuned to be sparse has two factors a class (training/density.py).
        num_projected (`int`): number of values z = g(h) has where only `num_factors` of them are factors, those the
            layer's `selection` names; None is `num_factors`. Set by `bndl_hf.interpretability.prune`.
        preset (`str`): "default", "interpretable" (ten loadings a class: explanations of a few parts),
            "released" (the authors' ViT head) or "released_resnet" (their ResNet head).
        objective (`str`, preset): what training maximises: "exact", the closed-form predictive of Sec. 5 with no
            sampling noise, or "sampled", one reparameterised draw per step (Eq. 12, the paper).
        projection (`str`, preset): g in z = g(h) before the score ReLU (Eq. 9): "none", "linear" or "two_layer".
        projection_dim (`int`): hidden width of the "two_layer" projection; None takes `num_factors`.
        normalize_features (`bool`, preset): divide each feature by its standard deviation over the training images
            (measured once before training, stored with the weights), so that one learning rate suits every backbone.
        feature_power (`float`): p in (0, 1] of sign(h) |h|^p, which the layer reads in place of the features h. Below 1
            a few large features count less against many small ones (the power normalisation of Perronnin et al. 2010);
            `tune=True` and `tune_head` mostly choose 0.7 (docs/defaults.md).
        feature_noise (`float`): standard deviation of Gaussian noise that is added to the features while training, in
            units of each feature's spread; 0 adds none. For features the backbone has memorised, which lie closer
            together on training images than on new ones (docs/research: 1 there).
        score_threshold (`float`, preset): c_theta >= 0 in E[theta] = relu(z - c_theta) (Eq. 9).
        loading_threshold (`float`, preset): c_phi >= 0 in E[Phi] = relu(W - c_phi) (Eq. 11).
        score_concentration (`str`, preset): Weibull concentration k of the scores, "per_image" (one number for all
            factors of an image, the released code) or "per_factor".
        score_concentration_input (`str`, preset): what the scores' k is computed from: the backbone "features"
            (released ResNet), the thresholded "score_mean" (released ViT), or each factor's own "pre_activation"
            z_k - c_theta, a weight and a bias a factor instead of a second matrix.
        loading_concentration (`str`, preset): k of the loadings: "per_factor" (computed from the factor's own
            loadings, Eq. 10) or "per_entry" (a free number for each).
        min_concentration, max_concentration (`float`, preset): floor added under, and ceiling on, every k.
        score_prior_concentration, score_prior_rate (`float`, preset): Gamma prior of the scores (Eq. 4).
        loading_prior_concentration, loading_prior_rate (`float`): Gamma prior of the loadings (Eq. 3).
        kl_local_weight (`float`): weight of the scores' KL. 1 is the ELBO of Eq. 12. While None it counts as
            0.03 / K; the Trainer writes down what it used, on features that stay as they are 0.03 / K times the
            separation of the classes in them (docs/research).
        kl_local_weight_is_measured (`bool`): the Trainer set that weight, and will measure it anew.
        kl_global_weight (`float`, preset): weight of the loadings' KL. 1 is the ELBO of Eq. 12.
        kl_global_scaling (`str`, preset): the loadings' KL is divided by the number of training images ("per_image",
            Eq. 12) or by the number of factors ("per_factor", the released code).
        score_scale_floor, loading_scale_floor (`float`, preset): smallest Weibull scale the logarithm of the KL sees
            (Eq. 7). Below it a score or loading may go to zero at no further cost, which is what lets them be sparse.
        bias (`str`, preset): "free", "non_negative" (relu(b - c_phi), the released code) or "none".
        loading_init (`str`, preset): "alive" starts every loading above the threshold, every k near 5 and a linear
            projection near the identity; "linear" is torch's Linear throughout, which leaves most loadings dead when D
            is large (released code).
        loading_density (`float`, preset): share of the loadings, in (0, 1], that may stay above zero when training
            ends; the Trainer prunes the smallest while it trains (`pruning_start`, `pruning_end`). 1 prunes nothing.
        num_samples (`int`): S, draws behind `p_value` and Monte-Carlo prediction. 20: the paper's value, App. A.1.
        certainty_threshold (`float`): `is_certain` is p_value below this fraction. .05: the paper's value, Sec. 5.
        temperature, variance_scale (`float`): recalibration of the predictive (mean_field.py); see `set_temperature`.
        abstain_below (`float`): largest probability from which on an image is answered; see `set_abstention`.
        conformal (`dict`): the prediction sets `predict` answers with; see `set_conformal`.
        factor_names (`dict`): {factor: name} of the factors a user has named; see `set_factor_names`.
        verdict (`dict`): when an answer is sure, torn or unfamiliar; see `set_decisions`.
        familiarity_rank (`int`): directions the stored statistics of familiar features have; see `set_familiarity`.
        num_training_images (`int`): N of Eq. 12; the Trainer fills it in. While None, `loss` leaves out the
            loadings' KL when that is scaled "per_image".
        format_version (`int`): of the saved configuration; a newer one than this code knows is refused.

    Raises:
        ValueError: for an unknown preset or a field value out of its range, naming both.

    Example:
        >>> BNDLConfig(feature_dim=64, num_labels=10).num_factors
        128
    """

    model_type = "bndl"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "nll",
        "kl_local",
        "kl_global",
        "logits_mean",
        "factor_scores",
        "hidden_states",
        "attentions",
    ]

    backbone_config: dict | PretrainedConfig | None = None
    head_name: str | None = None
    feature_dim: int = _UNSET
    num_factors: int = _UNSET
    num_projected: int | None = None
    preset: str = "default"
    objective: str = _UNSET
    projection: str = _UNSET
    projection_dim: int | None = None
    normalize_features: bool = _UNSET
    feature_power: float = 1.0
    feature_noise: float = 0.0
    score_threshold: float = _UNSET
    loading_threshold: float = _UNSET
    score_concentration: str = _UNSET
    score_concentration_input: str = _UNSET
    loading_concentration: str = _UNSET
    min_concentration: float = _UNSET
    max_concentration: float = _UNSET
    score_prior_concentration: float = _UNSET
    score_prior_rate: float = _UNSET
    loading_prior_concentration: float = 1.0
    loading_prior_rate: float = 1.0
    kl_local_weight: float | None = None
    kl_local_weight_is_measured: bool = False
    kl_global_weight: float = _UNSET
    kl_global_scaling: str = _UNSET
    score_scale_floor: float = _UNSET
    loading_scale_floor: float = _UNSET
    bias: str = _UNSET
    loading_init: str = _UNSET
    loading_density: float = _UNSET
    num_samples: int = 20
    certainty_threshold: float = 0.05
    temperature: float = 1.0
    variance_scale: float = 1.0
    abstain_below: float | None = None
    conformal: dict | None = None
    factor_names: dict | None = None
    verdict: dict | None = None
    familiarity_rank: int | None = None
    num_training_images: int | None = None
    format_version: int = FORMAT_VERSION

    if TYPE_CHECKING:  # transformers adds its own keywords, `num_labels` among them, and fills these two in
        id2label: dict[int, str]
        num_labels: int

        def __init__(self, **fields: Any) -> None: ...

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_labels", 0) is None:
            del kwargs["num_labels"]  # as many as there are names
        check_raw_values(self, kwargs.get("num_labels"), kwargs.get("torch_dtype"))
        name_labels_by_number(self)
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} is unknown; presets are {', '.join(map(repr, PRESETS))}.")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.num_factors is None and self.feature_dim is not None:
            self.num_factors = self.feature_dim
            if self.preset in ("default", "interpretable") and self.projection != "none":
                wide = min(FACTORS_PER_FEATURE * self.feature_dim, MAX_EXTRA_FACTORS)
                self.num_factors = max(self.feature_dim, wide)
        if self.loading_density is None:  # of the preset "interpretable"
            self.loading_density = min(1.0, WEIGHTS_TO_READ / (self.num_factors or WEIGHTS_TO_READ))
        if not isinstance(self.backbone_config, PretrainedConfig | None):
            self.backbone_config = _backbone_config_from_dict(self.backbone_config)
        super().__post_init__(**kwargs)
        check_fields(self)
        self.factor_names = checked_factor_names(self.factor_names, self.num_factors)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> BNDLConfig:
        """As `PretrainedConfig.from_dict`; a saved configuration keeps its preset, whose values it has written down."""
        if config_dict.get("model_type", "bndl") != "bndl":
            raise ValueError(
                f"This is a {config_dict['model_type']} checkpoint, not a BNDL one. Wrap an image classifier with "
                "from_backbone_pretrained(...); load any other model with its own class."
            )
        version = config_dict.get("format_version", 1)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"format_version={version!r} must be a whole number from 1 to {FORMAT_VERSION}.")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"The configuration has format_version={version}, which a newer bndl-hf wrote; this one reads up to "
                f"{FORMAT_VERSION}. Upgrade it with `pip install -U bndl-hf`."
            )
        config_dict = {**config_dict, "format_version": FORMAT_VERSION}  # what it is saved as from now on
        if "preset" in kwargs and kwargs["preset"] != config_dict.get("preset"):
            raise ValueError(
                f"preset={kwargs['preset']!r}, but this configuration was made with {config_dict.get('preset')!r} and "
                "holds its values; pass the fields that should change, or make a new configuration."
            )
        if not cls.is_remote_code():  # the installed classes and pipelines are used, not those beside the weights
            config_dict = {k: v for k, v in config_dict.items() if k not in CODE_ENTRIES}
        try:
            return super().from_dict(config_dict, **kwargs)
        except (AttributeError, TypeError) as error:  # of transformers, for values of its own entries
            raise ValueError(f"The configuration holds a value that does not fit its entry ({error}).") from error

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str]) -> dict[str, Any]:
        values = super()._dict_from_json_file(json_file)
        if not isinstance(values, dict):
            raise ValueError(f"{json_file} holds {values!r}; a configuration is a JSON object. Get the file again.")
        return values

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As `PretrainedConfig.save_pretrained`; names the classes and pipelines whose code lies in the folder.

        `save_pretrained` of a model puts the code there, so that `trust_remote_code=True` loads it where this package
        is not installed.
        """
        with naming_the_code_in(save_directory, self):
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_backbone_config(
        cls, backbone_config: PretrainedConfig, num_labels: int | None = None, **kwargs: Any
    ) -> BNDLConfig:
        """Configuration that wraps the classifier `backbone_config` describes.

        The classifier is built and run once without memory or arithmetic (on the meta device) to find the layer that
        makes its logits; where its forward needs real numbers (SigLIP 2, Perceiver), with random weights.

        Args:
            backbone_config: configuration of any supported `XForImageClassification`.
            num_labels: number of classes C; None keeps the classifier's own labels.
            **kwargs: any field of `BNDLConfig`, `id2label` among them.

        Raises:
            ValueError: when no single layer makes the logits, or the architecture has no image classifier.
        """
        backbone_config, head_name, feature_dim = probe_architecture(backbone_config)
        return cls.from_head(backbone_config, head_name, feature_dim, num_labels=num_labels, **kwargs)

    @classmethod
    def from_head(
        cls,
        backbone_config: PretrainedConfig,
        head_name: str,
        feature_dim: int,
        num_labels: int | None = None,
        **kwargs: Any,
    ) -> BNDLConfig:
        """Configuration for a classifier whose head is already known; labels come from it unless given."""
        known = {*cls.__dataclass_fields__, "num_labels"}
        if unknown := sorted(set(kwargs) - known):
            raise ValueError(
                f"BNDLConfig has no field {', '.join(unknown)}; its fields: {', '.join(sorted(_OWN_FIELDS))}."
            )
        backbone_config = public_config(backbone_config)
        if num_labels is None and "id2label" not in kwargs:
            if backbone_config.id2label is None:  # PVT's configuration may have a number alone
                kwargs["num_labels"] = backbone_config.num_labels
            else:
                kwargs.update(id2label=backbone_config.id2label, label2id=backbone_config.label2id)
        elif num_labels is not None:
            kwargs["num_labels"] = num_labels
        return cls(backbone_config=backbone_config, head_name=head_name, feature_dim=feature_dim, **kwargs)


_OWN_FIELDS = set(BNDLConfig.__annotations__) - {"model_type", "sub_configs", "keys_to_ignore_at_inference"}


def _backbone_config_from_dict(values: object) -> PretrainedConfig:
    """The configuration object of a nested dictionary, by its `model_type`."""
    if not isinstance(values, dict):
        raise ValueError(f"backbone_config={values!r} must be the configuration of an image classifier, or its fields.")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config has model_type={model_type!r}, which this transformers does not know; upgrade "
            "transformers, or import the package that registers it before loading."
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict({k: v for k, v in values.items() if k != "model_type"})
    except Exception as error:  # whatever the class raises where a value has another type than it reads
        raise ValueError(f"backbone_config does not describe a {model_type} model ({error}); correct it.") from error


__all__ = ["BNDLConfig"]
