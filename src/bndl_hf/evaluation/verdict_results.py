"""What a card says of a model's answers, from one prediction: measures, verdicts, and the curves of figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import SURE
from bndl_hf.uncertainty import accuracy_by_uncertainty_decile, realised_verdicts, risk_coverage_curve, summarize
from bndl_hf.uncertainty.calibration import calibration_bins

_CURVE_POINTS = 100


def judge_answers(
    prediction: BNDLPrediction,
    labels: Tensor,
    outsiders: Mapping[str, BNDLPrediction] | None = None,
    right: Tensor | None = None,
) -> dict[str, Any]:
    """Everything that results.json of a card holds about answers; plain numbers, lists and dictionaries.

    Args:
        prediction: of N images.
        labels: [N] true classes.
        outsiders: of images of none of the classes, by name.
        right: [N, C] bool, all classes that are right, where there can be several; images with none are left out.

    Returns:
        The measures of `summarize`, `num_images`, `verdicts`, `reliability`, `deciles`, `risk_coverage`.
    """
    labels = labels.cpu()
    confidence, predicted = prediction.probs.double().cpu().max(dim=-1)
    correct = predicted == labels
    bins = calibration_bins(prediction.probs, labels)
    groups = accuracy_by_uncertainty_decile(prediction.total.cpu(), correct, min(10, len(labels)))
    results: dict[str, Any] = {
        "num_images": len(labels),
        **summarize(prediction.probs.cpu(), labels, prediction.p_value.cpu()),
        "verdicts": None if prediction.verdict is None else realised_verdicts(prediction, labels, outsiders),
        "reliability": {
            "edges": _rounded(bins.edges),
            "count": bins.count.tolist(),
            "confidence": _rounded(bins.confidence),
            "accuracy": _rounded(bins.accuracy),
        },
        "deciles": {"entropy": {"accuracy": _rounded(groups.accuracy), "uncertainty": _rounded(groups.uncertainty)}},
        "risk_coverage": _curve(risk_coverage_curve(confidence, correct).risk),
    }
    if right is not None:
        known = right.any(dim=1)
        is_right = right.gather(1, predicted[:, None])[:, 0]
        results["all_right_labels"] = {
            "num_images": int(known.sum()),
            "accuracy": is_right[known].double().mean().item(),
        }
        if prediction.verdict is not None and (sure := (prediction.verdict.cpu() == SURE) & known).any():
            results["all_right_labels"]["errors_among_sure"] = (~is_right[sure]).double().mean().item()
    return results


def _curve(risk: Tensor) -> dict[str, list[float | None]]:
    """Points of the risk-coverage curve [B] at equal steps of coverage."""
    B = len(risk)
    places = torch.linspace(1, B, min(B, _CURVE_POINTS), dtype=torch.float64).round().long() - 1
    return {"coverage": _rounded((places + 1) / B), "risk": _rounded(risk[places])}


def _rounded(values: Tensor) -> list[float | None]:
    """Five digits; None for NaN, which JSON does not know."""
    return [None if value != value else round(value, 5) for value in values.tolist()]
