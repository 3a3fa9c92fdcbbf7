"""Judging predictions: pure functions of draws or probabilities and labels (Sec. 5 and App. A.1 of the paper); and
learning from held-out images how far to trust them: temperature, prediction sets, abstention (docs/decisions.md).

Axes are S draws, B images, C classes, draws first. Sums are float64 whatever comes in, tensors may live on any device,
and results are Python numbers or small CPU tensors. No number depends on the order of the images. A wrong argument is
a ValueError that says what fits.
"""

from .abstention import FittedAbstention, fit_abstention, images_needed, risk_upper_bound
from .calibration import (
    CalibrationBins,
    adaptive_calibration_error,
    calibration_bins,
    classwise_calibration_error,
    expected_calibration_error,
)
from .collecting import collect_predictions
from .conformal import (
    ConformalPredictor,
    CoverageBySize,
    coverage_by_set_size,
    fit_conformal,
    mean_set_size,
    set_coverage,
    size_stratified_violation,
)
from .deciding import FittedDecisions, fit_decisions
from .deciles import AccuracyByUncertainty, accuracy_by_uncertainty_decile
from .familiarity import fit_familiarity
from .measures import MEASURES, OOD_MEASURES, Measure, find_measure, sampled_pavpu
from .ood import ood_aupr, ood_auroc, ood_fpr95
from .ood_scores import OOD_SCORES, RECOMMENDED_OOD_SCORES, ood_scores, recommended_ood_score
from .pavpu import GapTest, PAvPUCounts, gap_test, pavpu, pavpu_from_p_value
from .realised import count_verdicts, describe_verdicts, realised_verdicts
from .recalibration import FittedTemperature, fit_temperature
from .scores import StreamingScores
from .scoring import BrierDecomposition, accuracy, brier_decomposition, brier_score, negative_log_likelihood
from .selective import (
    RiskCoverageCurve,
    area_under_risk_coverage,
    coverage_at_risk,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    risk_at_coverage,
    risk_coverage_curve,
)
from .streaming import StreamingMetrics
from .summary import summarize

__all__ = [
    "MEASURES",
    "OOD_MEASURES",
    "OOD_SCORES",
    "RECOMMENDED_OOD_SCORES",
    "AccuracyByUncertainty",
    "BrierDecomposition",
    "CalibrationBins",
    "ConformalPredictor",
    "CoverageBySize",
    "FittedAbstention",
    "FittedDecisions",
    "FittedTemperature",
    "GapTest",
    "Measure",
    "PAvPUCounts",
    "RiskCoverageCurve",
    "StreamingMetrics",
    "StreamingScores",
    "accuracy",
    "accuracy_by_uncertainty_decile",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "brier_decomposition",
    "brier_score",
    "calibration_bins",
    "classwise_calibration_error",
    "collect_predictions",
    "count_verdicts",
    "coverage_at_risk",
    "coverage_by_set_size",
    "describe_verdicts",
    "error_detection_auroc",
    "excess_area_under_risk_coverage",
    "expected_calibration_error",
    "find_measure",
    "fit_abstention",
    "fit_conformal",
    "fit_decisions",
    "fit_familiarity",
    "fit_temperature",
    "gap_test",
    "images_needed",
    "mean_set_size",
    "negative_log_likelihood",
    "ood_aupr",
    "ood_auroc",
    "ood_fpr95",
    "ood_scores",
    "pavpu",
    "pavpu_from_p_value",
    "realised_verdicts",
    "recommended_ood_score",
    "risk_at_coverage",
    "risk_coverage_curve",
    "risk_upper_bound",
    "sampled_pavpu",
    "set_coverage",
    "size_stratified_violation",
    "summarize",
]
