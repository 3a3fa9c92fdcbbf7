"""From the two posteriors to an answer and how sure it is: exact moments, or draws when asked (Sec. 5).

Scores and loadings are independent under q, so mean and variance of every logit, and of the gap between two logits,
are exact sums over factors. Scores are shared between the classes, so gaps, not logits, carry the uncertainty of the
decision. Probabilities follow from the gaps to one reference class by the mean-field (probit) approximation, which does
not change when a constant is added to all logits.

Where a temperature or a variance scale was fitted (mean_field.py), everything that decides - probabilities, p-value,
flip probability, entropies - speaks of the recalibrated logits. Means, variances and draws of logits are those of the
layer itself, so that the parts of an explanation still add up to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .loading_moments import LoadingMoments, times
from .mean_field import damping, mean_field_log_probs, mutual_information, recalibrated_samples
from .student_t import student_t_p_value
from .weibull import WeibullPosterior


@dataclass
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
        is_answered: largest probability >= abstain_below, [B], bool; all True without a threshold.
        prediction_sets: the classes in each image's conformal prediction set, [B, C], bool; None where none was fitted.
        logits_samples: [S, B, C], before recalibration, or None for an exact prediction.
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


def logit_moments(scores: WeibullPosterior, loadings: WeibullPosterior, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of every logit, each [B, C].

    Var[l_c] = sum_k E[theta_k]^2 Var[Phi_kc] + Var[theta_k] E[Phi_kc^2]
    """
    mean, from_loadings, from_scores = _moments(scores, LoadingMoments.of(loadings), bias)
    return mean, from_loadings + from_scores


def _moments(scores: WeibullPosterior, loadings: LoadingMoments, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E[l_c], and Var[l_c] in two parts: Var_Phi(E[l_c | Phi]), which only the loadings leave open, and the rest."""
    mean = times(scores.mean, loadings.mean) + bias  # [B, K] @ [K, C] -> [B, C]
    return mean, times(scores.mean.square(), loadings.variance), times(scores.variance, loadings.second)


def gap_moments(
    scores: WeibullPosterior, loadings: WeibullPosterior, bias: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of l_c - l_r for every class c and each image's reference class r.

    The classes share theta, so Var[l_c - l_r] = Var[l_c] + Var[l_r] - 2 Cov[l_c, l_r] with the covariance
    sum_k Var[theta_k] E[Phi_kc] E[Phi_kr]: a third product.

    Args:
        scores: posterior of [B, K].
        loadings: posterior of [K, C].
        bias: [C].
        reference: class index r of each image, [B].

    Returns:
        (mean, variance), each [B, C]; both exactly zero at c = r, the variance never negative.
    """
    moments = LoadingMoments.of(loadings)
    mean, from_loadings, from_scores = _moments(scores, moments, bias)
    covariance = _covariance(scores, loadings, moments, reference)
    return _gaps(mean, from_loadings + from_scores, covariance, reference)


def exact_log_probs(
    scores: WeibullPosterior,
    loadings: WeibullPosterior,
    bias: Tensor,
    reference: Tensor,
    temperature: float = 1.0,
    variance_scale: float = 1.0,
) -> Tensor:
    """Log of the mean-field predictive, [B, C]; see `mean_field_log_probs`.

    For one reference r this is a proper distribution. Departure: predicting takes the top class for r, training each
    image's label, so that nothing has to be ranked; the two differ by a few thousandths of probability.
    """
    return mean_field_log_probs(*gap_moments(scores, loadings, bias, reference), temperature, variance_scale)


def predict_exactly(
    scores: WeibullPosterior,
    loadings: WeibullPosterior,
    bias: Tensor,
    num_samples: int,
    threshold: float,
    temperature: float = 1.0,
    variance_scale: float = 1.0,
) -> BNDLPrediction:
    """The deterministic prediction: closed forms only, four small matrix products.

    Args:
        scores, loadings, bias: the layer's posteriors and bias.
        num_samples: S, the number of draws the p-value speaks of.
        threshold: `is_certain` is p_value < threshold.
        temperature, variance_scale: T and v of the recalibration; the probabilities are `mean_field_log_probs`.
    """
    moments = LoadingMoments.of(loadings)
    mean, from_loadings, from_scores = _moments(scores, moments, bias)
    variance = from_loadings + from_scores
    top, runner_up = _top_two(mean)
    covariance = _covariance(scores, loadings, moments, top)
    gap_mean, gap_variance = _gaps(mean, variance, covariance, top)
    log_probs = mean_field_log_probs(gap_mean, gap_variance, temperature, variance_scale)
    probs = log_probs.exp()
    margin = -_pick(gap_mean, runner_up)
    spread = (variance_scale * _pick(gap_variance, runner_up)).sqrt()
    total = -(probs * log_probs).sum(dim=-1)
    divisor = damping(gap_variance, temperature, variance_scale)
    information = variance_scale * mutual_information(probs, divisor, top, from_loadings)
    epistemic = torch.minimum(information, total)
    gap_ratio = _ratio(margin, spread)
    p_value = paired_p_value(gap_ratio, num_samples)
    return BNDLPrediction(
        probs=probs,
        predicted_labels=probs.argmax(dim=-1),
        logits_mean=mean,
        logits_variance=variance,
        gap_variance=gap_variance,
        evidence=scores.mean.sum(dim=-1),
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
    scores: WeibullPosterior,
    loadings: WeibullPosterior,
    bias: Tensor,
    num_samples: int,
    threshold: float,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    variance_scale: float = 1.0,
) -> BNDLPrediction:
    """The Monte-Carlo prediction: S joint draws of scores and loadings, one at a time, so memory is [S, B, C] at most.

    `aleatoric` and `epistemic` separate the loadings from the scores: for each draw of the loadings the label's
    distribution with the scores integrated out is taken from the mean-field predictive.

    Args:
        scores, loadings, bias: the layer's posteriors and bias.
        num_samples: S >= 2.
        threshold: `is_certain` is p_value < threshold.
        generator: source of the draws, on the device of the posteriors.
        temperature, variance_scale: T and v of the recalibration; the probabilities are the mean over draws of the
            softmax of `recalibrated_samples`.
    """
    centre = scores.mean @ loadings.mean + bias
    top, _ = _top_two(centre)
    centre_gap = centre - _pick(centre, top)[:, None]
    theta_variance = scores.variance
    draws: list[Tensor] = []
    given_loadings = torch.zeros(len(top), len(bias), device=bias.device)  # [B, C]
    conditional_entropy = torch.zeros_like(given_loadings[:, 0])
    for _ in range(num_samples):
        phi = loadings.sample(generator)  # [K, C]
        draws.append(scores.sample(generator) @ phi + bias)
        gaps = _conditional_gaps(scores.mean, theta_variance, phi, bias, top)
        gap_mean = centre_gap + variance_scale**0.5 * (gaps[0] - centre_gap)
        log_probs = mean_field_log_probs(gap_mean, gaps[1], temperature, variance_scale)
        given_loadings += log_probs.exp() / num_samples
        conditional_entropy += _entropy(log_probs) / num_samples
    samples = torch.stack(draws)  # [S, B, C]
    recalibrated = recalibrated_samples(samples, temperature, variance_scale**0.5)
    probs = recalibrated.softmax(dim=-1).mean(dim=0)
    mean = samples.mean(dim=0)
    first, second = _top_two(mean)
    margins = _pick(recalibrated, first) - _pick(recalibrated, second)  # [S, B]
    gap_ratio = _ratio(margins.mean(dim=0), margins.std(dim=0))
    p_value = paired_p_value(gap_ratio, num_samples)
    total = _entropy(probs.clamp_min(torch.finfo(probs.dtype).tiny).log())
    epistemic = _entropy(given_loadings.clamp_min(torch.finfo(probs.dtype).tiny).log()) - conditional_entropy
    epistemic = torch.minimum(epistemic.clamp_min(0), total)
    return BNDLPrediction(
        probs=probs,
        predicted_labels=probs.argmax(dim=-1),
        logits_mean=mean,
        logits_variance=samples.var(dim=0),
        gap_variance=(samples - _pick(samples, first)[..., None]).var(dim=0),
        evidence=scores.mean.sum(dim=-1),
        gap_ratio=gap_ratio,
        p_value=p_value,
        flip_probability=((margins < 0).to(probs.dtype) + 0.5 * (margins == 0)).mean(dim=0),
        is_certain=p_value < threshold,
        total=total,
        aleatoric=total - epistemic,
        epistemic=epistemic,
        is_answered=torch.ones_like(top, dtype=torch.bool),
        logits_samples=samples,
    )


def paired_p_value(gap_ratio: Tensor, num_samples: int) -> Tensor:
    """Two-sided p-value of the paired t-test over `num_samples` gaps of this mean and standard deviation (Sec. 5).

    Args:
        gap_ratio: E[d] / sd[d], any shape (`BNDLPrediction.gap_ratio`).
        num_samples: S >= 2.

    Returns:
        Tensor like `gap_ratio`. A gap without spread is settled: p = 0, or 1 when it is zero, a tie. Departure: the
        released code lets that case become NaN and counts NaN as certain.
    """
    return student_t_p_value(gap_ratio * math.sqrt(num_samples), num_samples - 1).to(gap_ratio.dtype)


def _ratio(mean: Tensor, std: Tensor) -> Tensor:
    """mean / std, infinite where only std is zero, zero where both are."""
    return torch.where(mean == 0, 0.0, mean / std)


def _entropy(log_probs: Tensor) -> Tensor:
    """Entropy of the last axis, nats."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values[..., b, index[b]]: one class per image, [..., B, C] -> [..., B]."""
    return values.gather(-1, index.expand(values.shape[:-1])[..., None]).squeeze(-1)


def _top_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the largest and second largest logit, each [B]."""
    first, second = logits.topk(2, dim=-1).indices.unbind(dim=-1)
    return first, second


def _covariance(
    scores: WeibullPosterior, loadings: WeibullPosterior, moments: LoadingMoments, reference: Tensor
) -> Tensor:
    """Cov[l_c, l_r] for c != r, [B, C]: sum_k Var[theta_k] E[Phi_kr] E[Phi_kc]."""
    return times(scores.variance * loadings.mean.T[reference], moments.mean)


def _gaps(mean: Tensor, variance: Tensor, covariance: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Gap mean and variance to the reference class, from the logits' own moments [B, C]; see `gap_moments`."""
    gap_variance = (variance + _pick(variance, reference)[:, None] - 2 * covariance).clamp_min(0)
    # At c = r the loadings are one and the same random variable, not two independent ones: the gap is exactly zero.
    is_reference = torch.arange(mean.shape[1], device=mean.device) == reference[:, None]
    return mean - _pick(mean, reference)[:, None], gap_variance.masked_fill(is_reference, 0.0)


def _conditional_gaps(
    theta_mean: Tensor, theta_variance: Tensor, phi: Tensor, bias: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Gap mean and variance with the loadings known: only the scores are random, [B, C]."""
    mean = theta_mean @ phi + bias
    phi_reference = phi.T[reference]  # [B, K]
    covariance = (theta_variance * phi_reference) @ phi
    variance = theta_variance @ phi.square()
    gap_variance = variance + _pick(variance, reference)[:, None] - 2 * covariance
    return mean - _pick(mean, reference)[:, None], gap_variance.clamp_min(0)
