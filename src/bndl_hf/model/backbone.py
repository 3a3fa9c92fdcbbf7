"""The wrapped classifier: find the layer that makes its logits, take it out, put a stand-in where it was.

The backbone is the whole `XForImageClassification` with its last layer handing its input on, so its `.logits` *are* the
features h = f(x) of Sec. 3.2. That works for every architecture whose logits come out of one Linear or 1x1 Conv2d;
`pooler_output` is missing or not what the head reads for a third of them. The layer's name and width are configuration,
so loading needs no probe.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

# Side of the probe image when the configuration names none: convolutional backbones take any size.
_PROBE_SIZE = 64


class DetachedHead(nn.Module):
    """Stands where the classifier's last layer was and hands its input on, flattened to [B, D].

    It owns an empty `weight` and `bias` because some initialisers (SigLIP's) write to them.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.in_features = feature_dim
        self.register_buffer("weight", torch.empty(0), persistent=False)
        self.register_buffer("bias", torch.empty(0), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` [B, D] or [B, D, 1, 1] as [B, D]."""
        return features.flatten(1) if features.ndim == 4 else features

    def extra_repr(self) -> str:
        """Show the width in `print(model)`."""
        return f"feature_dim={self.in_features}"


def build_classifier(config: PretrainedConfig) -> PreTrainedModel:
    """The image classifier `config` describes, with random weights.

    Raises:
        ValueError: when the architecture has no image classifier in transformers.
    """
    try:
        return AutoModelForImageClassification.from_config(config)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"model_type={config.model_type!r} has no image classifier in this transformers, so there is no head to "
            "replace; use an architecture that AutoModelForImageClassification knows (vit, dinov2, swin, convnext, "
            "resnet, ...)."
        ) from error


def find_head(classifier: PreTrainedModel) -> tuple[str, int]:
    """Name and input width of the layer whose output *is* the logits, found by running one random image.

    Returns:
        (dotted name inside the classifier, D).

    Raises:
        ValueError: when the output has no logits, or no single Linear or 1x1 Conv2d makes them.
    """
    outputs: dict[str, Tensor] = {}
    layers = {n: m for n, m in classifier.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    was_training = classifier.training
    try:
        with torch.no_grad():
            result = classifier.eval()(pixel_values=example_pixel_values(classifier))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(classifier).__name__} cannot be run on pixel values alone ({error}), so its head cannot be found; "
            "pass its name as head_name, or use an architecture that reads pixel_values (vit, swin, resnet, ...)."
        ) from error
    finally:
        classifier.train(was_training)
        for hook in hooks:
            hook.remove()
    logits = getattr(result, "logits", None)
    kind = type(classifier).__name__
    if logits is None:
        raise ValueError(
            f"{kind} returns {', '.join(result.keys())} but no logits, so the layer that makes them cannot be found; "
            "use an architecture whose output carries .logits."
        )
    makers = [n for n, out in outputs.items() if out.numel() == logits.numel() and out.data_ptr() == logits.data_ptr()]
    if not makers:
        same_size = [n for n, out in outputs.items() if out.shape == logits.shape]
        raise ValueError(
            f"No single Linear or Conv2d layer of {kind} makes its logits"
            + (f": it combines the outputs of {' and '.join(same_size)}. " if len(same_size) > 1 else ". ")
            + "BNDL replaces one layer; use the variant with one head (for example DeiTForImageClassification "
            "or LevitForImageClassification instead of ...WithTeacher)."
        )
    return makers[-1], input_width(layers[makers[-1]])


def input_width(head: nn.Linear | nn.Conv2d) -> int:
    """D, the number of features a head reads."""
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def detach_head(classifier: PreTrainedModel, head_name: str) -> nn.Linear | nn.Conv2d:
    """Replace the layer `head_name` by a stand-in that hands its input on; return the layer taken out.

    Raises:
        ValueError: when there is no such layer, or it is no Linear or Conv2d; names the Linear layers there are.
    """
    parent_name, _, attribute = head_name.rpartition(".")
    modules = dict(classifier.named_modules())
    head = modules.get(head_name)
    if not isinstance(head, nn.Linear | nn.Conv2d):
        linear = [n for n, m in modules.items() if isinstance(m, nn.Linear)][-5:]
        found = f"is a {type(head).__name__}" if head is not None else "does not exist"
        raise ValueError(
            f"head_name={head_name!r} {found} in {type(classifier).__name__}; BNDL replaces an nn.Linear. The last "
            f"Linear layers here: {', '.join(linear)}. Pass one of them as head_name."
        )
    setattr(modules[parent_name], attribute, DetachedHead(input_width(head)))
    return head


def example_pixel_values(classifier: PreTrainedModel, batch_size: int = 1) -> Tensor:
    """Random pixel values [B, channels, height, width] of the size the classifier's configuration asks for."""
    parameter = next(classifier.parameters())
    height, width = image_size(classifier.config) or (_PROBE_SIZE, _PROBE_SIZE)
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, num_channels(classifier.config), height, width, generator=generator)
    return pixel_values.to(parameter.device, parameter.dtype)


def image_size(config: PretrainedConfig) -> tuple[int, int] | None:
    """(height, width) in pixels that `config` asks for, whatever form it is written in; None where it names none."""
    size = getattr(config, "image_size", None)
    if size is None and getattr(config, "vision_config", None) is not None:
        return image_size(config.vision_config)
    if isinstance(size, dict):
        return size["height"], size["width"]
    if isinstance(size, int):
        return size, size
    return (size[0], size[-1]) if size else None


def num_channels(config: PretrainedConfig) -> int:
    """Colour channels the classifier reads; 3 where the configuration does not say."""
    return getattr(getattr(config, "vision_config", None) or config, "num_channels", None) or 3


def public_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a classifier's configuration without the local path it was loaded from, fit to be published."""
    public = copy.deepcopy(config)
    public._name_or_path = ""
    return public
