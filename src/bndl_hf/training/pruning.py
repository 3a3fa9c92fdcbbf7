"""Sparse loadings: gradual pruning of the smallest ones, down to the configured density, while training goes on.

The share of loadings kept falls along a cubic (Zhu and Gupta 2017, arXiv:1710.01878), fast while there is much to
spare; what is left learns to do without the rest. Departure: the paper gets its zeros from the thresholds c_theta and
c_phi (Eqs. 9, 11) and from the initial weights, so most of the loadings are decided on before anything is learned.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.adapters import trained_decision_layer

logger = logging.get_logger(__name__)

# Prunings between start and end: so many that each of them takes little away.
_NUM_PRUNINGS = 100


class LoadingPruner(TrainerCallback):
    """Prunes the decision layer in training to `config.loading_density` between two shares of the steps.

    It acts on optimizer steps: not on batches that only accumulate gradients, and not on steps that were skipped
    because a gradient overflowed in float16.

    Args:
        start, end: shares of the steps, in [0, 1], between which the density falls from 1.
    """

    def __init__(self, start: float, end: float) -> None:
        self._start, self._end = start, end
        self._ended = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Another training prunes again."""
        self._ended = False

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Prune the layer that is trained after a step of its optimizer."""
        assert model is not None
        layer = trained_decision_layer(model)
        if layer.raw_loadings.requires_grad and not getattr(optimizer, "step_was_skipped", False):
            self.after_step(layer, state.global_step, state.max_steps)

    def after_step(self, layer: PosteriorHead, step: int, max_steps: int) -> None:
        """Prune where it is due after `step`, counted from 0, of `max_steps`; the raw loadings change in place."""
        target = layer.config.loading_density
        first, last = int(self._start * max_steps), max(int(self._end * max_steps) - 1, 0)
        interval = max(1, (last - first) // _NUM_PRUNINGS)
        # Not just at `last`: that very step may have been skipped (an overflow in float16, a shorter run resumed).
        ends = step >= last and not self._ended
        self._ended = step >= last
        if target == 1 or not (ends or (first <= step < last and (step - first) % interval == 0)):
            return
        left = 0.0 if ends else 1 - (step + 1 - first) / (last + 1 - first)  # of the way, 1 -> 0
        layer.prune_smallest(target + (1 - target) * left**3)


def warn_if_not_pruned(layer: PosteriorHead, weights_of_step: int, end: float, max_steps: int) -> None:
    """Warn where training ended with more loadings than the configuration says.

    Args:
        layer: as training left it.
        weights_of_step: the step its weights are of: the last one, or the best one where that was loaded.
        end: share of the steps after which pruning has ended.
        max_steps: steps that were planned.
    """
    loadings, density = layer.raw_loadings, layer.config.loading_density
    if loadings.requires_grad and layer.sparsity() > density + loadings.shape[1] / loadings.numel():
        logger.warning(
            f"{layer.sparsity():.0%} of the loadings are above zero, not {density:.0%}: these weights are of step "
            f"{weights_of_step}, and pruning was to end at step {max(int(end * max_steps), 1)} of {max_steps}. The "
            "model works as it is; for a sparser one pass a smaller pruning_end."
        )
