"""The residual network that papers train on 32-pixel images: transformers' ResNet with a stem of one 3x3 convolution.

transformers' ResNet begins with a 7x7 convolution of stride 2 and a max-pool, which leaves 8x8 of a CIFAR image before
the first block. Tables for CIFAR (the paper's App. A.1 among them) are made with a stem that keeps all 32x32 pixels;
blocks, names of weights and initialisation are transformers' own. One file, so that `save_pretrained` puts it beside
the weights and a plain checkpoint loads with `trust_remote_code=True`; a checkpoint with this library's decision layer
around it needs bndl-hf installed, because the architecture of a backbone is looked up by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.models.resnet.configuration_resnet import ResNetConfig
from transformers.models.resnet.modeling_resnet import (
    ResNetConvLayer,
    ResNetEncoder,
    ResNetForImageClassification,
    ResNetModel,
    ResNetPreTrainedModel,
)


@strict
class CifarResNetConfig(ResNetConfig):
    """Configuration of a residual network for small images; by default ResNet-18 (He et al. 2016, arXiv:1512.03385).

    Args:
        embedding_size: channels of the stem.
        hidden_sizes: channels of each stage; every stage but the first halves height and width.
        depths: blocks of each stage.
        layer_type: "basic" (ResNet-18, -34) or "bottleneck" (ResNet-50).
        image_size: side of the images in pixels; others are read as well.
        stage_dropout: probability in [0, 1) with which a number at the end of a stage is set to zero while training
            (MC dropout, Gal and Ghahramani 2016, arXiv:1506.02142, draws them in prediction too).

    Raises:
        ValueError: `stage_dropout` is no such probability, or stages have no depth or no size.

    Example:
        >>> CifarResNetConfig(num_labels=10).hidden_sizes
        [64, 128, 256, 512]
    """

    model_type = "cifar_resnet"

    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] | None = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] | None = (2, 2, 2, 2)
    layer_type: str = "basic"
    image_size: int = 32
    stage_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not 0 <= self.stage_dropout < 1:
            raise ValueError(f"stage_dropout={self.stage_dropout} is a probability; it must lie in [0, 1).")
        if len(self.depths or ()) != len(self.hidden_sizes or ()):
            raise ValueError(f"depths={self.depths} and hidden_sizes={self.hidden_sizes} differ in how many stages.")

    @classmethod
    def resnet18(cls, width: float = 1.0, depths: Sequence[int] = (2, 2, 2, 2), **fields: Any) -> CifarResNetConfig:
        """ResNet-18 with `width` times the channels: 11.17 M parameters at 1 and 44.7 M at 2 (10 classes).

        Args:
            width: times 64 channels in the first stage, twice as many in each stage after it.
            depths: blocks of each stage, where it is to be another network of that kind.
            **fields: of the configuration.

        Raises:
            ValueError: a width that leaves a stage without channels.
        """
        sizes = [round(width * 64 * 2**stage) for stage in range(len(depths))]
        if sizes[0] < 1:
            raise ValueError(f"width={width} leaves {sizes[0]} channels in the first stage; pass 1/64 or more.")
        return cls(embedding_size=sizes[0], hidden_sizes=sizes, depths=list(depths), **fields)


class CifarResNetEmbeddings(nn.Module):
    """The stem: one 3x3 convolution of stride 1, BatchNorm and the activation; no pooling."""

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__()
        self.embedder = ResNetConvLayer(
            config.num_channels, config.embedding_size, kernel_size=3, activation=config.hidden_act
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, embedding_size, H, W]."""
        return self.embedder(pixel_values)


class CifarResNetModel(ResNetModel):
    """The network up to its pooled features [B, hidden_sizes[-1], 1, 1]."""

    config_class = CifarResNetConfig

    def __init__(self, config: CifarResNetConfig) -> None:
        ResNetPreTrainedModel.__init__(self, config)  # not ResNetModel's own, which builds the other stem
        self.embedder: Any = CifarResNetEmbeddings(config)
        self.encoder = ResNetEncoder(config)
        if config.stage_dropout:
            stages: Any = self.encoder.stages
            for stage in stages:
                stage.layers.append(nn.Dropout(config.stage_dropout))
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()


class CifarResNetForImageClassification(ResNetForImageClassification):
    """The network with a linear head; logits [B, C] of pixel values [B, 3, H, W].

    Example:
        >>> model = CifarResNetForImageClassification(CifarResNetConfig.resnet18(num_labels=10))
        >>> sum(p.numel() for p in model.parameters())
        11173962
    """

    config_class = CifarResNetConfig

    def __init__(self, config: CifarResNetConfig) -> None:
        ResNetPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.resnet = CifarResNetModel(config)
        sizes: Any = config.hidden_sizes  # a list by now
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(sizes[-1], int(config.num_labels or 0)))
        self.post_init()


# `save_pretrained` writes this file beside the weights and names these classes in the configuration.
CifarResNetConfig.register_for_auto_class()
CifarResNetModel.register_for_auto_class("AutoModel")
CifarResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
