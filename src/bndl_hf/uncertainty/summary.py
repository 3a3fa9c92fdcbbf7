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
        accuracy, negative_log_likelihood (nats), brier_score, expected_calibration_error (15 bins),
        area_under_risk_coverage (by largest probability) and pavpu; `MEASURES` says what they mean.
    """
    confidence, predicted = probs.max(dim=-1)
    correct = predicted == labels
    return {
        "accuracy": accuracy(probs, labels),
        "negative_log_likelihood": negative_log_likelihood(probs, labels),
        "brier_score": brier_score(probs, labels),
        "expected_calibration_error": expected_calibration_error(probs, labels),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
        "pavpu": pavpu_from_p_value(p_value, correct, threshold=threshold).pavpu,
    }
