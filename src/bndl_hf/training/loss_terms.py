"""What the Trainer does with the ELBO's terms: the warm-up of Eq. 12's KL weights, and their honest means in the log.

The terms, weighted as they enter the loss, are those of `bndl_hf.model.loss.elbo_terms`, which travels with the
checkpoint: `model(pixel_values, labels=labels).loss` has to be the same number where this package is not installed.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


def kl_warmup(step: int, total_steps: int, ratio: float) -> float:
    """Factor in [0, 1] on both KL weights at `step` of `total_steps`: linear over the first `ratio` of them, then 1."""
    warmup_steps = ratio * total_steps
    return 1.0 if warmup_steps <= 0 else min(1.0, step / warmup_steps)


class ELBOTerms:
    """Running sums of the loss's terms over images: equal batches, accumulation and processes give equal means."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._num_images = 0

    def add(self, terms: Mapping[str, Tensor], nll: Tensor, num_images: int) -> None:
        """Add one batch; nothing is copied off the device.

        Args:
            terms: of the loss as they enter it, the likelihood's as "nll", nats an image.
            nll: the plain negative log-likelihood of the batch. Where class weights, label smoothing or a loss function
                put something else in its place, that is logged behind it, as `likelihood_loss`.
            num_images: of the batch.
        """
        if terms["nll"] is not nll:
            priors = {name: term for name, term in terms.items() if name != "nll"}
            terms = {"nll": nll, "likelihood_loss": terms["nll"], **priors}
        self._names = list(terms)
        values = torch.stack([value.detach().double().mean() for value in terms.values()])
        weighted = values * num_images
        self._sums = weighted if self._sums is None else self._sums + weighted
        self._num_images += num_images

    def pop_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means since the last call, over the images of all processes, nats; empty when nothing was added.

        Likelihood first, then the priors' terms, and last the `loss` they add up to. Departure: the loss of
        transformers' log is a mean over batches, in which the images of a short last batch count more.
        """
        if self._sums is None:
            return {}
        everything = torch.cat([self._sums, self._sums.new_tensor([self._num_images])])
        *sums, num_images = accelerator.reduce(everything, reduction="sum").tolist()
        self._sums, self._num_images = None, 0
        means = {name: value / num_images for name, value in zip(self._names, sums, strict=True)}
        beside = means["nll"] if "likelihood_loss" in means else 0.0
        return {**means, "loss": sum(means.values()) - beside}

    def pop_before(self, logs: dict[str, float], accelerator: Accelerator, are_the_loss: bool) -> dict[str, float]:
        """`logs` behind the means since the last call.

        Args:
            logs: with the `loss` of transformers.
            accelerator: of the processes.
            are_the_loss: whether the terms are all of the loss, and their sum is to be logged for it.
        """
        means = self.pop_means(accelerator)
        return {**means, **logs, **({"loss": means["loss"]} if means and are_the_loss else {})}
