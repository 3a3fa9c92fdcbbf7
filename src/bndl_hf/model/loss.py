"""The loss and its terms: where the likelihood and the two KLs meet, the only place that weighs them (Eqs. 12-13)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_bndl import BNDLConfig
from .presets import KL_LOCAL_BUDGET


def likelihood_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean negative log-likelihood of the labels under the softmax of the logits, nats.

    Args:
        logits: [B, C], whose softmax is the predictive.
        labels: [B].
        class_weights: [C], what an image of each class counts; None counts all alike. The mean is over images, not
            over weights, so that batches, accumulation and processes add up: normalise the weights once, to a mean of
            one over the training images.
        label_smoothing: share of the target, in [0, 1), spread evenly over the classes.
    """
    per_image = F.cross_entropy(logits, labels, class_weights, reduction="none", label_smoothing=label_smoothing)
    return per_image.mean()


def elbo_terms(
    nll: Tensor, kl_local: Tensor, kl_global: Tensor, config: BNDLConfig, kl_scale: float = 1.0
) -> dict[str, Tensor]:
    """The terms of the negative ELBO as they enter it, nats an image: they add up to it.

        nll          as it is given
        kl_scores    kl_scale * kl_local_weight * KL(theta)
        kl_loadings  kl_scale * kl_global_weight * KL(Phi) / N

    Args:
        nll: mean negative log-likelihood of the batch.
        kl_local: sum over factors of the scores' KL, mean over the batch.
        kl_global: sum over all loadings of their KL.
        config: `kl_local_weight`, `kl_global_weight`, `kl_global_scaling` and `num_training_images` (N).
        kl_scale: warm-up factor in [0, 1] on both KL terms.

    Returns:
        Scalars by name, the likelihood first. A term of weight zero is a zero that no gradient passes through; that of
        the loadings has none while N is unknown and the scaling is "per_image".

    With objective "sampled" and every weight at 1 their sum is Eq. 12. Departure: the default weighs the scores' KL
    down, because at full weight the scores collapse to their prior and accuracy to chance; and its "exact" objective
    puts the logarithm of the mean-field predictive where Eq. 12 has the expected log-likelihood, so it is not a bound.
    """
    if config.kl_global_scaling == "per_factor":
        global_weight = config.kl_global_weight / config.num_factors
    elif config.num_training_images is not None:
        global_weight = config.kl_global_weight / config.num_training_images
    else:
        global_weight = 0.0
    local_weight = config.kl_local_weight
    if local_weight is None:
        local_weight = KL_LOCAL_BUDGET / config.num_factors

    def weighted(weight: float, kl: Tensor) -> Tensor:
        return kl_scale * weight * kl if kl_scale * weight else torch.zeros_like(nll)

    return {
        "nll": nll,
        "kl_scores": weighted(local_weight, kl_local),
        "kl_loadings": weighted(global_weight, kl_global),
    }


def negative_elbo(
    nll: Tensor, kl_local: Tensor, kl_global: Tensor, config: BNDLConfig, kl_scale: float = 1.0
) -> Tensor:
    """Negative ELBO, nats an image: the sum of `elbo_terms`, which has the arguments and the formula. A scalar."""
    return add_up(elbo_terms(nll, kl_local, kl_global, config, kl_scale))


def add_up(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss that `terms` are the parts of, a scalar."""
    first, *others = terms.values()
    for term in others:
        first = first + term
    return first
