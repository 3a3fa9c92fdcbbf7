"""Sparse loadings: gradual pruning of the smallest ones, down to the configured density, while training goes on.

The share of loadings kept falls along a cubic (Zhu and Gupta 2017, arXiv:1710.01878), fast while there is much to
spare; what is left learns to do without the rest. Departure: the paper gets its zeros from the thresholds c_theta and
c_phi (Eqs. 9, 11) and from the initial weights, so most of the loadings are decided on before anything is learned.
"""

from __future__ import annotations

from transformers.utils import logging

from bndl_hf.model.posterior_head import PosteriorHead

logger = logging.get_logger(__name__)

# Prunings between start and end: so many that each of them takes little away.
_NUM_PRUNINGS = 100


class LoadingPruner:
    """Prunes a decision layer to `config.loading_density` between two shares of the training steps.

    Args:
        layer: its raw loadings are changed in place.
        start, end: shares of the steps, in [0, 1], between which the density falls from 1.
    """

    def __init__(self, layer: PosteriorHead, start: float, end: float) -> None:
        self._layer, self._start, self._end = layer, start, end
        self._ended = False

    def after_step(self, step: int, max_steps: int) -> None:
        """Prune where it is due after `step`, counted from 0, of `max_steps`."""
        target = self._layer.config.loading_density
        first, last = int(self._start * max_steps), max(int(self._end * max_steps) - 1, 0)
        interval = max(1, (last - first) // _NUM_PRUNINGS)
        # Not just at `last`: that very step may have been skipped (an overflow in float16, a shorter run resumed).
        ends = step >= last and not self._ended
        self._ended = step >= last
        if target == 1 or not (ends or (first <= step < last and (step - first) % interval == 0)):
            return
        left = 0.0 if ends else 1 - (step + 1 - first) / (last + 1 - first)  # of the way, 1 -> 0
        self._layer.prune_smallest(target + (1 - target) * left**3)


def warn_if_not_pruned(layer: PosteriorHead) -> None:
    """Warn where training ended with more loadings than the configuration says."""
    loadings, density = layer.raw_loadings, layer.config.loading_density
    if loadings.requires_grad and layer.sparsity() > density + loadings.shape[1] / loadings.numel():
        logger.warning(
            f"{layer.sparsity():.0%} of the loadings are above zero, not {density:.0%}: the weights are those of a "
            "step before pruning had ended (an early stop, or load_best_model_at_end). Pass a smaller pruning_end."
        )
