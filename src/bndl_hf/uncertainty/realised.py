"""What verdicts came to on images that nothing was fitted on: were promises kept, and how many got an answer."""

from __future__ import annotations

from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import SURE, TORN, UNFAMILIAR

from .validation import check_labels


def realised_verdicts(prediction: BNDLPrediction, labels: Tensor | None = None) -> dict[str, float | int | None]:
    """How many images are sure, torn and unfamiliar, and with labels how often that was right.

    Args:
        prediction: with verdicts (`model.set_decisions`).
        labels: [B] true classes; None for images that belong to no class.

    Returns:
        `num_images`; `share_sure`, `share_torn`, `share_unfamiliar`, fractions; with labels `errors_among_sure`, the
        realised risk, `accuracy_torn`, and where there are prediction sets `set_coverage_torn`, `mean_set_size_torn`. A
        figure of no image is None.

    Raises:
        ValueError: the prediction has no verdicts, or labels do not fit.

    Example:
        >>> model.set_decisions(fit_decisions(model, held_out, progress=False))
        >>> realised_verdicts(model.predict(pixel_values))["share_sure"]
        0.0
    """
    if prediction.verdict is None:
        raise ValueError("The prediction has no verdicts; call model.set_decisions(fit_decisions(...)) first.")
    verdict = prediction.verdict.cpu()
    names = {"share_sure": SURE, "share_torn": TORN, "share_unfamiliar": UNFAMILIAR}
    found: dict[str, float | int | None] = {"num_images": len(verdict)}
    found |= {name: (verdict == code).double().mean().item() for name, code in names.items()}
    if labels is None:
        return found
    truth = check_labels(labels, *prediction.probs.shape)
    correct = prediction.predicted_labels.cpu() == truth.cpu()
    accuracy_sure = _mean(correct[verdict == SURE])
    found["errors_among_sure"] = None if accuracy_sure is None else 1 - accuracy_sure
    found["accuracy_torn"] = _mean(correct[verdict == TORN])
    if prediction.prediction_sets is not None:
        sets = prediction.prediction_sets.cpu()[verdict == TORN]
        found["set_coverage_torn"] = _mean(sets.gather(1, truth.cpu()[verdict == TORN][:, None]))
        found["mean_set_size_torn"] = _mean(sets.sum(dim=-1))
    return found


def _mean(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None
