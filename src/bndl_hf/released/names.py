"""The names of the authors' state dicts, and what each weight is called and shaped in a BNDL checkpoint.

Their ViT is transformers' own with `classifier` replaced, their ImageNet ResNet is torchvision's with BNDL around `fc`.
Sizes are read off the tensors; a backbone is then a table of every name there has to be, so that each missing, unknown
or misshapen weight can be named. conversion.py goes through the tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor
from transformers import PretrainedConfig, ResNetConfig, ViTConfig

ConfigT = TypeVar("ConfigT", bound=PretrainedConfig)

HEAD_WIDTH = 64  # features an attention head reads in every published ViT


@dataclass(frozen=True)
class Place:
    """Where a weight goes: its name in our checkpoint, the shape it has in theirs, and whether it may be left out."""

    name: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Backbone:
    """A wrapped classifier: its configuration, the layer BNDL replaces, and the place of each of its weights."""

    config: PretrainedConfig
    head_name: str
    feature_dim: int
    places: dict[str, Place]


def describe_backbone(
    tensors: Mapping[str, Tensor], config: PretrainedConfig | None = None, num_attention_heads: int | None = None
) -> Backbone:
    """The backbone that weights without their head belong to.

    Args:
        tensors: names as in the authors' state dicts.
        config: a `ViTConfig` or `ResNetConfig`; None reads every size off the tensors.
        num_attention_heads: of a ViT, which no tensor tells; None takes one for every 64 features.

    Raises:
        ValueError: for another architecture, or one that transformers cannot express.
    """
    if any(name.startswith("vit.") for name in tensors):
        vit = vit_config(tensors, num_attention_heads) if config is None else _checked(config, "vit", ViTConfig)
        vit.image_size, vit.patch_size = _side(vit.image_size, "image_size"), _side(vit.patch_size, "patch_size")
        return Backbone(vit, "classifier", vit.hidden_size, vit_places(vit))
    if any(re.match(r"layer\d+\.", name) for name in tensors):
        if num_attention_heads is not None:
            raise ValueError(f"num_attention_heads={num_attention_heads}, but this is a ResNet; leave it out.")
        _check_stem(tensors)
        resnet = resnet_config(tensors) if config is None else _checked(config, "resnet", ResNetConfig)
        return Backbone(resnet, "classifier.1", _stages(resnet)[-1][0], resnet_places(resnet))
    raise ValueError(
        f"The {len(tensors)} weights beside the head are neither a ViT's (vit.embeddings...) nor a ResNet's "
        f"(layer1.0.conv1...): {', '.join(sorted(tensors)[:3])}. Use head_only to convert the decision layer alone."
    )


def _checked(config: PretrainedConfig, model_type: str, config_class: type[ConfigT]) -> ConfigT:
    if not isinstance(config, config_class):
        raise ValueError(f"backbone_config is of model_type={config.model_type!r}; these weights are a {model_type}'s.")
    return config


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a weight that the sizes of the architecture are read off."""
    if name not in tensors:
        raise ValueError(f"{name} is missing, so the architecture cannot be read off the weights.")
    if tensors[name].ndim != dimensions:
        raise ValueError(f"{name} has shape {list(tensors[name].shape)}; it should have {dimensions} dimensions.")
    return tuple(tensors[name].shape)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the largest number that follows `prefix` in a name."""
    numbers = [int(m[1]) for name in tensors if (m := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    return max(numbers, default=-1) + 1


# ---- ViT ----


def vit_config(tensors: Mapping[str, Tensor], num_attention_heads: int | None = None) -> ViTConfig:
    """Configuration of the ViT that `tensors` (vit.embeddings..., vit.encoder.layer.N...) belong to.

    Raises:
        ValueError: a tensor that tells a size is missing, or the sizes are not a ViT's that transformers can build.
    """
    width, channels, patch, patch_width = _shape(tensors, "vit.embeddings.patch_embeddings.projection.weight", 4)
    num_patches = _shape(tensors, "vit.embeddings.position_embeddings", 3)[1] - 1  # one position is the class token's
    side = math.isqrt(max(num_patches, 0))
    if patch != patch_width or side == 0 or side * side != num_patches:
        raise ValueError(
            f"{num_patches} positions of {patch}x{patch_width} patches are not a square image; pass backbone_config."
        )
    intermediate = _shape(tensors, "vit.encoder.layer.0.intermediate.dense.weight", 2)[0]
    heads = width // HEAD_WIDTH if num_attention_heads is None else num_attention_heads
    if heads < 1 or width % heads or (num_attention_heads is None and width % HEAD_WIDTH):
        raise ValueError(
            f"A hidden size of {width} does not divide into "
            + (f"heads of {HEAD_WIDTH}" if num_attention_heads is None else f"{heads} heads")
            + "; the weights do not tell how many attention heads there are. Pass num_attention_heads."
        )
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=_count(tensors, "vit.encoder.layer."),
        num_attention_heads=heads,
        intermediate_size=intermediate,
        image_size=side * patch,
        patch_size=patch,
        num_channels=channels,
        qkv_bias="vit.encoder.layer.0.attention.attention.query.bias" in tensors,
    )


def vit_places(config: ViTConfig) -> dict[str, Place]:
    """The place of every weight of the ViT; transformers writes them under the names the authors' have."""
    D, hidden = config.hidden_size, config.intermediate_size
    patch, side = _side(config.patch_size, "patch_size"), _side(config.image_size, "image_size")
    positions = (side // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, D),
        "embeddings.position_embeddings": (1, positions, D),
        "embeddings.patch_embeddings.projection.weight": (D, config.num_channels, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (D,),
        "layernorm.weight": (D,),
        "layernorm.bias": (D,),
    }
    for index in range(config.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}.attention.attention.{name}.weight"] = (D, D)
            if config.qkv_bias:
                shapes[f"{layer}.attention.attention.{name}.bias"] = (D,)
        for name, (outputs, inputs) in {
            "attention.output.dense": (D, D),
            "intermediate.dense": (hidden, D),
            "output.dense": (D, hidden),
        }.items():
            shapes |= {f"{layer}.{name}.weight": (outputs, inputs), f"{layer}.{name}.bias": (outputs,)}
        for name in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer}.{name}.weight": (D,), f"{layer}.{name}.bias": (D,)}
    return {f"vit.{name}": Place(f"backbone.vit.{name}", shape) for name, shape in shapes.items()}


def _side(size: int | Iterable[int], name: str) -> int:
    """Pixels of a square's side, which a configuration may write as one number or two."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"backbone_config has {name}={size}; these weights are of a ViT for square images.")
    return int(sides.pop())


# ---- ResNet ----


def _check_stem(tensors: Mapping[str, Tensor]) -> None:
    kernel = _shape(tensors, "conv1.weight", 4)[2:]
    if kernel != (7, 7):
        raise ValueError(
            f"conv1.weight has a {kernel[0]}x{kernel[1]} kernel: this ResNet is of the kind made for CIFAR, which does "
            "not shrink the image at its start. transformers' ResNet begins with a 7x7 convolution of stride 2 and a "
            "max pool, so this backbone cannot be one of its models. Use head_only to convert the decision layer alone."
        )


def resnet_config(tensors: Mapping[str, Tensor]) -> ResNetConfig:
    """Configuration of the ResNet that `tensors` (conv1, bn1, layerN.M.convK...) belong to.

    Blocks with a conv3 are bottlenecks, whose stride is in the 3x3 convolution (torchvision's "v1.5").

    Raises:
        ValueError: a tensor that tells a size is missing.
    """
    embedding, channels, *_ = _shape(tensors, "conv1.weight", 4)
    stages = range(1, _count(tensors, "layer"))
    last = 3 if "layer1.0.conv3.weight" in tensors else 2
    return ResNetConfig(
        num_channels=channels,
        embedding_size=embedding,
        hidden_sizes=[_shape(tensors, f"layer{i}.0.conv{last}.weight", 4)[0] for i in stages],
        depths=[_count(tensors, f"layer{i}.") for i in stages],
        layer_type="bottleneck" if last == 3 else "basic",
        downsample_in_bottleneck=False,
    )


def _stages(config: ResNetConfig) -> list[tuple[int, int]]:
    """(width, number of blocks) of each stage."""
    return list(zip(config.hidden_sizes or (), config.depths or (), strict=True))


def resnet_places(config: ResNetConfig) -> dict[str, Place]:
    """The place of every weight of a ResNet with torchvision's names."""
    places: dict[str, Place] = {}

    def convolution(theirs: tuple[str, str], ours: str, outputs: int, inputs: int, kernel: int) -> None:
        """A convolution without bias and the BatchNorm behind it."""
        ours = f"backbone.resnet.{ours}"
        places[f"{theirs[0]}.weight"] = Place(f"{ours}.convolution.weight", (outputs, inputs, kernel, kernel))
        for name in ("weight", "bias", "running_mean", "running_var"):
            places[f"{theirs[1]}.{name}"] = Place(f"{ours}.normalization.{name}", (outputs,))
        batches = "num_batches_tracked"  # torch before 0.4.1 did not write it
        places[f"{theirs[1]}.{batches}"] = Place(f"{ours}.normalization.{batches}", (), optional=True)

    convolution(("conv1", "bn1"), "embedder.embedder", config.embedding_size, config.num_channels, 7)
    inputs = config.embedding_size
    for stage, (outputs, depth) in enumerate(_stages(config)):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            width = outputs // 4
            layers = (
                [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
                if config.layer_type == "bottleneck"
                else [(outputs, inputs, 3), (outputs, outputs, 3)]
            )
            for number, sizes in enumerate(layers):
                names = f"{theirs}.conv{number + 1}", f"{theirs}.bn{number + 1}"
                convolution(names, f"{ours}.layer.{number}", *sizes)
            if block == 0 and (stage > 0 or inputs != outputs):  # the first stage keeps the stride at 1
                names = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
                convolution(names, f"{ours}.shortcut", outputs, inputs, 1)
            inputs = outputs
    return places
