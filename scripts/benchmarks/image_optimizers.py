"""The optimizer of a recipe: one for the whole network, or another one for a decision layer that has its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from image_recipes import Recipe


class Joined(torch.optim.Optimizer):
    """Several optimizers of different parameters as one: one step, one schedule, one state."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each."""
        if closure is not None:
            raise ValueError("Joined optimizers take no closure; compute the loss before the step.")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the state of each."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # new ones by now


def make_optimizer(model: Any, system: str, recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimizer; the layer of `bndl` has AdamW, as in `BNDLTrainer`, unless the recipe says otherwise.

    One learning rate cannot serve both: that layer reads features in units of their spread, whose products are tens to
    hundreds of times larger than those of plain features. The released code treats its layer as the backbone.
    """
    has_own = system == "bndl" and recipe.head_optimizer == "adamw"
    own = [p for p in model.decision_layer.parameters() if p.requires_grad] if has_own else []
    groups: dict[bool, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad and not any(parameter is p for p in own):
            groups.setdefault(recipe.decay_all or parameter.ndim >= 2, []).append(parameter)
    given: Any = [
        {"params": group, "weight_decay": recipe.weight_decay if decays else 0.0} for decays, group in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(given, lr=recipe.learning_rate, fused=fused)
    else:
        rate, momentum, nesterov = recipe.learning_rate, recipe.momentum, recipe.nesterov
        optimizer = torch.optim.SGD(given, lr=rate, momentum=momentum, nesterov=nesterov, fused=fused)
    if not own:
        return optimizer
    return Joined(optimizer, torch.optim.AdamW(own, lr=recipe.head_learning_rate, weight_decay=0.0, fused=fused))
