"""One pass of the backbone that keeps what its features were made from: the last maps of the image it computed.

Forward hooks see the output of every module. Kept are the last few that are maps of the image (token_grid.py), and the
normalisations after the pooling, so that nothing but a few maps of the last stage stays in memory. Read
position_features.py next: it finds out which of the maps the features are the average of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from bndl_hf.interpretability.maps.token_grid import TokenGrid, token_grid
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel

# Maps kept: the one that is pooled is followed by a dropout, an unused attention pool or a second norm at the most.
_KEPT = 8


@dataclass
class FeatureTrace:
    """What one backbone pass left behind.

    Attributes:
        features: h = f(x), [B, D].
        maps: the last maps of the image with two positions or more and D or D / 2 channels, each with its grid and the
            module that made it or was the last to hand it on, the latest last.
        norms: (norm, its input [B, D], its output [B, D]) of every normalisation that read one vector an image.
        image_size: (height, width) in pixels.
        pixel_values: what the backbone read, [B, channels, height, width].
        backbone_inputs: what else it read, by name.
    """

    features: Tensor
    maps: list[tuple[Tensor, TokenGrid, nn.Module]]
    norms: list[tuple[nn.Module, Tensor, Tensor]]
    image_size: tuple[int, int]
    pixel_values: Tensor
    backbone_inputs: dict[str, Tensor | bool | None]


@dataclass
class _Recorder:
    """The hook: remembers maps and norms of a batch of `batch_size` images that have one of `widths` channels."""

    batch_size: int
    widths: set[int]
    image_size: tuple[int, int]
    config: PretrainedConfig
    maps: dict[tuple[int, torch.Size], tuple[Tensor, TokenGrid, nn.Module]] = field(default_factory=dict)
    norms: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        tensor = main_tensor(output)
        if tensor is None or tensor.ndim < 2 or len(tensor) != self.batch_size:
            return
        if not self.widths & {tensor.shape[1], tensor.shape[-1]}:  # keeping no others leaves their memory to be reused
            return
        if _has_fixed_statistics(module) and tensor[0].numel() == tensor.shape[1]:  # [B, D] or [B, D, 1, 1]
            self.norms.append((module, inputs[0].flatten(1), tensor.flatten(1)))
            return
        grid = token_grid(tensor, self.image_size, self.config)
        if grid is None or grid.num_positions < 2:
            return
        key = tensor.data_ptr(), tensor.shape  # a stage hands on what its last layer made
        self.maps.pop(key, None)
        self.maps[key] = tensor, grid, module
        if len(self.maps) > _KEPT:
            del self.maps[next(iter(self.maps))]


def trace_features(
    model: BNDLPreTrainedModel, pixel_values: Tensor, **backbone_inputs: Tensor | bool | None
) -> FeatureTrace:
    """Run the backbone of a BNDL model once and keep what its features were made from.

    Args:
        model: a `BNDLForImageClassification` or a `BNDLModel`.
        pixel_values: [B, channels, height, width].
        **backbone_inputs: what else the backbone reads, see `extract_features`.

    Raises:
        ValueError: as `extract_features`.
    """
    image_size = (pixel_values.shape[-2], pixel_values.shape[-1])
    D = model.decision_layer.config.feature_dim
    widths = {D, D // 2}  # the features are as wide as the map, or twice: DINOv2's
    recorder = _Recorder(len(pixel_values), widths, image_size, model.backbone.config)
    hooks = [module.register_forward_hook(recorder) for module in model.backbone.modules()]
    try:
        features = model.extract_features(pixel_values, **backbone_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    maps = list(recorder.maps.values())
    return FeatureTrace(features, maps, recorder.norms, image_size, pixel_values, backbone_inputs)


def main_tensor(output: object) -> Tensor | None:
    """The hidden state among a module's outputs, which comes first."""
    while not isinstance(output, Tensor) and isinstance(output, tuple | list | Mapping) and output:
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output if isinstance(output, Tensor) else None


def _has_fixed_statistics(module: nn.Module) -> bool:
    """Whether a module is affine in its input once its mean and variance are known."""
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None
    return isinstance(module, nn.LayerNorm) or batch_norm
