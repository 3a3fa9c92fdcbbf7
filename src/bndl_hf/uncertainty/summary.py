"""The figures every evaluation here reports, from one pass over probabilities and exact p-values (Sec. 5)."""

from torch import Tensor

from .calibration import expected_calibration_error
from .pavpu import pavpu_from_p_value
from .scoring import accuracy, brier_score, negative_log_likelihood
from .selective import area_under_risk_coverage


def summarize(probs: Tensor, labels: Tensor, p_value: Tensor, threshold: float = 0.05) -> dict[str, float]:
    """Accuracy, and how far the probabilities can be trusted.

    Args:
        probs: predictive probabilities, [B, C].
        labels: true classes, [B].
        p_value: of the gap between the two top classes, [B].
        threshold: an image is certain where its p-value is below. .05: the paper's value, Sec. 5.

    Returns:
        accuracy, nll (nats), ece (15 bins), brier, aurc (by largest probability) and pavpu.
    """
    confidence, predicted = probs.max(dim=-1)
    correct = predicted == labels
    return {
        "accuracy": accuracy(probs, labels),
        "nll": negative_log_likelihood(probs, labels),
        "ece": expected_calibration_error(probs, labels),
        "brier": brier_score(probs, labels),
        "aurc": area_under_risk_coverage(confidence, correct),
        "pavpu": pavpu_from_p_value(p_value, correct, threshold=threshold).pavpu,
    }
