"""How often a model is right, and how far its uncertainty can be trusted: every measure of `bndl_hf.uncertainty`, from
one pass over a dataset and one over each set of images that belong to none of its classes (Sec. 5).

predictions.py makes the pass, `bndl_hf.uncertainty.MEASURES` says what the numbers mean, `scripts/evaluate.py` writes
and draws them.
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
from bndl_hf.model.verdicts import UNFAMILIAR, VerdictRule
from bndl_hf.uncertainty import (
    MEASURES,
    OOD_MEASURES,
    CalibrationBins,
    PAvPUCounts,
    accuracy_by_uncertainty_decile,
    area_under_risk_coverage,
    count_verdicts,
    coverage_at_risk,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    ood_aupr,
    ood_auroc,
    ood_fpr95,
    pavpu_from_p_value,
    risk_at_coverage,
    sampled_pavpu,
)
from bndl_hf.uncertainty.calibration import bin_equal_mass, bin_equal_width


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
    """Every measure of a model on `dataset` and, for OOD detection, on out-of-distribution images.

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
    ood = {
        name: predict_dataset(model, images, undrawn, has_labels=False, name=name, **shared)
        for name, images in (ood_datasets or {}).items()
    }
    config = model.config
    results = judge(predictions, config.num_samples, config.certainty_threshold, model.decision_layer.sparsity())
    if ood:
        results["ood"] = {name: judge_ood(predictions, other) for name, other in ood.items()}
    if config.verdict is not None:
        results["verdicts"] = judge_stored_verdicts(VerdictRule.from_dict(config.verdict), predictions, ood)
    results["settings"] = {
        "batch_size": settings.batch_size,
        "num_bins": settings.num_bins,
        "seed": settings.seed,
        "num_samples": config.num_samples,
        "threshold": config.certainty_threshold,
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
    }
    return Evaluation(results, predictions, ood)


def judge_stored_verdicts(
    rule: VerdictRule, predictions: ImagePredictions, ood: Mapping[str, ImagePredictions]
) -> dict[str, Any]:
    """What the verdicts of a model came to: the entries of `realised_verdicts`, but for its prediction sets.

    Args:
        rule: of the model's configuration.
        predictions: with labels.
        ood: of images of none of the classes, by name.
    """

    def verdicts(of: ImagePredictions) -> Tensor:
        return rule.verdicts(of.confidence[:, None], rule.is_familiar(of.scores.get("fisher_statistic")))

    found = count_verdicts(rule, verdicts(predictions), predictions.correct)
    for name, other in ood.items():
        found.setdefault("unfamiliar", {})[name] = (verdicts(other) == UNFAMILIAR).double().mean().item()
        found.setdefault("num_outsiders", {})[name] = len(other)
    return found


def judge(predictions: ImagePredictions, num_samples: int, threshold: float, sparsity: float) -> dict[str, Any]:
    """Everything that labelled predictions tell, by the names of MEASURES; plain numbers, lists and dictionaries.

    Args:
        predictions: with labels.
        num_samples: S the exact p-values stand for.
        threshold: certain iff p < threshold.
        sparsity: share of non-zero loadings, of the model that made them.
    """
    correct, confidence = predictions.correct, predictions.confidence
    assert predictions.negative_log_likelihood is not None
    assert predictions.brier_score is not None
    assert predictions.class_bins is not None
    brier, parts = _mean(predictions.brier_score), predictions.class_bins
    bins, equal_mass = reliability_bins(predictions), reliability_bins(predictions, "equal_mass")
    exact = pavpu_from_p_value(predictions.p_value, correct, threshold, num_samples=num_samples)
    by_samples = pavpu_by_samples(predictions, {num_samples, *predictions.p_value_sampled}, threshold)
    certain, uncertain = _share_right(exact)
    measured: dict[str, float | None] = {
        "accuracy": _mean(correct),
        "negative_log_likelihood": _mean(predictions.negative_log_likelihood),
        "brier_score": brier,
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "brier_within_bin": brier - (parts.reliability - parts.resolution + parts.uncertainty),
        "expected_calibration_error": bins.expected_calibration_error,
        "adaptive_calibration_error": equal_mass.expected_calibration_error,
        "classwise_calibration_error": parts.calibration_error,
        "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
        "excess_area_under_risk_coverage": excess_area_under_risk_coverage(confidence, correct),
        "coverage_at_1_percent_risk": coverage_at_risk(confidence, correct, 0.01),
        "coverage_at_5_percent_risk": coverage_at_risk(confidence, correct, 0.05),
        "risk_at_80_percent_coverage": risk_at_coverage(confidence, correct, 0.8),
        "risk_at_90_percent_coverage": risk_at_coverage(confidence, correct, 0.9),
        "error_detection_auroc": _defined(error_detection_auroc(confidence, correct)),
        "pavpu": exact.pavpu,
        "share_certain": (exact.accurate_certain + exact.inaccurate_certain) / exact.num_images,
        "accuracy_certain": certain,
        "accuracy_uncertain": uncertain,
        "total_uncertainty": _mean(predictions.total),
        "aleatoric_uncertainty": _mean(predictions.aleatoric),
        "epistemic_uncertainty": _mean(predictions.epistemic),
        "sparsity": sparsity,
    }
    return {
        "num_images": len(predictions),
        **{name: measured[name] for name in MEASURES},
        **{
            sampled_pavpu(counts["num_samples"]): counts["pavpu"] for counts in by_samples if counts["test"] == "paired"
        },
        "pavpu_by_samples": by_samples,
        "scores": {
            name: {
                "area_under_risk_coverage": area_under_risk_coverage(-score, correct),
                "error_detection_auroc": _defined(error_detection_auroc(-score, correct)),
            }
            for name, score in predictions.scores.items()
        },
        "reliability": _bins_as_lists(bins),
        "deciles": deciles(predictions),
    }


def judge_ood(predictions: ImagePredictions, ood: ImagePredictions) -> dict[str, Any]:
    """The OOD_MEASURES of every score, with the number of images and their mean confidence."""
    functions = {"auroc": ood_auroc, "fpr95": ood_fpr95, "aupr": ood_aupr}
    return {
        "num_images": len(ood),
        "confidence": _mean(ood.confidence),
        "scores": {
            name: {measure: functions[measure](score, ood.scores[name]) for measure in OOD_MEASURES}
            for name, score in predictions.scores.items()
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
