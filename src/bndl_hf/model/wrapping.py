"""Wrapping a pretrained classifier: its last layer goes, the decision layer comes; the backbone's weights stay."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from .backbone import detach_head, example_pixel_values, find_head, input_width
from .warm_start import start_from_dense

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def wrap_classifier(
    model_class: type[ModelT],
    classifier: PreTrainedModel,
    num_labels: int | None,
    warm_start: bool,
    head_name: str | None,
    bndl_config_kwargs: dict[str, Any],
) -> ModelT:
    """A `model_class` around `classifier`, which is changed in place; see `from_backbone_pretrained`."""
    if warm_start:
        _check_labels(classifier.config.id2label, num_labels, bndl_config_kwargs.get("id2label"))
    head_name = find_head(classifier)[0] if head_name is None else head_name
    head = detach_head(classifier, head_name)
    feature_dim = input_width(head)
    signed = False
    if warm_start:
        with torch.no_grad():
            example = example_pixel_values(classifier, batch_size=8)
            signed = bool((classifier.eval()(pixel_values=example).logits < 0).any())
        bndl_config_kwargs.setdefault("num_factors", 2 * feature_dim if signed else feature_dim)
    config = model_class.config_class.from_head(
        classifier.config, head_name, feature_dim, num_labels=num_labels, **bndl_config_kwargs
    )
    model = model_class(config)
    model.backbone = classifier
    model.to(classifier.dtype)
    if warm_start:
        start_from_dense(model.decision_layer, head.weight, head.bias, signed=signed)
    return model.eval()


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
