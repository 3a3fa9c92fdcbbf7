"""Telling images of the training distribution from images that belong to no class: not in the paper's tables, but what
people ask of an uncertainty first. Pass any score that should be higher for out-of-distribution images, such as the
epistemic uncertainty or the p-value.

A higher score means more likely out of distribution, everywhere. selective.py asks the neighbouring question, about
wrong images of the right distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ranking import probability_of_superiority
from .validation import check_choice, check_scores

POSITIVE = ("out", "in")


def ood_auroc(score_in: Tensor, score_out: Tensor) -> float:
    """Probability that an out-of-distribution image scores higher than an in-distribution one.

    Args:
        score_in: [B_in] scores of in-distribution images; higher: more likely out of distribution.
        score_out: [B_out] scores of out-of-distribution images.

    Returns:
        A fraction in [0, 1]: 1 separates perfectly, 0.5 is chance (a constant score: ties count 1/2). The same with
        the sides swapped and the scores negated. Source: Hendrycks and Gimpel 2017, arXiv:1610.02136.

    Raises:
        ValueError: one of the two is empty, not a vector, or holds NaN.

    Example:
        >>> ood_auroc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.9]))  # (2.5 + 3) / 6
        0.9166666666666666
    """
    return probability_of_superiority(low=check_scores(score_in, "score_in"), high=check_scores(score_out, "score_out"))


def ood_fpr95(score_in: Tensor, score_out: Tensor, positive: str = "out") -> float:
    """False-positive rate at 95 % true-positive rate.

    Out-of-distribution is the positive side, as in `ood_auroc`: with the threshold that flags at least 95 % of the
    out-of-distribution images, the share of in-distribution images that are flagged too. Papers after ODIN (Liang et
    al. 2018, arXiv:1706.02690) often turn it round; `positive="in"` is theirs: keeping at least 95 % of the
    distribution, the share of out-of-distribution images kept too. The two are different numbers: say which one you
    report.

    Args:
        score_in: [B_in] scores of in-distribution images; higher: more likely out of distribution.
        score_out: [B_out] scores of out-of-distribution images.
        positive: "out" or "in".

    Returns:
        A fraction in [0, 1], smaller is better; 1 for a constant score.

    Raises:
        ValueError: one of the two is empty, not a vector, or holds NaN; an unknown side.

    Example:
        >>> ood_fpr95(torch.tensor([0.1, 0.2, 0.3, 0.8]), torch.tensor([0.5, 0.9]))
        0.25
    """
    positives, negatives = _sides(score_in, score_out, positive)
    num_true = -(-95 * len(positives) // 100)  # ceil(.95 n) in whole numbers
    threshold = positives.sort(descending=True).values[num_true - 1]
    return (negatives >= threshold).double().mean().item()


def ood_aupr(score_in: Tensor, score_out: Tensor, positive: str = "out") -> float:
    """Area under the precision-recall curve, as average precision: sum over thresholds of (recall gained) x precision.

    Unlike the AUROC it depends on how many images each side has: a constant score gives the share of positives.

    Args:
        score_in: [B_in] scores of in-distribution images; higher: more likely out of distribution.
        score_out: [B_out] scores of out-of-distribution images.
        positive: "out" ("AUPR-Out", the default) or "in" ("AUPR-In").

    Returns:
        A fraction in (0, 1]; equal scores pass a threshold together, as in scikit-learn's `average_precision_score`.

    Raises:
        ValueError: one of the two is empty, not a vector, or holds NaN; an unknown side.

    Example:
        >>> round(ood_aupr(torch.tensor([0.1, 0.4]), torch.tensor([0.3, 0.9])), 4)  # 1/2 x 1 + 1/2 x 2/3
        0.8333
    """
    positives, negatives = _sides(score_in, score_out, positive)
    scores = torch.cat([positives, negatives])
    is_positive = torch.cat([torch.ones_like(positives), torch.zeros_like(negatives)])
    order = scores.argsort(descending=True)
    _, count = torch.unique_consecutive(scores[order], return_counts=True)
    flagged = count.cumsum(dim=0)  # [number of thresholds] images at or above each distinct score
    true_positives = is_positive[order].cumsum(dim=0)[flagged - 1]
    gained = true_positives.diff(prepend=true_positives.new_zeros(1)) / len(positives)
    return (gained * true_positives / flagged).sum().item()


def _sides(score_in: Tensor, score_out: Tensor, positive: str) -> tuple[Tensor, Tensor]:
    """Checked scores of the positive and of the negative side, oriented so that higher = more positive."""
    check_choice(positive, "positive", POSITIVE)
    score_in, score_out = check_scores(score_in, "score_in"), check_scores(score_out, "score_out")
    return (score_out, score_in) if positive == "out" else (-score_in, -score_out)
