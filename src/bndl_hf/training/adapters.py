"""Training with adapters: a `PeftModel` around a BNDL classifier, its decision layer in `modules_to_save`.

peft is never imported here: a model that has adapters was made with it. docs/peft.md shows the whole way.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import BNDLTrainingArguments


def has_adapters(model: nn.Module) -> bool:
    """Whether `model` is a `PeftModel`."""
    return not isinstance(model, PreTrainedModel) and hasattr(model, "peft_config")


def trained_decision_layer(model: nn.Module) -> PosteriorHead:
    """The decision layer that training changes: with peft the copy it made, not the layer it was copied from."""
    layer: Any = model if isinstance(model, PosteriorHead) else model.decision_layer
    return layer if isinstance(layer, PosteriorHead) else layer.modules_to_save[layer.active_adapters[0]]


def check_adapters(model: nn.Module, args: BNDLTrainingArguments) -> None:
    """Raise ValueError where the arguments or the adapters would freeze what is there to train."""
    if args.freeze_backbone or args.cache_features:
        given = "freeze_backbone" if args.freeze_backbone else "cache_features"
        raise ValueError(
            f"{given}=True, but the model has adapters in its backbone, which change the features; leave it out "
            "(peft freezes the backbone's own weights), or train the model without adapters."
        )
    layer = trained_decision_layer(model)
    if layer.config.num_training_images is None and not any(p.requires_grad for p in layer.parameters()):
        raise ValueError(
            "The decision layer was never trained and the adapters leave it frozen; pass "
            'modules_to_save=["decision_layer"] to LoraConfig.'
        )


def hold_statistics(model: nn.Module) -> None:
    """Put frozen BatchNorms of a model with adapters into evaluation mode.

    In training mode they would go on collecting statistics, which the adapter's file does not hold: the model that is
    loaded from it would answer differently.
    """
    if has_adapters(model):
        for module in model.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
