"""What to start from: an image classifier to wrap, a BNDL checkpoint to go on with, or an architecture from scratch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor

from bndl_hf.data.image_dataset import ImageDataset, make_image_processor
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.modeling_bndl import BNDLForImageClassification


@dataclass
class ModelArguments:
    """What to start from, and what the decision layer is made of (fields left out are the preset's)."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of an image classifier, plain or already with BNDL."}
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Train from scratch: a transformers architecture, e.g. vit, resnet, convnext."}
    )
    config_overrides: str = field(
        default="{}",
        metadata={"help": "With --model_type: fields of its configuration as JSON, '{\"hidden_size\": 192}'."},
    )
    image_size: int = field(default=224, metadata={"help": "With --model_type: side of the images in pixels."})
    warm_start: bool = field(
        default=False,
        metadata={"help": "Start as the exact non-negative equivalent of the classifier's own head (same labels)."},
    )
    preset: str = field(
        default="default",
        metadata={"help": "'default' (ours), 'released' (the authors' ViT head) or 'released_resnet'."},
    )
    objective: str | None = field(
        default=None,
        metadata={"help": "'exact' (closed-form predictive, no sampling noise) or 'sampled' (one draw a step)."},
    )
    num_factors: int | None = field(
        default=None, metadata={"help": "K; default: max(D, min(2 D, 512)) of the D features of the backbone."}
    )
    feature_noise: float | None = field(
        default=None,
        metadata={"help": "Noise on the features while training, in units of their spread: 1 for memorised ones."},
    )
    projection: str | None = field(
        default=None, metadata={"help": "Before the scores' ReLU: none, linear or two_layer."}
    )
    score_threshold: float | None = field(default=None, metadata={"help": "c_theta of Eq. 9: higher, sparser scores."})
    loading_threshold: float | None = field(
        default=None, metadata={"help": "c_phi of Eq. 11: higher, sparser loadings."}
    )
    loading_density: float | None = field(
        default=None,
        metadata={
            "help": "Share of the loadings left when training ends, in (0, 1]; default 0.1 or 0.3; 1 prunes nothing."
        },
    )
    score_concentration: str | None = field(default=None, metadata={"help": "Of the scores: per_image or per_factor."})
    score_concentration_input: str | None = field(
        default=None, metadata={"help": "What it is computed from: pre_activation, features or score_mean."}
    )
    loading_concentration: str | None = field(
        default=None, metadata={"help": "Of the loadings: per_factor or per_entry."}
    )
    bias: str | None = field(default=None, metadata={"help": "free, non_negative or none."})

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.model_type is None):
            raise ValueError(
                "Pass either --model_name_or_path (a classifier to start from) or --model_type (from scratch)."
            )

    def config_fields(self) -> dict[str, Any]:
        """The decision layer's fields that were given."""
        names = {f.name for f in fields(BNDLConfig)}
        return {f.name: v for f in fields(self) if f.name in names and (v := getattr(self, f.name)) is not None}


def build_model(arguments: ModelArguments, dataset: ImageDataset) -> tuple[BNDLForImageClassification, Any]:
    """The classifier with its decision layer, and the image processor that goes with it."""
    id2label = dict(enumerate(dataset.label_names))
    name = arguments.model_name_or_path
    if name is None:
        config = BNDLConfig.from_backbone_config(
            scratch_config(arguments), id2label=id2label, **arguments.config_fields()
        )
        return BNDLForImageClassification(config), make_image_processor(arguments.image_size)
    processor = AutoImageProcessor.from_pretrained(name)
    config = AutoConfig.from_pretrained(name)
    if config.model_type == "bndl":
        if config.num_labels != len(dataset.label_names):
            raise ValueError(
                f"{name} knows {config.num_labels} classes and the dataset has {len(dataset.label_names)}; start from "
                "the classifier it was made of, or use a dataset with the same classes."
            )
        overrides = {k: v for k, v in arguments.config_fields().items() if k != "preset"}  # it is built as it was
        return BNDLForImageClassification.from_pretrained(name, **overrides), processor
    model: Any = BNDLForImageClassification.from_backbone_pretrained(
        name, id2label=id2label, warm_start=arguments.warm_start, **arguments.config_fields()
    )
    return model, processor


def scratch_config(arguments: ModelArguments) -> Any:
    """The configuration of an architecture trained from scratch."""
    if arguments.model_type is None or arguments.model_type not in CONFIG_MAPPING:
        raise ValueError(f"--model_type {arguments.model_type} is unknown; try vit, resnet, convnext, swin or dinov2.")
    try:
        overrides = json.loads(arguments.config_overrides)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--config_overrides {arguments.config_overrides!r} is not JSON ({error}); write "
            "'{\"hidden_size\": 192}'."
        ) from error
    config_class = CONFIG_MAPPING[arguments.model_type]
    known = {f.name for f in fields(config_class)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{config_class.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    if "image_size" in known:
        overrides.setdefault("image_size", arguments.image_size)
    return config_class(**overrides)
