"""Checkpoints of the authors' code, turned into checkpoints that the Auto classes load.

Their head is `preset="released"` (ViT: a projection before the scores' ReLU) or `preset="released_resnet"` (no
projection); every logit and every moment is theirs. A ResNet's spread of the loadings comes from the loadings before
their ReLU, which no layer here reads: it is the same for every image, so it is stored as `loading_concentration=
"per_entry"`. state_dicts.py reads the files, names.py knows the backbones' names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BaseImageProcessor,
    BitImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_utils import PILImageResampling
from transformers.utils import SAFE_WEIGHTS_NAME

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.released.names import Backbone, Place, describe_backbone
from bndl_hf.released.state_dicts import first_names, read_state_dict, without_wrapper

_LAYER = "decision_layer."
# A layer of the head, as the authors' ViT ("classifier.linear_k.0.weight") and ResNets ("fc.weight") write it.
_HEAD = re.compile(r"^(?:classifier\.)?(?:(linear|fc)|(linear_add|linear_k|linear_kw)(?:\.0)?)\.(weight|bias)$")
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        output_dir: folder of the artefact.
        config: of the model, or of the decision layer alone.
        backbone: "vit", "resnet", or None for a decision layer alone.
        left_out: names of weights that are not in the artefact: copies, and with `head_only` the backbone's.
    """

    output_dir: Path
    config: BNDLConfig
    backbone: str | None
    left_out: list[str]


def convert_released_checkpoint(
    checkpoint: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    head_only: bool = False,
    num_attention_heads: int | None = None,
    backbone_config: str | os.PathLike[str] | None = None,
    image_processor: str | os.PathLike[str] | None = None,
    processor_fields: Mapping[str, Any] | None = None,
    score_threshold: float | None = None,
    loading_threshold: float | None = None,
) -> Conversion:
    """Write a state dict of the authors' code as a model folder; nothing is written when anything is wrong.

    Args:
        checkpoint: .pt, .pth, .bin or .safetensors file with the state dict, opened without running code of it.
        output_dir: a new or empty folder for configuration, weights and image processor.
        labels: names of the classes in the order of the logits; None calls them LABEL_0, LABEL_1, ...
        head_only: convert the decision layer alone, for features; `load_decision_layer` opens the result.
        num_attention_heads: of a ViT, which no tensor tells; None takes one for every 64 features.
        backbone_config: Hub id, folder or JSON file of the backbone's configuration; None reads the sizes off the
            tensors.
        image_processor: Hub id or folder of the image processor that goes with the weights.
        processor_fields: fields of the one made otherwise: image_mean, image_std, and a ResNet's image_size (pixels).
        score_threshold, loading_threshold: what the checkpoint was trained with (its weights do not tell); None takes
            the preset's: 0 and 0.02 for a ViT, 1 and 0 for a ResNet.

    Raises:
        ValueError: a weight is missing, unknown, misshapen or not finite, naming it; or the backbone is not one that
            transformers can express, or labels and weights differ in number.
        FileExistsError: `output_dir` holds files already.
    """
    target = Path(output_dir)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{target} holds files already; pass a new folder, or remove it first.")
    tensors, normalisation, left_out = without_wrapper(read_state_dict(checkpoint))
    head, rest = split_head(tensors)
    backbone = None
    if head_only:
        left_out, rest = left_out + list(rest), {}
    elif not rest:
        raise ValueError(f"{checkpoint} holds a decision layer and no backbone; use head_only to convert it alone.")
    else:
        given = None if backbone_config is None else AutoConfig.from_pretrained(backbone_config)
        backbone = describe_backbone(rest, given, num_attention_heads)
    thresholds = {"score_threshold": score_threshold, "loading_threshold": loading_threshold}
    config, places = _places(head, backbone, labels, thresholds)
    _check({**head, **rest}, places, checkpoint)
    state = _our_weights({**head, **rest}, places, config)
    if backbone is not None:
        processor = _processor(backbone, image_processor, normalisation, processor_fields or {})
        model = BNDLForImageClassification.from_pretrained(None, config=config, state_dict=state)

    staging = target.parent / f".{target.name}.incomplete"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        if backbone is None:
            config.save_pretrained(staging)
            layer = {name.removeprefix(_LAYER): tensor for name, tensor in state.items()}
            save_file(layer, staging / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        else:
            model.save_pretrained(staging)
            processor.save_pretrained(staging)
        if target.is_dir():  # it is empty
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Conversion(target, config, None if backbone is None else backbone.config.model_type, left_out)


def load_decision_layer(folder: str | os.PathLike[str]) -> BNDLDecisionLayer:
    """A decision layer that was converted alone, in evaluation mode; it reads features [B, D].

    Raises:
        ValueError: the folder holds a whole model, or no decision layer.
    """
    config = BNDLConfig.from_pretrained(folder)
    if config.backbone_config is not None:
        raise ValueError(f"{folder} holds a whole model; load it with BNDLForImageClassification.from_pretrained.")
    layer = BNDLDecisionLayer(config)
    try:
        layer.load_state_dict(load_file(Path(folder) / SAFE_WEIGHTS_NAME))
    except (SafetensorError, RuntimeError, OSError) as error:
        file = Path(folder) / SAFE_WEIGHTS_NAME
        raise ValueError(f"{file} is not a decision layer's, or is damaged ({error}); convert it again.") from error
    return layer.eval()


def split_head(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the authors' head, under the names of their ViT's layers, and all others.

    Raises:
        ValueError: two weights of the same layer.
    """
    head: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _HEAD.match(name)
        if match is None:
            rest[name] = tensor
            continue
        ours = f"{match[2] or 'linear'}.{match[3]}"
        if ours in head:
            raise ValueError(f"{name} is a second {ours} of the head; remove the one that is not part of it.")
        head[ours] = tensor
    return head, rest


def _places(
    head: Mapping[str, Tensor],
    backbone: Backbone | None,
    labels: Sequence[str] | None,
    thresholds: Mapping[str, float | None],
) -> tuple[BNDLConfig, dict[str, Place]]:
    """The configuration, and the place of every weight there has to be."""
    for name in ("linear.weight", "linear_k.weight", *(name for name in head if name == "linear_add.weight")):
        if name not in head or head[name].ndim != 2:
            found = "missing" if name not in head else f"of shape {list(head[name].shape)}"
            raise ValueError(f"The head's {name} is {found}; it holds {first_names(head) or 'no weight at all'}.")
    C, K = head["linear.weight"].shape
    is_vit = "linear_add.weight" in head or (backbone is not None and backbone.config.model_type == "vit")
    D = backbone.feature_dim if backbone else head["linear_add.weight"].shape[-1] if is_vit else K
    if labels is not None and len(labels) != C:
        raise ValueError(f"There are {len(labels)} labels, but the weights have {C} classes (linear.weight).")
    fields: dict[str, Any] = {name: value for name, value in thresholds.items() if value is not None}
    fields |= {"preset": "released"} if is_vit else {"preset": "released_resnet", "loading_concentration": "per_entry"}
    if labels is None:
        fields["num_labels"] = C
    else:
        fields |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if backbone is not None:
        config = BNDLConfig.from_head(backbone.config, backbone.head_name, D, num_factors=K if is_vit else D, **fields)
    else:
        config = BNDLConfig(feature_dim=D, num_factors=K, **fields)
    places = {} if backbone is None else dict(backbone.places)
    places |= {
        "linear.weight": Place(f"{_LAYER}raw_loadings", (C, config.num_factors)),
        "linear.bias": Place(f"{_LAYER}raw_bias", (C,)),
        "linear_k.weight": Place(f"{_LAYER}score_concentration.weight", (1, config.num_factors)),
        "linear_k.bias": Place(f"{_LAYER}score_concentration.bias", (1,)),
        "linear_kw.weight": Place(f"{_LAYER}loading_concentration.weight", (1, C)),
        "linear_kw.bias": Place(f"{_LAYER}loading_concentration.bias", (1,)),
    }
    if is_vit:
        places["linear_add.weight"] = Place(f"{_LAYER}projection.weight", (config.num_factors, D))
        places["linear_add.bias"] = Place(f"{_LAYER}projection.bias", (config.num_factors,))
    return config, places


def _check(tensors: Mapping[str, Tensor], places: Mapping[str, Place], source: object) -> None:
    """Raise ValueError, naming them, for weights that are missing, unknown, misshapen or not finite."""
    missing = [name for name, place in places.items() if name not in tensors and not place.optional]
    unknown = [name for name in tensors if name not in places]
    if missing or unknown:
        raise ValueError(
            f"{source} does not fit: "
            + "; ".join(
                f"{len(names)} weight{'s' * (len(names) > 1)} {what} ({first_names(names)})"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            )
            + ". Remove what is not part of the model; for another architecture pass backbone_config, or head_only."
        )
    wrong = [
        f"{name} is {list(tensor.shape)}, should be {list(places[name].shape)}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != places[name].shape
    ]
    if wrong:
        raise ValueError(f"{source} does not fit: {len(wrong)} of {len(tensors)} shapes differ ({first_names(wrong)}).")
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{source} holds NaN or infinite values in {first_names(broken)}; the training had diverged.")


def _our_weights(tensors: Mapping[str, Tensor], places: Mapping[str, Place], config: BNDLConfig) -> dict[str, Tensor]:
    """The state dict of our model: their tensors in float32 under our names."""
    state = {
        place.name: tensors[name].float() if tensors[name].is_floating_point() else tensors[name]
        for name, place in places.items()
        if name in tensors
    }
    state |= {place.name: torch.tensor(0) for place in places.values() if place.optional and place.name not in state}
    loadings = state[f"{_LAYER}raw_loadings"].T.contiguous()  # [C, K] -> [K, C]
    state |= {f"{_LAYER}raw_loadings": loadings, f"{_LAYER}feature_scale": torch.ones(config.feature_dim)}
    if config.loading_concentration == "per_entry":
        weight, bias = (state.pop(f"{_LAYER}loading_concentration.{name}").double() for name in ("weight", "bias"))
        raw = loadings.double() @ weight.T + bias  # [K, C] @ [C, 1] -> [K, 1]
        state[f"{_LAYER}loading_concentration"] = raw.float().expand_as(loadings).contiguous()
    return state


def _processor(
    backbone: Backbone, source: Any, normalisation: Mapping[str, Any], passed: Mapping[str, Any]
) -> BaseImageProcessor:
    """The image processor that goes with the backbone; `passed` overrides `normalisation` and the usual values."""
    if source is not None:
        if passed:
            raise ValueError(f"image_processor={source!r} sets everything already; leave out {', '.join(passed)}.")
        return AutoImageProcessor.from_pretrained(source)
    fields = {**normalisation, **passed}
    size = fields.pop("image_size", None)
    channels = backbone.config.num_channels
    for name, values in fields.items():
        if len(values) != channels or (name == "image_std" and min(values) <= 0):
            raise ValueError(f"{name}={values} must be {channels} numbers, one a channel, and deviations above zero.")
    if backbone.config.model_type == "vit":
        side = backbone.config.image_size
        if size not in (None, side):
            raise ValueError(f"image_size={size}, but the position embeddings are for images of {side}; leave it out.")
        return ViTImageProcessorPil(size={"height": side, "width": side}, **fields)
    side = 224 if size is None else size
    return BitImageProcessorPil(  # torchvision's evaluation: the shorter edge to 256, the middle 224
        size={"shortest_edge": round(side * 256 / 224)},
        crop_size={"height": side, "width": side},
        resample=PILImageResampling.BILINEAR,
        **{**_IMAGENET, **fields},
    )
