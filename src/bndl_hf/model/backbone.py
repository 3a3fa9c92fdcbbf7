"""The wrapped classifier: find the layer that makes its logits, take it out, put a stand-in where it was.

The backbone is the whole `XForImageClassification` with its last layer handing its input on, so its `.logits` *are* the
features h = f(x) of Sec. 3.2. That works for every architecture whose logits come out of one Linear or 1x1 Conv2d;
`pooler_output` is missing or not what the head reads for a third of them. The layer's name and width are configuration,
so loading needs no probe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from .backbone_inputs import example_inputs
from .evaluation_view import evaluation_view

_INSTEAD = "an image classifier with one head (vit, dinov2, swin, convnext, resnet, ...)"


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


@contextmanager
def explain_unsupported(config: PretrainedConfig) -> Iterator[None]:
    """Say what to use instead where the image classifier of `config` cannot be made inside the block.

    Raises:
        ValueError: when the architecture has no image classifier in transformers.
        ImportError: when it needs a package that is not installed (timm, natten).
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"model_type={config.model_type!r} needs a package that is missing. {str(error).strip()} Install it, or "
            f"use {_INSTEAD}."
        ) from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"model_type={config.model_type!r} has no image classifier in this transformers, so there is no head to "
            "replace; use an architecture that AutoModelForImageClassification knows (vit, dinov2, swin, convnext, "
            "resnet, ...)."
        ) from error


def build_classifier(config: PretrainedConfig) -> PreTrainedModel:
    """The image classifier `config` describes, with random weights.

    Raises:
        ValueError: when the architecture has no image classifier in transformers.
        ImportError: when it needs a package that is not installed (timm, natten).
    """
    if config.architectures is None:
        config.architectures = []  # transformers iterates over it where a type has several classifiers
    with explain_unsupported(config):
        return AutoModelForImageClassification.from_config(config)


def probe_architecture(config: PretrainedConfig) -> tuple[PretrainedConfig, str, int]:
    """Configuration, name of the head and its input width D of the classifier `config` describes.

    The classifier is built and run on the meta device, which costs no memory and no arithmetic. Where its forward
    reads a value (SigLIP 2, Perceiver) it is built and run with random weights instead.

    Raises:
        ValueError: when no single layer makes the logits, or the architecture has no image classifier.
        ImportError: when it needs a package that is not installed.
    """
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            classifier = build_classifier(config)
        # Outside the block: BEiT keeps what its forward makes for every model to come, which must be real numbers.
        head_name, feature_dim = find_head(classifier)
    except RuntimeError:  # "Tensor.item() cannot be called on meta tensors" and its like
        classifier = build_classifier(config)
        head_name, feature_dim = find_head(classifier)
    config.architectures = [type(classifier).__name__]
    return config, head_name, feature_dim


def find_head(classifier: PreTrainedModel) -> tuple[str, int]:
    """Name and input width of the layer whose output *is* the logits, found by running one random image.

    The classifier is left as it was: in its mode, its running statistics untouched.

    Returns:
        (dotted name inside the classifier, D).

    Raises:
        ValueError: when the output has no logits, or no single Linear or 1x1 Conv2d makes them.
    """
    outputs: dict[str, Tensor] = {}
    classifier = evaluation_view(classifier)
    kind, inputs = type(classifier).__name__, example_inputs(classifier)
    layers = {n: m for n, m in classifier.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            result = classifier(**inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        if inputs["pixel_values"].is_meta and isinstance(error, RuntimeError):
            raise
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise ValueError(
            f"{kind} cannot be run on {shapes} alone ({error}), so its head cannot be found; pass its name as "
            f"head_name to from_backbone_pretrained, or use {_INSTEAD}."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    logits = getattr(result, "logits", None)
    if logits is None:
        raise ValueError(
            f"{kind} returns {', '.join(result.keys())} but no logits, so the layer that makes them cannot be found; "
            f"use {_INSTEAD}."
        )
    makers = [name for name, output in outputs.items() if _same_memory(output, logits)]
    if not makers:
        same_size = [name for name, output in outputs.items() if output.shape == logits.shape]
        combined = f": it combines the outputs of {' and '.join(same_size)}. " if len(same_size) > 1 else ". "
        raise ValueError(
            f"No single Linear or Conv2d layer of {kind} makes its logits{combined}BNDL replaces one layer; use "
            f"{_single_head_variant(kind)}{_INSTEAD}."
        )
    return makers[-1], input_width(layers[makers[-1]])


def _same_memory(output: Tensor, logits: Tensor) -> bool:
    """Whether `logits` is all of `output`, perhaps in another shape; storages tell it on the meta device too."""
    return output.numel() == logits.numel() and output.untyped_storage()._cdata == logits.untyped_storage()._cdata


def _single_head_variant(kind: str) -> str:
    """How to get at the same weights with one head, where transformers has a class for that; "" elsewhere."""
    single = kind.removesuffix("WithTeacher")
    if single == kind:
        return ""
    return (
        f"{single}, which reads the same checkpoints: from_backbone_pretrained({single}.from_pretrained(...)), or "
        f"architectures=[{single!r}] in a configuration; or use "
    )


def input_width(head: nn.Linear | nn.Conv2d) -> int:
    """D, the number of features a head reads."""
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def detach_head(classifier: PreTrainedModel, head_name: str) -> nn.Linear | nn.Conv2d:
    """Replace the layer `head_name` by a stand-in that hands its input on; return the layer taken out.

    Raises:
        ValueError: when there is no such layer, or it is not a Linear or Conv2d; names the Linear layers there are.
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


def public_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a classifier's configuration without the local path it was loaded from, fit to be published."""
    public = copy.deepcopy(config)
    public._name_or_path = ""
    return public
