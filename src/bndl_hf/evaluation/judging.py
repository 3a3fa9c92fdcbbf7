"""How often a model is right, and how far its uncertainty can be trusted: every measure of `bndl_hf.uncertainty`, from
one pass over a dataset and one over each set of images that belong to none of its classes (Sec. 5).

predictions.py makes the pass, MEASURES says what the numbers mean, `scripts/evaluate.py` writes and draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bndl_hf.evaluation.predictions import ImagePredictions, PredictionSettings, predict_dataset
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.predictive import paired_p_value
from bndl_hf.uncertainty import (
    CalibrationBins,
    PAvPUCounts,
    accuracy_by_uncertainty_decile,
    area_under_risk_coverage,
    coverage_at_risk,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    ood_aupr,
    ood_auroc,
    ood_fpr95,
    pavpu_from_p_value,
    risk_at_coverage,
)
from bndl_hf.uncertainty.calibration import bin_equal_mass, bin_equal_width

# Key in the results -> what it means, in the order they are shown.
MEASURES: dict[str, str] = {
    "accuracy": "share of images answered right",
    "nll": "negative log-likelihood of the labels, nats; smaller is better",
    "brier": "squared error of the probabilities, 0 to 2; smaller is better",
    "brier_reliability": "the part of it that calibration would remove; 0 is perfect",
    "brier_resolution": "the part won by telling images apart; larger is better",
    "ece": "expected calibration error of the top class, 15 bins of equal width; 0 is perfect",
    "adaptive_ece": "the same, 15 bins of equally many images",
    "classwise_ece": "the same for every class's probability, mean over classes",
    "aurc": "area under the risk-coverage curve by largest probability; smaller is better",
    "excess_aurc": "what of it the best order would avoid",
    "coverage_at_1_percent_risk": "share of images it can answer with at most 1 % errors among them",
    "coverage_at_5_percent_risk": "the same with at most 5 %",
    "risk_at_80_percent_coverage": "share of errors when the least sure 20 % are not answered",
    "risk_at_90_percent_coverage": "the same with the least sure 10 %",
    "error_detection_auroc": "chance that a right answer has a larger probability than a wrong one",
    "pavpu": "accurate-certain plus inaccurate-uncertain, exact t-test",
    "share_certain": "share of images called certain by that test",
    "accuracy_certain": "share of those that are right",
    "accuracy_uncertain": "share of the others that are right",
    "total_uncertainty": "mean entropy, nats: aleatoric plus epistemic",
    "aleatoric_uncertainty": "mean of the part more training data would not remove, nats",
    "epistemic_uncertainty": "mean of the part it would, nats",
    "sparsity": "share of loadings above 1e-5; smaller is sparser",
}
OOD_MEASURES: dict[str, str] = {
    "auroc": "chance that an image from outside has the higher score; .5 is guessing",
    "fpr95": "share of the dataset's own images flagged with 95 % of those from outside; smaller is better",
    "aupr": "area under the precision-recall curve, outside is positive",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured, and the numbers per image behind it.

    `results` is what results.json holds: numbers by the names of MEASURES, `pavpu_by_samples`, `reliability`,
    `deciles`, `scores`, and `ood` by set and score.
    """

    results: dict[str, Any]
    predictions: ImagePredictions
    ood: dict[str, ImagePredictions] = field(default_factory=dict)


def evaluate_classifier(
    model: BNDLForImageClassification,
    dataset: Any,
    *,
    cache_dir: str | Path,
    collate: Any,
    ood_datasets: Mapping[str, Any] | None = None,
    processor: Any = None,
    settings: PredictionSettings | None = None,
    num_workers: int = 0,
) -> Evaluation:
    """Every measure of a model on `dataset` and, for OOD detection, on images from outside.

    Args:
        model: on the device it is to run on.
        dataset: a `datasets.Dataset` whose rows are {"pixel_values", "labels"}, see `ImageDataset.with_pixel_values`.
        cache_dir: where predictions are kept, so that an interrupted evaluation goes on; see `predict_dataset`.
        collate: makes a batch of rows.
        ood_datasets: name -> a dataset alike, whose labels are not looked at; see `load_unlabelled_images`.
        processor: the image processor behind the rows.
        settings: batch size, numbers of draws for the sampled PAvPU, seed.
        num_workers: processes that decode images.

    Returns:
        An Evaluation; the same in every process, and whatever their number.

    Raises:
        ValueError: a dataset is empty, labels fit no class, or the model's logits are not finite.
    """
    settings = settings or PredictionSettings()
    shared = {"cache_dir": cache_dir, "collate": collate, "processor": processor, "num_workers": num_workers}
    predictions = predict_dataset(model, dataset, settings, name="the dataset", **shared)
    undrawn = PredictionSettings(settings.batch_size, (), settings.num_bins, settings.seed)
    outside = {
        name: predict_dataset(model, images, undrawn, has_labels=False, name=name, **shared)
        for name, images in (ood_datasets or {}).items()
    }
    config = model.config
    results = judge(predictions, config.num_samples, config.certainty_threshold)
    results["sparsity"] = model.decision_layer.sparsity()
    if outside:
        results["ood"] = {name: judge_ood(predictions, other) for name, other in outside.items()}
    results["settings"] = {
        "batch_size": settings.batch_size,
        "num_bins": settings.num_bins,
        "seed": settings.seed,
        "num_samples": config.num_samples,
        "threshold": config.certainty_threshold,
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
    }
    return Evaluation(results, predictions, outside)


def judge(predictions: ImagePredictions, num_samples: int, threshold: float) -> dict[str, Any]:
    """Everything that labelled predictions tell, by the names of MEASURES; plain numbers, lists and dictionaries.

    Args:
        predictions: with labels.
        num_samples: S the exact p-values stand for.
        threshold: certain iff p < threshold.
    """
    correct, confidence = predictions.correct, predictions.confidence
    assert predictions.nll is not None
    assert predictions.brier is not None
    assert predictions.class_bins is not None
    brier, parts = _mean(predictions.brier), predictions.class_bins
    bins, equal_mass = reliability_bins(predictions), reliability_bins(predictions, "equal_mass")
    exact = pavpu_from_p_value(predictions.p_value, correct, threshold, num_samples=num_samples)
    by_samples = pavpu_by_samples(predictions, {num_samples, *predictions.p_value_sampled}, threshold)
    certain, uncertain = _share_right(exact)
    return {
        "num_images": len(predictions),
        "accuracy": _mean(correct),
        "nll": _mean(predictions.nll),
        "brier": brier,
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "brier_within_bin": brier - (parts.reliability - parts.resolution + parts.uncertainty),
        "ece": bins.expected_calibration_error,
        "adaptive_ece": equal_mass.expected_calibration_error,
        "classwise_ece": parts.calibration_error,
        "aurc": area_under_risk_coverage(confidence, correct),
        "excess_aurc": excess_area_under_risk_coverage(confidence, correct),
        "coverage_at_1_percent_risk": coverage_at_risk(confidence, correct, 0.01),
        "coverage_at_5_percent_risk": coverage_at_risk(confidence, correct, 0.05),
        "risk_at_80_percent_coverage": risk_at_coverage(confidence, correct, 0.8),
        "risk_at_90_percent_coverage": risk_at_coverage(confidence, correct, 0.9),
        "error_detection_auroc": _defined(error_detection_auroc(confidence, correct)),
        "pavpu": exact.pavpu,
        **{
            f"pavpu_{counts['num_samples']}_draws": counts["pavpu"]
            for counts in by_samples
            if counts["test"] == "paired"
        },
        "share_certain": (exact.accurate_certain + exact.inaccurate_certain) / exact.num_images,
        "accuracy_certain": certain,
        "accuracy_uncertain": uncertain,
        "total_uncertainty": _mean(predictions.total),
        "aleatoric_uncertainty": _mean(predictions.aleatoric),
        "epistemic_uncertainty": _mean(predictions.epistemic),
        "pavpu_by_samples": by_samples,
        "scores": {
            name: {
                "aurc": area_under_risk_coverage(-score, correct),
                "error_detection_auroc": _defined(error_detection_auroc(-score, correct)),
            }
            for name, score in predictions.scores.items()
        },
        "reliability": _bins_as_lists(bins),
        "deciles": deciles(predictions),
    }


def judge_ood(inside: ImagePredictions, outside: ImagePredictions) -> dict[str, Any]:
    """AUROC, FPR95 and AUPR of every score, with the number of images and the share of them called certain."""
    measures = {"auroc": ood_auroc, "fpr95": ood_fpr95, "aupr": ood_aupr}
    return {
        "num_images": len(outside),
        "confidence": _mean(outside.confidence),
        "scores": {
            name: {key: measure(score, outside.scores[name]) for key, measure in measures.items()}
            for name, score in inside.scores.items()
        },
    }


def pavpu_by_samples(predictions: ImagePredictions, num_samples: set[int], threshold: float) -> list[dict[str, Any]]:
    """PAvPU with its counts and settings for every number of draws S: exact, and sampled where there were draws."""
    correct, rows = predictions.correct, []
    for S in sorted(num_samples):
        exact = paired_p_value(predictions.gap_ratio, S)
        rows.append(pavpu_from_p_value(exact, correct, threshold, num_samples=S))
        if S in predictions.p_value_sampled:
            sampled = predictions.p_value_sampled[S]
            counts = asdict(pavpu_from_p_value(sampled, correct, threshold, test="paired", num_samples=S))
            rows.append(PAvPUCounts(**{**counts, "num_zero_spread": int(predictions.zero_spread[S].sum())}))
    return [{"pavpu": row.pavpu, **asdict(row)} for row in rows]


def reliability_bins(
    predictions: ImagePredictions, strategy: str = "equal_width", num_bins: int = 15
) -> CalibrationBins:
    """Bins of the largest probability: "equal_width" or "equal_mass"."""
    make = bin_equal_width if strategy == "equal_width" else bin_equal_mass
    return make(predictions.confidence.double(), predictions.correct.double(), num_bins)


def deciles(predictions: ImagePredictions, num_groups: int = 10) -> dict[str, dict[str, list[float]]]:
    """Accuracy and mean uncertainty of ten groups by p-value (z; the paper's Fig. 2), entropy and mutual information.

    Fewer groups where there are fewer images.
    """
    groups = {
        name: accuracy_by_uncertainty_decile(
            predictions.scores[name], predictions.correct, min(num_groups, len(predictions))
        )
        for name in ("z", "entropy", "mutual_information")
    }
    return {
        name: {"accuracy": group.accuracy.tolist(), "uncertainty": group.uncertainty.tolist()}
        for name, group in groups.items()
    }


def _bins_as_lists(bins: CalibrationBins) -> dict[str, list[float | None]]:
    """Edges, images, mean confidence and accuracy of each bin; None where a bin is empty."""
    return {
        "edges": bins.edges.tolist(),
        "count": bins.count.tolist(),
        "confidence": [_defined(value) for value in bins.confidence.tolist()],
        "accuracy": [_defined(value) for value in bins.accuracy.tolist()],
    }


def _share_right(counts: PAvPUCounts) -> tuple[float | None, float | None]:
    """Accuracy of the certain and of the uncertain images; None where there are none."""
    certain = counts.accurate_certain + counts.inaccurate_certain
    uncertain = counts.accurate_uncertain + counts.inaccurate_uncertain
    return (
        counts.accurate_certain / certain if certain else None,
        counts.accurate_uncertain / uncertain if uncertain else None,
    )


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _defined(value: float) -> float | None:
    """JSON knows no NaN: None where a measure is undefined, such as error detection without errors."""
    return None if math.isnan(value) else value
