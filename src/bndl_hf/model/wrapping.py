"""Wrapping a pretrained classifier: its last layer goes, the decision layer comes; the backbone's weights stay."""

from __future__ import annotations

import difflib
import inspect
import os
from typing import Any, TypeVar, cast

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from .backbone import detach_head, explain_unsupported, find_head, input_width
from .backbone_inputs import example_inputs
from .configuration_checks import labels_by_number
from .decision_layer import BNDLDecisionLayer
from .warm_start import start_from_dense

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

# fmt: off
# Keywords that say which files to read: a configuration is found with these alone.
_HUB_KEYWORDS = frozenset([
    "cache_dir", "code_revision", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
    "trust_remote_code",
])
# What transformers' from_pretrained takes out of its **kwargs; its named parameters are read off its signature.
_LOADING_KEYWORDS = _HUB_KEYWORDS | frozenset([
    "adapter_kwargs", "adapter_name", "allow_all_kernels", "attn_implementation", "device_map", "device_mesh",
    "distributed_config", "dtype", "experts_implementation", "gguf_file", "kernel_config", "key_mapping", "max_memory",
    "offload_buffers", "offload_folder", "quantization_config", "state_dict", "torch_dtype", "tp_plan", "tp_size",
    "use_kernels", "variant",
])
# fmt: on


def split_keywords(
    config_class: type[PretrainedConfig], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of `config_class`, what is left for the classifier's `from_pretrained`) of some keyword arguments.

    Raises:
        ValueError: for fields that are read off the classifier.
    """
    own = _own_fields(config_class)
    if known := sorted({"backbone_config", "feature_dim"} & set(kwargs)):
        raise ValueError(f"{' and '.join(known)}: read off the classifier that is wrapped; leave it out.")
    return (
        {name: value for name, value in kwargs.items() if name in own},
        {name: value for name, value in kwargs.items() if name not in own},
    )


def load_classifier(
    source: str | os.PathLike[str] | PreTrainedModel,
    config_class: type[PretrainedConfig],
    loading: dict[str, Any],
    backbone_kwargs: dict[str, Any],
) -> PreTrainedModel:
    """The image classifier `source` names, or is.

    Args:
        source: Hub id, folder or model.
        config_class: the class whose fields the caller may have misspelt.
        loading: keywords for `from_pretrained`; checked before anything large is downloaded.
        backbone_kwargs: more of them, handed on unchecked.

    Raises:
        TypeError: for anything but a name or a model of transformers.
        ValueError: for an unknown keyword, a model with a BNDL layer, or one that classifies no images.
    """
    if isinstance(source, PreTrainedModel):
        if passed := sorted({**loading, **backbone_kwargs}):
            raise ValueError(
                f"{_misspelt(passed, config_class)}, and {type(source).__name__} is loaded already. Pass it to the "
                "from_pretrained that loads the classifier, or pass a name instead of a model."
            )
        classifier = source
    elif not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"The classifier arrived as {type(source).__name__}; pass a Hub id, a folder, or a model of transformers."
        )
    else:
        loads = {*inspect.signature(PreTrainedModel.from_pretrained).parameters, *_LOADING_KEYWORDS}
        hub = {name: value for name, value in {**loading, **backbone_kwargs}.items() if name in _HUB_KEYWORDS}
        config = backbone_kwargs.get("config", loading.get("config")) or AutoConfig.from_pretrained(source, **hub)
        if unknown := sorted(name for name in loading if name not in loads and not hasattr(config, name)):
            raise ValueError(
                f"{_misspelt(unknown, config_class)}; nor does {type(config).__name__} or from_pretrained know it. "
                f"The fields: {', '.join(sorted(_own_fields(config_class)))}. What else from_pretrained should get "
                "goes into backbone_kwargs={...}."
            )
        with explain_unsupported(config):
            classifier = AutoModelForImageClassification.from_pretrained(source, **{**loading, **backbone_kwargs})
    if classifier.config.model_type == config_class.model_type:
        name = classifier.name_or_path if isinstance(source, PreTrainedModel) else source
        raise ValueError(f"{name or 'The model'} has a BNDL layer already; load it with from_pretrained.")
    return classifier


def wrap_classifier(
    model_class: type[ModelT],
    classifier: PreTrainedModel,
    num_labels: int | None,
    warm_start: bool,
    head_name: str | None,
    bndl_config_kwargs: dict[str, Any],
) -> ModelT:
    """A `model_class` around `classifier`, which is changed in place; see `from_backbone_pretrained`."""
    if (model_type := classifier.config.model_type) not in CONFIG_MAPPING:
        kind, config_kind = type(classifier).__name__, type(classifier.config).__name__
        raise ValueError(
            f"{kind} has code of its own, which does not travel with a BNDL checkpoint. Here and wherever it is to be "
            f"loaded, first call AutoConfig.register({model_type!r}, {config_kind}) and "
            f"AutoModelForImageClassification.register({config_kind}, {kind})."
        )
    if warm_start:
        old = classifier.config  # PVT's may have a number of labels alone
        old_labels: dict[Any, str] = old.id2label or {i: f"LABEL_{i}" for i in range(old.num_labels or 0)}
        given = bndl_config_kwargs.get("id2label")
        _check_labels(old_labels, num_labels, None if given is None else labels_by_number(given))
    head_name = find_head(classifier)[0] if head_name is None else head_name
    classifier.config.architectures = [type(classifier).__name__]  # decides which class is built, where a type has two
    head = detach_head(classifier, head_name)
    feature_dim = input_width(head)
    signed = False
    if warm_start:
        with torch.no_grad():
            signed = bool((classifier.eval()(**example_inputs(classifier, batch_size=8)).logits < 0).any())
        bndl_config_kwargs.setdefault("num_factors", 2 * feature_dim if signed else feature_dim)
        if (power := bndl_config_kwargs.get("feature_power", 1.0)) != 1.0:
            raise ValueError(
                f"feature_power={power}, but warm_start keeps the head's own weights, which are of the features "
                "themselves; leave one of them out."
            )
        bndl_config_kwargs.setdefault("loading_density", 1.0)  # pruning would undo what was warm about the start
    config_class: Any = model_class.config_class
    config = config_class.from_head(
        classifier.config, head_name, feature_dim, num_labels=num_labels, **bndl_config_kwargs
    )
    with torch.device("meta"):  # no second copy of the backbone's weights
        model = model_class(config)
    if type(model.backbone) is not type(classifier):
        raise ValueError(
            f"{type(classifier).__name__} cannot be built again from its configuration, which makes a "
            f"{type(model.backbone).__name__}; pass one of those, or register yours for its configuration's class with "
            "AutoModelForImageClassification.register(...)."
        )
    classifier.config._name_or_path = ""  # may be a local path, which would be published
    model.backbone, model.config.backbone_config = classifier, classifier.config
    model.decision_layer = BNDLDecisionLayer(config).to(classifier.device)  # where its images, and so its outputs, are
    device_map: Any = getattr(classifier, "hf_device_map", None)  # set where device_map spread it over several
    if device_map is not None:
        parts = {f"backbone.{name}".removesuffix("."): device for name, device in device_map.items()}
        model.hf_device_map = cast(Any, {**parts, "decision_layer": classifier.device})
    if warm_start:
        start_from_dense(model.decision_layer, head.weight, head.bias, signed=signed)
    return model.eval()


def _own_fields(config_class: type[PretrainedConfig]) -> set[str]:
    """Fields of a BNDL configuration that are not transformers' own, and the labels."""
    inherited = set(PretrainedConfig.__dataclass_fields__) - {"id2label", "label2id"}
    settings = {"sub_configs", "keys_to_ignore_at_inference"}  # of the class, not of a configuration
    return set(config_class.__dataclass_fields__) - inherited - settings


def _misspelt(names: list[str], config_class: type[PretrainedConfig]) -> str:
    """The beginning of a sentence on names that are not fields, with what may have been meant."""
    fields = _own_fields(config_class)
    close = {close for name in names for close in difflib.get_close_matches(name, fields, n=1)}
    meant = f" (did you mean {', '.join(sorted(close))}?)" if close else ""
    return f"{config_class.__name__} has no field {', '.join(names)}{meant}"


def _check_labels(old_labels: dict[int, str], num_labels: int | None, labels: dict[int, str] | None) -> None:
    """Raise ValueError where a warm start was asked for with other classes than the head's own."""
    asked, old = len(labels or ()) or num_labels, len(old_labels)
    if asked not in (None, old):
        raise ValueError(
            f"warm_start starts from a head of {old} classes, but num_labels={asked}; leave num_labels out, or pass "
            "warm_start=False for new classes."
        )
    if labels and labels != old_labels and old_labels[0] != "LABEL_0":
        raise ValueError(
            f"warm_start keeps the head's classes in their order ({', '.join(old_labels.values())}), but id2label "
            f"says {', '.join(labels.values())}; leave it out, or pass warm_start=False."
        )
