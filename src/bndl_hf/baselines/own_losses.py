"""The likelihood of heads whose loss is not the cross-entropy of their logits, weighed as that would be."""

from __future__ import annotations

from torch import Tensor


def expected_loss(
    log_likelihood: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean over the images of minus the log-likelihood of their labels, nats.

    With a log-softmax for the log-likelihood it is `likelihood_loss`: weights and smoothing mean the same.

    Args:
        log_likelihood: of every class, [B, C], whether or not its exponentials add up to one.
        labels: [B].
        class_weights: [C], what an image of each class counts; None counts all alike.
        label_smoothing: share of the target, in [0, 1), spread evenly over the classes.
    """
    weighted = log_likelihood if class_weights is None else log_likelihood * class_weights
    of_label = weighted.gather(1, labels[:, None]).squeeze(1)
    return -((1 - label_smoothing) * of_label + label_smoothing * weighted.mean(dim=1)).mean()
