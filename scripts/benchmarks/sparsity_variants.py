"""Other ways to sparse loadings than pruning: gradients through zero, and proximal penalties.

choices.py compares them with what the library does, which is to prune (docs/research). They lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import TrainerCallback

from bndl_hf.baselines.heads import Head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.weibull import WeibullPosterior


class _ReLUWithGELUGradient(torch.autograd.Function):
    """max(x, 0), with the derivative of GELU(x / width): what is just below zero still learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x / width)
        return x.clamp_min(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        density = torch.exp(-0.5 * x.square()) / (2 * torch.pi) ** 0.5
        return gradient * (torch.special.ndtr(x) + x * density), None


class GradientsThroughZeroLayer(BNDLDecisionLayer):
    """BNDL whose loadings just below the threshold keep getting a gradient, so that a pruned one may come back.

    What comes back after the last pruning stays; prune until the end to have as many loadings as asked for.
    """

    width = 0.1

    @torch.no_grad()
    def zero_loadings(self, is_zero: Tensor) -> None:
        """Set loadings to zero, within reach of the gradient."""
        self.raw_loadings.masked_fill_(is_zero, self.config.loading_threshold - 0.1 * self.width)

    def loading_posterior(self) -> WeibullPosterior:
        """As BNDL's, with gradients for loadings that are zero."""
        mean = _ReLUWithGELUGradient.apply(self.raw_loadings - self.config.loading_threshold, self.width)
        return WeibullPosterior(mean, super().loading_posterior().concentration)


class ProximalPenalty(TrainerCallback):
    """After every step, the proximal map of a penalty on the means of the loadings: a lasso, or one group a factor.

    Args:
        strength: the penalty; each step shrinks a loading (a factor's norm) by the learning rate times this.
        group: whether a factor's loadings shrink together.
    """

    def __init__(self, strength: float, group: bool = False) -> None:
        self._strength, self._group = strength, group

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Shrink what is above the threshold; what reaches it is zero from then on."""
        raw, threshold = kwargs["model"].raw_loadings, kwargs["model"].config.loading_threshold
        rate = next(g["lr"] for g in kwargs["optimizer"].param_groups if any(p is raw for p in g["params"]))
        means = (raw - threshold).clamp_min(0)
        size = means.norm(dim=1, keepdim=True) if self._group else means
        shrunk = means * (1 - rate * self._strength / size.clamp_min(1e-12)).clamp_min(0)
        raw.copy_(torch.where(means > 0, shrunk + threshold, raw))


SPARSITY_HEADS = {
    "bndl_through_zero": Head(
        GradientsThroughZeroLayer,
        training={"pruning_end": 1.0},
        about="BNDL, pruned until the end; loadings at zero get the gradient of a GELU",
    ),
    "bndl_lasso": Head(
        BNDLDecisionLayer,
        {"loading_density": 1.0},
        callbacks=(ProximalPenalty(1.0),),
        about="BNDL with a proximal penalty on each loading instead of pruning",
    ),
    "bndl_group_lasso": Head(
        BNDLDecisionLayer,
        {"loading_density": 1.0},
        callbacks=(ProximalPenalty(1.0, group=True),),
        about="BNDL with a proximal penalty on each factor instead of pruning",
    ),
}
