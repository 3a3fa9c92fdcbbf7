"""Selective prediction: if the model may decline its least confident images, how often is it wrong on the rest? PAvPU
(Sec. 5) asks this at one threshold; the risk-coverage curve asks it at all of them (El-Yaniv and Wiener 2010; Geifman
and El-Yaniv 2017).

Coverage is the share of images answered, risk the share of those answered wrongly. Images of equal confidence share
their risk (ranking.py), so no number here depends on the order of the rows. Read ood.py for images that belong to no
class at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .ranking import probability_of_superiority, sort_with_shared_ties
from .validation import check_correct, check_scores


@dataclass(frozen=True, eq=False)
class RiskCoverageCurve:
    """Risk when only the i most confident of B images are answered, i = 1..B; tensors on the CPU."""

    coverage: Tensor  # [B] i / B, in (0, 1]
    risk: Tensor  # [B] expected share of wrong ones among the i answered, ties broken at random, in [0, 1]
    confidence: Tensor  # [B] of the i-th image, descending: answering from this confidence on gives that coverage


def risk_coverage_curve(confidence: Tensor, correct: Tensor) -> RiskCoverageCurve:
    """Selective risk at every coverage (Geifman and El-Yaniv 2017, arXiv:1705.08500).

    Args:
        confidence: [B] any score that is higher for more certain images, e.g. `probs.max(-1).values` or `-p_value`.
        correct: [B] whether the prediction is right, booleans or 0/1.

    Returns:
        RiskCoverageCurve; its last risk is the error rate of all images.

    Raises:
        ValueError: confidence empty or NaN, correct of another length or not 0/1.

    Example:
        >>> risk_coverage_curve(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 0, 1])).risk
        tensor([0.0000, 0.0000, 0.3333, 0.2500], dtype=torch.float64)
    """
    confidence, wrong = _checked(confidence, correct)
    # A tied image stands at each place of its group equally often: the expected error at each is the group's mean.
    confidence, expected_wrong = sort_with_shared_ties(confidence, wrong, descending=True)
    answered = _one_to(len(wrong))
    return RiskCoverageCurve(
        coverage=answered / len(wrong), risk=expected_wrong.cumsum(dim=0) / answered, confidence=confidence
    )


def area_under_risk_coverage(confidence: Tensor, correct: Tensor) -> float:
    """AURC: the mean risk over the coverages 1/B, 2/B, ..., 1 (Geifman et al. 2019, arXiv:1805.08206).

    Args:
        confidence: [B] higher for more certain images.
        correct: [B] whether the prediction is right, booleans or 0/1.

    Returns:
        A fraction in [0, 1], smaller is better: 0 if every image is right, the error rate if the confidence is
        constant.

    Raises:
        ValueError: as `risk_coverage_curve`.

    Example:
        >>> confidence = torch.tensor([0.9, 0.8, 0.7, 0.6])
        >>> round(area_under_risk_coverage(confidence, torch.tensor([1, 1, 0, 1])), 4)  # (1/3 + 1/4) / 4
        0.1458
    """
    return risk_coverage_curve(confidence, correct).risk.mean().item()


def excess_area_under_risk_coverage(confidence: Tensor, correct: Tensor) -> float:
    """E-AURC: AURC minus that of the best order, all right images before all wrong ones (Geifman et al. 2019).

    It judges the ranking alone: a model cannot lower it by being more accurate.

    Departure: Geifman et al. approximate the best AURC by r + (1 - r) log(1 - r) at error rate r; here it is its exact
    finite sum, so that a perfect ranking has exactly 0.

    Args:
        confidence: [B] higher for more certain images.
        correct: [B] whether the prediction is right, booleans or 0/1.

    Returns:
        A fraction in [0, 1], smaller is better; 0 also where all images are right, or all wrong.

    Raises:
        ValueError: as `risk_coverage_curve`.

    Example:
        >>> excess_area_under_risk_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 1, 0]))
        0.0
    """
    _, wrong = _checked(confidence, correct)
    answered = _one_to(len(wrong))
    best_risk = (answered - (len(wrong) - wrong.sum())).clamp_min(0.0) / answered  # [B] wrong ones come last
    return max(0.0, area_under_risk_coverage(confidence, correct) - best_risk.mean().item())


def coverage_at_risk(confidence: Tensor, correct: Tensor, risk: float) -> float:
    """Largest share of images that can be answered at no more than the given risk (Geifman and El-Yaniv 2017).

    Only coverages that a threshold on the confidence can make count: images of equal confidence are answered together
    or not at all.

    Args:
        confidence: [B] higher for more certain images.
        correct: [B] whether the prediction is right, booleans or 0/1.
        risk: Accepted share of wrong answers, in [0, 1]; 0.05 reads "at most one in twenty".

    Returns:
        A fraction in [0, 1]; 0 if even the most confident images are wrong too often.

    Raises:
        ValueError: as `risk_coverage_curve`; risk outside [0, 1].

    Example:
        >>> coverage_at_risk(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 0, 1]), risk=0.3)
        1.0
    """
    if not 0 <= risk <= 1:
        raise ValueError(f"risk={risk} is not in [0, 1]; it is the accepted share of wrong answers. Pass 0.05, say.")
    confidence, wrong = _checked(confidence, correct)
    order = confidence.argsort(descending=True)
    ranked = confidence[order]
    answered = _one_to(len(wrong))
    ends_group = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])
    allowed = ends_group & (
        wrong[order].cumsum(dim=0) / answered <= risk
    )  # whole errors at the end of a group: no rounding
    return answered[allowed].max().item() / len(wrong) if allowed.any() else 0.0


def risk_at_coverage(confidence: Tensor, correct: Tensor, coverage: float) -> float:
    """Share of wrong answers among the ceil(coverage * B) most confident images (Geifman and El-Yaniv 2017).

    Args:
        confidence: [B] higher for more certain images.
        correct: [B] whether the prediction is right, booleans or 0/1.
        coverage: Share of images answered, in (0, 1]; 1 gives the error rate of all images.

    Returns:
        A fraction in [0, 1]; if the cut falls among images of equal confidence, its mean over all ways to choose among
        them.

    Raises:
        ValueError: as `risk_coverage_curve`; coverage outside (0, 1].

    Example:
        >>> risk_at_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 0, 1, 1]), coverage=0.5)
        0.5
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage={coverage} is not in (0, 1]; it is the share of images to answer. Pass 0.8, say.")
    risk = risk_coverage_curve(confidence, correct).risk
    # 0.07 * 100 is 7.000000000000001 in float64; it asks for 7 images, not 8.
    return risk[math.ceil(coverage * len(risk) - 1e-9) - 1].item()


def error_detection_auroc(confidence: Tensor, correct: Tensor) -> float:
    """Probability that a right image is more confident than a wrong one (Hendrycks and Gimpel 2017, arXiv:1610.02136).

    Args:
        confidence: [B] higher for more certain images.
        correct: [B] whether the prediction is right, booleans or 0/1.

    Returns:
        A fraction in [0, 1]: 1 if every error is below every right image, 0.5 for a constant confidence (ties count
        1/2). NaN if all images are right or all are wrong: there is no pair to compare.

    Raises:
        ValueError: as `risk_coverage_curve`.

    Example:
        >>> error_detection_auroc(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 0, 1, 0]))
        0.75
    """
    confidence, wrong = _checked(confidence, correct)
    if wrong.min() == wrong.max():
        return math.nan
    return probability_of_superiority(low=confidence[wrong == 1], high=confidence[wrong == 0])


def _checked(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Checked `confidence` [B] and errors [B] (1.0 where wrong), both float64 on the CPU."""
    scores = check_scores(confidence, "confidence")
    return scores, 1 - check_correct(correct, len(scores))


def _one_to(count: int) -> Tensor:
    """1, 2, ..., count as float64: the number of images answered."""
    return torch.arange(1, count + 1, dtype=torch.float64)
