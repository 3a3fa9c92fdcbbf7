"""A reject option calibrated to a risk: "at most 1 % errors among the images answered", and how sure that is.

Selection with guaranteed risk (Geifman and El-Yaniv 2017, arXiv:1705.08500): the exact binomial (Clopper-Pearson) upper
bound on the error rate above a threshold. Thresholds are tried in a fixed order, the surest images first, as long as
the bound holds (fixed-sequence testing, Maurer et al. 1995; Angelopoulos et al. 2021, arXiv:2110.01052, Sec. 3), so
that one delta serves them all. selective.py has the whole risk-coverage curve; recalibration does not change the order
of an image's classes, but it may change which image is surer, so recalibrate first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction

from .validation import check_correct, check_probs, check_scores

# Thresholds tried: one per cent of the calibration images apart.
NUM_THRESHOLDS = 100
# Where a sequence starts: one error among the surest images would end the only one. Each has its share of delta, so few
# images get one, and every so many errors allowed for another, up to four.
MAX_SEQUENCES = 4
_ERRORS_A_SEQUENCE = 6.0


@dataclass(frozen=True)
class FittedAbstention:
    """A threshold and what it promises; `model.set_abstention` takes it as it is.

    Attributes:
        threshold: answer where the confidence is at least this; -inf answers always.
        risk: what was asked for: the accepted share of errors among the answered.
        delta: probability, over calibration sets, that the true risk is above `risk` after all; None for the empirical
            threshold, which promises nothing.
        coverage: share of the calibration images that are answered.
        empirical_risk: share of errors among those.
        risk_bound: upper bound on the true risk at the threshold, <= `risk`; None for the empirical threshold.
        num_images: how many images it was fitted on.
    """

    threshold: float
    risk: float
    delta: float | None
    coverage: float
    empirical_risk: float
    risk_bound: float | None
    num_images: int


def fit_abstention(
    prediction: BNDLPrediction | Tensor,
    labels: Tensor,
    risk: float = 0.01,
    *,
    delta: float | None = 0.05,
) -> FittedAbstention:
    """The threshold that answers most images with at most the given share of errors among them.

    With `delta` the promise is about images to come: for 1 - delta of all calibration sets the true error rate of what
    is answered is at most `risk`, whatever the model and however it errs, if calibration and new images are drawn from
    the same source. Without it the share of errors holds on the calibration images themselves, and on new images about
    every second time.

    Departure: Geifman and El-Yaniv look for the threshold by bisection, where what is tried depends on what was found;
    sharing delta among the steps does not cover that. Here the thresholds tried are a hundred fixed ranks in a fixed
    order, each only where the one before it held, and the errors counted are those above a threshold, without the image
    that makes it.

    Args:
        prediction: of held-out images, or their probabilities [N, C]: the threshold is on the largest probability,
            which is what `model.set_abstention` and `predict(abstain_below=...)` compare with. Or any other confidence
            [N], higher for surer images, whose threshold you apply yourself.
        labels: true classes [N]; beside a confidence, whether each answer is right, booleans or 0/1.
        risk: accepted share of errors among the answered, in (0, 1).
        delta: in (0, 1), or None.

    Returns:
        FittedAbstention.

    Raises:
        ValueError: confidence empty or NaN, labels of another length or out of range, risk or delta out of range, or a
            risk out of reach, saying which one is in reach.

    Example:
        >>> confidence = torch.linspace(0, 1, 1000)
        >>> fitted = fit_abstention(confidence, confidence > 0.3, risk=0.02)
        >>> round(fitted.coverage, 2), fitted.risk_bound <= 0.02
        (0.7, True)
    """
    if not 0 < risk < 1:
        raise ValueError(f"risk={risk} is not in (0, 1); it is the accepted share of errors among the answered.")
    if delta is not None and not 0 < delta < 1:
        raise ValueError(f"delta={delta} is not in (0, 1); 0.05 lets the promise fail for one calibration set in 20.")
    given = torch.as_tensor(prediction.probs if isinstance(prediction, BNDLPrediction) else prediction).detach()
    confidence, correct = given, labels
    if given.ndim == 2:
        probs, truth = check_probs(given, labels)
        confidence, correct = given.amax(dim=-1), probs.argmax(dim=-1) == truth
    scores = check_scores(confidence, "confidence")
    wrong = 1 - check_correct(correct, len(scores))
    order = scores.argsort(descending=True)
    scores, errors = scores[order], torch.cat([wrong.new_zeros(1), wrong[order].cumsum(dim=0)])  # errors[m]: of top m
    if delta is None:
        return _empirical(scores, errors, risk)
    return _guaranteed(scores, errors, risk, delta, confidence.dtype)


def risk_upper_bound(num_errors: int, num_answered: int, delta: float) -> float:
    """Clopper-Pearson upper bound: the error rate at which num_errors or fewer of num_answered have chance delta.

    Args:
        num_errors: errors seen.
        num_answered: images answered; 0 bounds nothing.
        delta: probability that the bound fails, in (0, 1).

    Returns:
        A fraction in [0, 1].

    Example:
        >>> round(risk_upper_bound(0, 299, delta=0.05), 4)  # 1 - 0.05 ** (1 / 299)
        0.01
    """
    if num_errors >= num_answered:
        return 1.0
    return float(betaincinv(num_errors + 1, num_answered - num_errors, 1 - delta))


def _empirical(scores: Tensor, errors: Tensor, risk: float) -> FittedAbstention:
    """Most images at an observed risk within the one asked for; images of equal confidence go together."""
    num_images = len(scores)
    ends_group = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])
    answered = torch.arange(1, num_images + 1)[ends_group]
    risks = errors[answered] / answered
    within = answered[risks <= risk]
    if not len(within):
        best = int(risks.argmin())
        raise ValueError(_out_of_reach(risk, "", risks[best].item(), answered[best].item() / num_images, num_images))
    count = int(within.max())
    observed = (errors[count] / count).item()
    threshold = -math.inf if count == num_images else scores[count - 1].item()
    return FittedAbstention(threshold, risk, None, count / num_images, observed, None, num_images)


def _guaranteed(scores: Tensor, errors: Tensor, risk: float, delta: float, dtype: torch.dtype) -> FittedAbstention:
    """Most images at a threshold of a sequence all of whose bounds up to it are within the risk asked for."""
    num_images = len(scores)
    ranks = sorted({math.ceil(num_images * j / NUM_THRESHOLDS) for j in range(1, NUM_THRESHOLDS + 1)})
    starts = _starts(num_images, ranks, risk, delta)
    share = delta / max(1, len(starts))
    found, lowest = None, (1.0, 0)
    tried: dict[int, tuple[float, int, float]] = {}  # rank -> bound, images answered, threshold
    for start in starts or [ranks[-1]]:
        for rank in ranks[ranks.index(start) :]:
            if rank not in tried:
                # Above the confidence of one image, given that one, the others are independent draws; the last is all.
                everyone = rank == num_images
                count = num_images if everyone else int((scores > scores[rank]).sum())
                threshold = -math.inf if everyone else _next_above(scores[rank], dtype)
                tried[rank] = (risk_upper_bound(int(errors[count]), count, share), count, threshold)
            bound, count, _ = tried[rank]
            lowest = min(lowest, (bound, count))
            if bound > risk and count:  # ties with the surest image leave nothing to test
                break
            if count and (found is None or count > found[1]):
                found = tried[rank]
    if found is None:
        where = (risk, f" with delta={delta}", lowest[0], lowest[1] / num_images, num_images)
        raise ValueError(_out_of_reach(*where))
    bound, count, threshold = found
    observed = (errors[count] / count).item()
    return FittedAbstention(threshold, risk, delta, count / num_images, observed, bound, num_images)


def images_needed(risk: float, delta: float) -> int:
    """How many images without an error it takes to promise a risk: the least n with (1 - risk)^n <= delta.

    Example:
        >>> images_needed(0.02, 0.05)
        149
    """
    return math.ceil(math.log(delta) / math.log1p(-risk))


def _starts(num_images: int, ranks: list[int], risk: float, delta: float) -> list[int]:
    """The ranks where sequences start, from the number of images alone; none where no error at all is too many."""
    wanted = num_images * risk / _ERRORS_A_SEQUENCE
    for count in range(max(1, min(MAX_SEQUENCES, int(wanted))), 0, -1):
        least = images_needed(risk, delta / count)
        usable = [rank for rank in ranks if rank >= least]
        if usable:
            steps = [usable[0] * (num_images / usable[0]) ** (j / count) for j in range(count)]
            return sorted({min(rank for rank in usable if rank >= math.floor(step)) for step in steps})
    return []


def _next_above(score: Tensor, dtype: torch.dtype) -> float:
    """The next number of the confidences' own precision, so that `confidence >= it` means `confidence > score`."""
    precision = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    value = score.to(precision)
    return torch.nextafter(value, torch.full_like(value, math.inf)).item()


def _out_of_reach(risk: float, how: str, lowest: float, coverage: float, num_images: int) -> str:
    return (
        f"risk={risk} is out of reach{how} on {num_images} images; the lowest in reach is {lowest:.4g}, answering "
        f"{coverage:.0%}. Pass more held-out images, or accept more risk."
    )
