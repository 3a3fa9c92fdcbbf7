"""What a wrapped classifier reads: size and channels of its images, an example of them, and errors for anything else.

Most read pixel_values [B, channels, height, width]. Some (SigLIP 2) read patches cut out beforehand, [B, N, channels *
patch height * patch width], with the grid they were cut on; their forward says so by asking for `spatial_shapes`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

# Side of the example image when the configuration names none: convolutional backbones take any size.
_EXAMPLE_SIZE = 64
# Options every transformers model understands, whether or not its forward names them.
_OPTIONS = ("output_attentions", "output_hidden_states")


def input_names(classifier: PreTrainedModel) -> tuple[str, ...]:
    """Names of what a classifier's `forward` reads, in its order, without labels and return_dict."""
    parameters = inspect.signature(type(classifier).forward).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return tuple(name for name in named if name not in ("self", "labels", "return_dict"))


def example_inputs(classifier: PreTrainedModel, batch_size: int = 1) -> dict[str, Tensor]:
    """Random images of the form and size the classifier asks for, on its device and in its dtype.

    Raises:
        ValueError: when the classifier reads no pixel values.
    """
    names, config = input_names(classifier), classifier.config
    if "pixel_values" not in names:
        raise ValueError(
            f"{type(classifier).__name__} reads {names[0]}, not pixel_values, so BNDL cannot wrap it; use an image "
            "classifier that reads pixel_values (vit, dinov2, swin, convnext, resnet, ...)."
        )
    parameter = next(classifier.parameters())
    generator = torch.Generator().manual_seed(0)
    if "spatial_shapes" not in names:
        timm = getattr(classifier, "timm_model", None)  # knows its size, which its configuration may leave out
        height, width = image_size(config) or (timm and image_size(timm)) or (_EXAMPLE_SIZE, _EXAMPLE_SIZE)
        images = torch.randn(batch_size, num_channels(config), height, width, generator=generator)
        return {"pixel_values": images.to(parameter.device, parameter.dtype)}
    N = getattr(getattr(config, "vision_config", config), "num_patches", 256)
    grid = torch.tensor([math.isqrt(N), N // math.isqrt(N)])  # rows and columns; what is left of N is padding
    patches = torch.randn(batch_size, N, patch_dim(config), generator=generator)  # [B, N, C * height * width]
    return {
        "pixel_values": patches.to(parameter.device, parameter.dtype),
        "pixel_attention_mask": (torch.arange(N) < grid.prod()).long().repeat(batch_size, 1).to(parameter.device),
        "spatial_shapes": grid.repeat(batch_size, 1).to(parameter.device),
    }


def image_size(config: PretrainedConfig | nn.Module) -> tuple[int, int] | None:
    """(height, width) in pixels that `config` asks for, whatever form it is written in; None where it names none.

    An int, a pair, or {"height", "width"}; in the configuration itself, in its `vision_config`, or as timm writes it:
    `model_args["img_size"]`, or `pretrained_cfg["input_size"]` (channels, height, width), which its models have too.
    """
    size = getattr(config, "image_size", None)
    if size is None and (vision_config := getattr(config, "vision_config", None)) is not None:
        return image_size(vision_config)
    if size is None:
        size = (getattr(config, "model_args", None) or {}).get("img_size")
    if size is None:
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", ())[1:]
    if isinstance(size, dict):
        size = [size.get("height") or next(iter(size.values())), size.get("width") or next(iter(size.values()))]
    if isinstance(size, int):
        return size, size
    return (size[0], size[-1]) if size else None


def num_channels(config: PretrainedConfig) -> int:
    """Colour channels the classifier reads; 3 where the configuration does not say."""
    vision = getattr(config, "vision_config", None) or config
    timm = (getattr(config, "model_args", None) or {}).get("in_chans") or next(
        iter((getattr(config, "pretrained_cfg", None) or {}).get("input_size", ())), None
    )
    return getattr(vision, "num_channels", None) or getattr(vision, "stem_num_channels", None) or timm or 3


def patch_dim(config: PretrainedConfig) -> int:
    """Numbers in one patch: channels * patch height * patch width."""
    size = (getattr(config, "vision_config", None) or config).patch_size
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return num_channels(config) * height * width


def check_pixel_values(
    pixel_values: Tensor, config: PretrainedConfig, names: tuple[str, ...], training: bool = False
) -> None:
    """Refuse pixel values that a backbone of `config`, whose forward reads `names`, cannot have been meant for.

    While training on a GPU NaN is left for the loss to show, so that nothing waits for the device.

    Raises:
        TypeError: for anything but a tensor of floating-point numbers.
        ValueError: for another shape, no images at all, or NaN or infinite entries.
    """
    if not (isinstance(pixel_values, Tensor) and pixel_values.is_floating_point()):
        kind = pixel_values.dtype if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
        raise TypeError(
            f"pixel_values arrived as {kind}; pass a tensor of floating-point numbers, as the model's image processor "
            "makes them: processor(images, return_tensors='pt')."
        )
    if "spatial_shapes" in names:
        fits = pixel_values.ndim == 3 and pixel_values.shape[2] == patch_dim(config)
        reads = f"patches [B, N, {patch_dim(config)}] with their spatial_shapes [B, 2]"
    else:
        fits = pixel_values.ndim == 4 and pixel_values.shape[1] == num_channels(config)
        reads = f"[B, {num_channels(config)}, height, width]"
    if not fits:
        raise ValueError(
            f"pixel_values have shape {list(pixel_values.shape)}; this model reads {reads}, as its image processor "
            "makes them."
        )
    if pixel_values.shape[0] == 0:  # len() would fix the number of images of an exported graph
        raise ValueError(f"pixel_values have shape {list(pixel_values.shape)}: there are no images in it.")
    if not (torch.compiler.is_compiling() or pixel_values.is_meta or (training and pixel_values.is_cuda)):
        finite = pixel_values.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            raise ValueError(
                f"pixel_values hold NaN or infinite entries in {(~finite).sum().item()} of {len(finite)} images "
                f"(first: image {finite.int().argmin().item()} of the batch); check the image and its processor."
            )


def backbone_arguments(
    backbone: nn.Module, names: tuple[str, ...], given: Mapping[str, Tensor | bool | None]
) -> dict[str, Tensor | bool]:
    """What of `given` goes to the backbone, whose forward reads `names`: everything that is not None.

    Raises:
        TypeError: for a name the backbone's forward does not have.
        ValueError: for position encodings that cannot be interpolated, or patches without their grid.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    interpolates = arguments.pop("interpolate_pos_encoding", False)
    kind = type(backbone).__name__
    if unknown := sorted(set(arguments) - {*names, *_OPTIONS}):
        raise TypeError(
            f"{kind} does not read {', '.join(unknown)}; it reads {', '.join(names)}. Pass what its image processor "
            "makes; while training, remove_unused_columns=True leaves out other columns."
        )
    if "spatial_shapes" in names and "spatial_shapes" not in arguments:
        raise ValueError(
            f"{kind} reads patches and needs spatial_shapes [B, 2], the grid they were cut on; pass everything its "
            "image processor makes: model(**processor(images, return_tensors='pt'))."
        )
    if interpolates and not _interpolates_by_itself(backbone):
        if not _takes_interpolation(backbone):
            raise ValueError(
                f"{kind} has no position encoding to interpolate, so interpolate_pos_encoding=True does nothing here; "
                "leave it out, and resize the images to the size of its image processor if others do not fit."
            )
        arguments["interpolate_pos_encoding"] = True
    return arguments


def _takes_interpolation(backbone: nn.Module) -> bool:
    """Whether a layer of the backbone can be asked to interpolate its position encoding."""
    return any("interpolate_pos_encoding" in inspect.signature(m.forward).parameters for m in backbone.modules())


def _interpolates_by_itself(backbone: nn.Module) -> bool:
    """Whether the backbone interpolates whenever an image has another size (DINOv2), and takes no argument for it."""
    has_it = any(hasattr(module, "interpolate_pos_encoding") for module in backbone.modules())
    return has_it and not _takes_interpolation(backbone)


def features_of(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Features h = f(x) of a batch, [B, D]: its "features" where it holds them, else what the backbone makes of it.

    Args:
        model: a BNDL classifier on the device of the batch; not looked at where the batch holds features.
        batch: {"features"}, or what the backbone reads: pixel values and, for SigLIP 2, their mask and shapes.
            Labels are left out.
    """
    if "features" in batch:
        return batch["features"]
    return model.extract_features(**{name: value for name, value in batch.items() if name != "labels"})
