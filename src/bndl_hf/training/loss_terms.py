"""What the Trainer does with the ELBO's terms: the warm-up of Eq. 12's KL weights, and their honest means in the log.

The loss itself is `bndl_hf.model.loss.negative_elbo`: it travels with the checkpoint, because
`model(pixel_values, labels=labels).loss` has to be the same number where this package is not installed.
"""

import torch
from accelerate import Accelerator
from torch import Tensor

from bndl_hf.model.outputs import BNDLImageClassifierOutput

TERMS = ("nll", "kl_local", "kl_global")


def kl_warmup(step: int, total_steps: int, ratio: float) -> float:
    """Factor in [0, 1] on both KL weights at `step` of `total_steps`: linear over the first `ratio` of them, then 1."""
    warmup_steps = ratio * total_steps
    return 1.0 if warmup_steps <= 0 else min(1.0, step / warmup_steps)


class ELBOTerms:
    """Running sums of nll and KL terms over images: equal batches, accumulation and processes give equal means."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, output: BNDLImageClassifierOutput, num_images: int) -> None:
        """Add one batch of `num_images`; nothing is copied off the device."""
        values = torch.stack([getattr(output, name).detach().double() for name in TERMS])
        weighted = torch.cat([values * num_images, values.new_tensor([num_images])])
        self._sums = weighted if self._sums is None else self._sums + weighted

    def pop_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means since the last call, over all processes; empty when nothing was added. Nats."""
        if self._sums is None:
            return {}
        sums = accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = None
        return {name: value / sums[-1] for name, value in zip(TERMS, sums[:-1], strict=True)}
