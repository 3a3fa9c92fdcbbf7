"""What a BNDL model returns from `forward`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class BNDLImageClassifierOutput(ModelOutput):
    """What a BNDL classifier, or its decision layer alone, returns.

    Attributes:
        loss: while training the negative ELBO with the configured weights, nats per image (Eq. 12); in evaluation
            mode `nll`. None without labels.
        logits: [B, C]; their softmax is the predictive, in evaluation mode that of `predict`: gaps to the top class,
            each divided by its damping (mean_field.py). While training with objective "exact" the label is the
            reference of the gaps and nothing is recalibrated; with objective "sampled" they are those of the one draw.
        nll: mean negative log-likelihood of the labels, the cross-entropy of `logits`, nats; None without labels.
        kl_local: sum over factors of the scores' KL, mean over the images, nats; None without labels.
        kl_global: sum over all loadings of their KL, nats; None without labels.
        logits_mean: [B, C], at the posterior mean: what explanations add up to.
        factor_scores: E[theta], [B, K], >= 0.
        hidden_states, attentions: the backbone's own, when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    nll: Tensor | None = None
    kl_local: Tensor | None = None
    kl_global: Tensor | None = None
    logits_mean: Tensor | None = None
    factor_scores: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BNDLModelOutput(ModelOutput):
    """Factor scores of a batch of images.

    Attributes:
        factor_scores: E[theta], [B, K], >= 0.
        concentration: Weibull concentration of the scores, [B, K].
        hidden_states, attentions: the backbone's own, when asked for.
    """

    factor_scores: Tensor | None = None
    concentration: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
