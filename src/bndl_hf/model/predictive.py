"""From the random logits to an answer and how sure it is: closed forms, or draws when asked (Sec. 5).

Probabilities follow from the gaps to one reference class by the mean-field (probit) approximation, which does not
change when a constant is added to all logits. Where a temperature or a variance scale was fitted (mean_field.py),
everything that decides - probabilities, p-value, flip probability, entropies - is that of the recalibrated logits.
Means, variances and draws of logits are those of the layer itself, so that the parts of an explanation add up to them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .logit_posterior import LogitPosterior, pick
from .mean_field import Recalibration, mutual_information
from .student_t import student_t_p_value
from .verdicts import VERDICTS, VerdictRule, describe


@dataclass(repr=False)
class BNDLPrediction:
    """What the model answers and how sure it is, per image.

    Attributes:
        probs: predictive probabilities, [B, C], rows sum to one.
        predicted_labels: the most probable class, [B].
        logits_mean: E[l], [B, C], before recalibration.
        logits_variance: Var[l], [B, C], before recalibration.
        gap_variance: Var[l_c - l_top], top being the largest mean logit, [B, C], before recalibration.
        evidence: sum_k E[theta_k], how much the image shows at all of what was learned, [B], >= 0. Monte-Carlo
            predictions report the same exact sum.
        gap_ratio: E[d] / sd[d] of the gap d between the two largest mean logits, [B], >= 0; infinite without spread,
            zero for a tie. p-values for any number of draws (`paired_p_value`) and the exact flip probability follow
            from it. Recalibration acts as on `p_value`.
        p_value: two-sided p-value of the paired t-test between the two largest mean logits over S draws, [B], in [0, 1]
            (Sec. 5); the exact prediction evaluates it at the exact mean and variance of their gap. The variance scale
            changes it, a temperature does not: it scales mean and standard deviation alike.
        flip_probability: P(gap of the two largest mean logits < 0), [B], in [0, 1]; exact predictions take the gap as
            normal, Monte-Carlo ones count draws (a tie counts one half). Recalibration acts as on `p_value`.
        is_certain: p_value < threshold, [B], bool.
        total: entropy of `probs`, [B], nats; aleatoric + epistemic.
        aleatoric: expected entropy once the loadings are known, [B], nats: what more training data would not remove.
        epistemic: mutual information of label and loadings, [B], nats (exact predictions: to second order).
        is_answered: largest probability >= abstain_below, [B], bool; without a threshold, whether the verdict is sure,
            and all True without either.
        prediction_sets: the classes in each image's conformal prediction set, [B, C], bool; None where none was fitted.
        logits_samples: [S, B, C], before recalibration, or None for an exact prediction.
        mahalanobis_distance: of the features to the nearest class mean, in standard deviations within the classes,
            [B], >= 0; None where no familiarity was fitted (`set_familiarity`).
        fisher_statistic: how unfamiliar the image is: Fisher's statistic of the distance and the tempered entropy,
            [B], >= 0 (familiarity.py); None likewise.
        verdict: [B] int64, indices into `verdicts.VERDICTS`: 0 sure, 1 torn, 2 unfamiliar; None where no decisions were
            fitted (`set_decisions`).
        is_familiar: whether the image is of the model's own kind, [B], bool; None where that was not fitted.
        rule: what the verdict was reached by; None likewise.
    """

    probs: Tensor
    predicted_labels: Tensor
    logits_mean: Tensor
    logits_variance: Tensor
    gap_variance: Tensor
    evidence: Tensor
    gap_ratio: Tensor
    p_value: Tensor
    flip_probability: Tensor
    is_certain: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    is_answered: Tensor
    prediction_sets: Tensor | None = None
    logits_samples: Tensor | None = None
    mahalanobis_distance: Tensor | None = None
    fisher_statistic: Tensor | None = None
    verdict: Tensor | None = None
    is_familiar: Tensor | None = None
    rule: VerdictRule | None = None

    def describe(self, id2label: Mapping[int, str] | None = None) -> list[str]:
        """The answer to each image as a sentence, with its verdict and the reason for it where one was fitted.

        Args:
            id2label: names of the classes, `model.config.id2label`; None calls them "class 3".

        Example:
            >>> len(model.predict(pixel_values).describe(model.config.id2label))  # "cat, 98 %: sure, at most 2 % ..."
            8
        """
        names = [f"class {c}" if id2label is None else str(id2label[c]) for c in range(self.probs.shape[1])]
        probs = self.probs.tolist()
        verdicts = [None] * len(probs) if self.verdict is None else [VERDICTS[v] for v in self.verdict.tolist()]
        sets = [None] * len(probs) if self.prediction_sets is None else self.prediction_sets.tolist()
        return [
            describe(row, names, verdict, self.rule, in_set)
            for row, verdict, in_set in zip(probs, verdicts, sets, strict=True)
        ]

    def __repr__(self) -> str:
        B = len(self.probs)
        counts = ""
        if self.verdict is not None:
            found = self.verdict.bincount(minlength=len(VERDICTS)).tolist()
            counts = ": " + ", ".join(f"{n} {name}" for n, name in zip(found, VERDICTS, strict=True) if n)
        first = dataclasses.replace(
            self,
            probs=self.probs[:_LINES],
            verdict=None if self.verdict is None else self.verdict[:_LINES],
            prediction_sets=None if self.prediction_sets is None else self.prediction_sets[:_LINES],
        )
        shown = first.describe()
        lines = [f"BNDLPrediction of {B} image{'s' * (B != 1)}{counts}", *(f"  {line}" for line in shown)]
        return "\n".join([*lines, f"  ... and {B - _LINES} more"] if B > _LINES else lines)


# Images a repr describes.
_LINES = 5


def predict_exactly(
    logits: LogitPosterior, num_samples: int, threshold: float, recalibration: Recalibration
) -> BNDLPrediction:
    """The deterministic prediction: closed forms only, four small matrix products.

    Args:
        logits: the random logits of B images.
        num_samples: S, the number of draws the p-value stands for.
        threshold: `is_certain` is p_value < threshold.
        recalibration: T and v.
    """
    top, runner_up = logits.top_two
    gap_mean, gap_variance = logits.gaps(top)
    divisor = recalibration.damping(gap_variance)
    log_probs = torch.log_softmax(gap_mean / divisor, dim=-1)
    probs = log_probs.exp()
    total = -(probs * log_probs).sum(dim=-1)
    information = mutual_information(probs, divisor, top, logits.variance_from_loadings)
    epistemic = torch.minimum(recalibration.variance_scale * information, total)
    gap_ratio = _ratio(-pick(gap_mean, runner_up), recalibration.spread * pick(gap_variance, runner_up).sqrt())
    p_value = paired_p_value(gap_ratio, num_samples)
    return BNDLPrediction(
        probs=probs,
        predicted_labels=probs.argmax(dim=-1),
        logits_mean=logits.mean,
        logits_variance=logits.variance,
        gap_variance=gap_variance,
        evidence=logits.scores.mean.sum(dim=-1),
        gap_ratio=gap_ratio,
        p_value=p_value,
        flip_probability=torch.special.ndtr(-gap_ratio).to(probs.dtype),
        is_certain=p_value < threshold,
        total=total,
        aleatoric=total - epistemic,
        epistemic=epistemic,
        is_answered=torch.ones_like(top, dtype=torch.bool),
    )


def predict_by_sampling(
    logits: LogitPosterior,
    num_samples: int,
    threshold: float,
    recalibration: Recalibration,
    generator: torch.Generator | None = None,
) -> BNDLPrediction:
    """The Monte-Carlo prediction: S joint draws of scores and loadings, one at a time, so memory is [S, B, C] at most.

    `aleatoric` and `epistemic` separate the loadings from the scores: for each draw of the loadings the label's
    distribution with the scores integrated out is taken from the mean-field predictive.

    Args:
        logits: the random logits of B images.
        num_samples: S >= 2.
        threshold: `is_certain` is p_value < threshold.
        recalibration: T and v; the probabilities are the mean over draws of the softmax of the recalibrated logits.
        generator: source of the draws, on the device of the posteriors.
    """
    scores, bias = logits.scores, logits.bias
    centre = scores.mean @ logits.loadings.mean + bias
    top = centre.argmax(dim=-1)
    centre_gap = centre - pick(centre, top)[:, None]
    draws: list[Tensor] = []
    given_loadings = torch.zeros_like(centre)  # [B, C]
    conditional_entropy = torch.zeros_like(centre[:, 0])
    for _ in range(num_samples):
        phi = logits.loadings.sample(generator)  # [K, C]
        draws.append(scores.sample(generator) @ phi + bias)
        gap_mean, gap_variance = _conditional_gaps(scores.mean, scores.variance, phi, bias, top)
        gap_mean = centre_gap + recalibration.spread * (gap_mean - centre_gap)
        log_probs = recalibration.log_probs(gap_mean, gap_variance)
        given_loadings += log_probs.exp() / num_samples
        conditional_entropy += _entropy(log_probs) / num_samples
    epistemic = _entropy(given_loadings.clamp_min(torch.finfo(centre.dtype).tiny).log()) - conditional_entropy
    evidence = scores.mean.sum(dim=-1)
    return predict_from_draws(torch.stack(draws), evidence, threshold, recalibration, epistemic)


def predict_from_draws(
    samples: Tensor,
    evidence: Tensor,
    threshold: float,
    recalibration: Recalibration,
    epistemic: Tensor | None = None,
) -> BNDLPrediction:
    """The prediction that S draws of the logits make, whatever they were drawn from.

    Args:
        samples: draws of the logits, [S, B, C] with S >= 2.
        evidence: [B].
        threshold: `is_certain` is p_value < threshold.
        recalibration: T and v; the probabilities are the mean over draws of the softmax of the recalibrated logits.
        epistemic: the part of the entropy that the weights leave open, [B], nats, held within [0, total]; None: all
            that the draws differ in, the mutual information of label and draw.
    """
    recalibrated = recalibration.samples(samples)
    each = recalibrated.softmax(dim=-1)  # [S, B, C]
    probs = each.mean(dim=0)
    mean = samples.mean(dim=0)
    first, second = mean.topk(2, dim=-1).indices.unbind(dim=-1)
    margins = pick(recalibrated, first) - pick(recalibrated, second)  # [S, B]
    gap_ratio = _ratio(margins.mean(dim=0), margins.std(dim=0))
    p_value = paired_p_value(gap_ratio, len(samples))
    total = _entropy(probs.clamp_min(torch.finfo(probs.dtype).tiny).log())
    if epistemic is None:
        epistemic = total - torch.special.entr(each).sum(dim=-1).mean(dim=0)
    epistemic = torch.minimum(epistemic.clamp_min(0), total)
    return BNDLPrediction(
        probs=probs,
        predicted_labels=probs.argmax(dim=-1),
        logits_mean=mean,
        logits_variance=samples.var(dim=0),
        gap_variance=(samples - pick(samples, first)[..., None]).var(dim=0),
        evidence=evidence,
        gap_ratio=gap_ratio,
        p_value=p_value,
        flip_probability=((margins < 0).to(probs.dtype) + 0.5 * (margins == 0)).mean(dim=0),
        is_certain=p_value < threshold,
        total=total,
        aleatoric=total - epistemic,
        epistemic=epistemic,
        is_answered=torch.ones_like(first, dtype=torch.bool),
        logits_samples=samples,
    )


def paired_p_value(gap_ratio: Tensor, num_samples: int) -> Tensor:
    """Two-sided p-value of the paired t-test over `num_samples` gaps of this mean and standard deviation (Sec. 5).

    Args:
        gap_ratio: E[d] / sd[d], any shape (`BNDLPrediction.gap_ratio`).
        num_samples: S >= 2.

    Returns:
        Tensor like `gap_ratio`. A gap without spread has p = 0, or 1 when it is zero, a tie. Departure: the
        released code lets that case become NaN and counts NaN as certain.
    """
    return student_t_p_value(gap_ratio * math.sqrt(num_samples), num_samples - 1).to(gap_ratio.dtype)


def _ratio(mean: Tensor, std: Tensor) -> Tensor:
    """mean / std, infinite where only std is zero, zero where both are."""
    return torch.where(mean == 0, 0.0, mean / std)


def _entropy(log_probs: Tensor) -> Tensor:
    """Entropy of the last axis, nats."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def _conditional_gaps(
    theta_mean: Tensor, theta_variance: Tensor, phi: Tensor, bias: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Gap mean and variance with the loadings known: only the scores are random, [B, C]."""
    mean = theta_mean @ phi + bias
    phi_reference = phi.T[reference]  # [B, K]
    covariance = (theta_variance * phi_reference) @ phi
    variance = theta_variance @ phi.square()
    gap_variance = variance + pick(variance, reference)[:, None] - 2 * covariance
    return mean - pick(mean, reference)[:, None], gap_variance.clamp_min(0)
