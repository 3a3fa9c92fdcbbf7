"""All decisions from one pass over held-out images: temperature, familiarity, verdicts and prediction sets.

What is promised about images to come must not be fitted on the images that changed what is judged. So a first fold of
the held-out images serves the temperature and the familiarity, and the rest, which neither saw, serves the limits:
the unfamiliar (a conformal quantile), the sure (abstention.py) and the sets (conformal.py). The limit of the sure is
fitted on familiar images only, because only those are called sure: given the one image that makes the limit of the
unfamiliar, the others below it are independent draws, so the binomial bounds hold for them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.familiarity import Familiarity
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import VerdictRules

from .abstention import NUM_THRESHOLDS, risk_bounds
from .collecting import _batches, collect_predictions
from .conformal import fit_conformal
from .familiarity import MIN_HELD_OUT, fit_familiarity
from .recalibration import fit_temperature
from .scoring import log_loss_per_image

# Share of the held-out images that serves temperature and familiarity; more where class means must come from it too.
FIRST_FOLD, FIRST_FOLD_WITH_MEANS = 0.2, 0.5
# Fewer images than this in the first fold fit no temperature.
MIN_FOR_TEMPERATURE = 50
# A temperature is kept where it lowers the likelihood of images it did not see by this many standard errors.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class FittedDecisions:
    """What `fit_decisions` found; `model.set_decisions` takes it as it is, `print` says what it promises.

    Attributes:
        rules: the limits of the sure and of the unfamiliar, with what they promise.
        conformal: the prediction sets; None where too few images were left for the coverage.
        familiarity: to be stored; None where the layer keeps its own, or has none.
        temperature, variance_scale: T and v to be stored; those the layer has where no better ones were found.
        num_first, num_images: images of the first fold, and of the rest, which the limits were fitted on.
        share_sure: share of the rest that are sure.
        notes: sentences on what was found, and what could not be promised.
    """

    rules: VerdictRules
    conformal: ConformalPredictor | None
    familiarity: Familiarity | None
    temperature: float
    variance_scale: float
    num_first: int
    num_images: int
    share_sure: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.notes)


def fit_decisions(
    model: Any,
    held_out: Any,
    risk: float = 0.02,
    coverage: float = 0.95,
    familiar: float = 0.99,
    *,
    delta: float = 0.05,
    training: tuple[Tensor, Tensor] | None = None,
    temperature: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> FittedDecisions:
    """When an answer is sure, torn or unfamiliar, from one pass over held-out images.

    Args:
        model: a `BNDLForImageClassification`, or a decision layer.
        held_out: images that were not trained on and nothing is reported on: a dataset, a DataLoader or batches of
            {"pixel_values" or "features", "labels"}; or (features [M, D], labels [M]).
        risk: accepted share of errors among the sure answers, in (0, 1).
        coverage: share of images whose prediction set is to hold the true class, in (0, 1).
        familiar: share of images of the model's own kind that are to be called familiar, in (0, 1).
        delta: probability, over held-out sets, that the true share of errors is above `risk` after all.
        training: (features [N, D], labels [N]) of training images, for the familiarity. None takes what the layer has,
            and where it has none, class means of half of the held-out images.
        temperature: look for a temperature too; False keeps the layer's.
        batch_size: images at a time, of a dataset or features.
        seed: of the split into folds.
        progress: show a bar.

    Returns:
        FittedDecisions. What could not be promised is None in it, and `str` says how many images it would take.

    Raises:
        ValueError: a share outside (0, 1), no images, or labels that do not fit.

    Example:
        >>> decisions = fit_decisions(model, held_out)
        >>> model.set_decisions(decisions)
    """
    for name, value in {"risk": risk, "coverage": coverage, "familiar": familiar, "delta": delta}.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}={value} is not in (0, 1); it is a share.")
    layer = getattr(model, "decision_layer", model)
    h, y = _features(model, held_out, batch_size)
    needs_means = training is None and layer.familiarity is None
    share = FIRST_FOLD_WITH_MEANS if needs_means else FIRST_FOLD
    uses_first = temperature or training is not None or needs_means
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    num_first = int(share * len(y)) if uses_first else 0
    first, rest = order[:num_first], order[num_first:]
    notes: list[str] = []
    familiarity = _familiarity(layer, (h[first], y[first]), training, needs_means, notes)
    prediction, labels = collect_predictions(layer, h, y, batch_size=batch_size, progress=progress)
    T = Recalibration(layer.config.temperature, layer.config.variance_scale)
    if temperature:
        T = _temperature(_take(prediction, first), labels[first], T, notes)
    probs, truth = _probs(_take(prediction, rest), T), labels[rest]
    statistic = None
    used = layer.familiarity if familiarity is None else familiarity
    if used is not None:
        device = layer.raw_loadings.device
        parts = zip(h[rest].split(batch_size), prediction.logits_mean[rest].split(batch_size), strict=True)
        with torch.no_grad():
            found = [used.to(device)(a.to(device), b.to(device))[1].cpu() for a, b in parts]
        statistic = torch.cat(found)
    limit = _unfamiliar_above(statistic, familiar, notes)
    inside = torch.ones(len(rest), dtype=torch.bool)
    if limit is not None and statistic is not None:
        inside = statistic < limit  # without the image that makes the limit
    confidence, correct = probs.amax(dim=-1), probs.argmax(dim=-1) == truth
    curve = [
        (max(t, 0.0), bound, share * inside.double().mean().item())
        for t, bound, share in risk_bounds(confidence[inside], correct[inside], delta)
        if t <= 1  # beyond it no probability lies
    ]
    threshold = _threshold(curve, risk, delta, int(inside.sum()), notes)
    sets = _sets(probs, truth, coverage, notes)
    rules = VerdictRules(
        risk,
        delta,
        threshold,
        int(inside.sum()),
        None if sets is None else coverage,
        None if limit is None else familiar,
        limit,
        tuple(curve),
    )
    sure = inside & (confidence.double() >= (math.inf if threshold is None else threshold))
    notes.append(f"Of the {len(rest)} images the limits were fitted on, {sure.double().mean():.0%} are sure.")
    return FittedDecisions(
        rules,
        sets,
        familiarity,
        float(T.temperature),
        float(T.variance_scale),
        num_first,
        len(rest),
        sure.double().mean().item(),
        tuple(notes),
    )


@torch.no_grad()
def _features(model: Any, held_out: Any, batch_size: int) -> tuple[Tensor, Tensor]:
    """Features [M, D] and labels [M] of the held-out images, on the CPU: the one pass through the backbone."""
    data, labels = held_out if isinstance(held_out, tuple) else (held_out, None)
    found: list[tuple[Tensor, Tensor]] = []
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for batch in _batches_of(data, labels, batch_size):
            inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
            if "labels" not in inputs:
                raise ValueError(f"A batch has the entries {', '.join(batch)}; labels are missing.")
            found.append((features_of(model, inputs).float().cpu(), inputs["labels"].cpu()))
    finally:
        model.train(was_training)
    if sum(len(y) for _, y in found) < 2:
        raise ValueError("held_out holds fewer than two images; pass some hundred that were not trained on.")
    return torch.cat([h for h, _ in found]), torch.cat([y for _, y in found])


def _batches_of(data: Any, labels: Tensor | None, batch_size: int) -> Iterator[Any]:
    batches, _ = _batches(data, labels, batch_size)
    yield from batches


def _familiarity(
    layer: Any,
    first: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor] | None,
    needs_means: bool,
    notes: list[str],
) -> Familiarity | None:
    """A new familiarity, its quantiles from the first fold; None where the layer keeps its own or none can be had."""
    h, y = first
    if training is None and not needs_means:
        return None
    usual = h
    if training is None:
        half = len(y) // 2
        training, usual = (h[:half], y[:half]), h[half:]
        notes.append(
            f"Without training images, what is familiar was learned from {half} held-out ones: a weaker score; pass "
            "training=(features, labels)."
        )
    if len(usual) < MIN_HELD_OUT:
        notes.append(f"Too few held-out images to learn what is familiar: {len(usual)} of the {MIN_HELD_OUT} it takes.")
        return None
    return fit_familiarity(layer, *training, usual)


def _temperature(first: BNDLPrediction, labels: Tensor, now: Recalibration, notes: list[str]) -> Recalibration:
    """The temperature of the first fold, where one fitted on half of it helps the other half by more than noise."""
    if len(labels) < MIN_FOR_TEMPERATURE:
        notes.append(f"The temperature stays {now.temperature:.3g}: {len(labels)} images are too few to fit one.")
        return now
    before = log_loss_per_image(_probs(first, now), labels)
    gain = torch.zeros_like(before)
    halves = (torch.arange(len(labels)) % 2).bool()
    for fitted_on, judged_on in ((halves, ~halves), (~halves, halves)):
        found = _fit(_take(first, fitted_on), labels[fitted_on], now)
        gain[judged_on] = before[judged_on] - log_loss_per_image(
            _probs(_take(first, judged_on), found), labels[judged_on]
        )
    mean, error = gain.mean().item(), gain.std().item() / math.sqrt(len(gain))
    helps = f"on images it did not see, another one changes the likelihood by {mean:+.4f} +- {error:.4f} nats an image"
    if mean <= _STANDARD_ERRORS * error:
        notes.append(f"The temperature stays {now.temperature:.3g}: {helps}.")
        return now
    found = _fit(first, labels, now)
    notes.append(f"The temperature is {found.temperature:.3g} (it was {now.temperature:.3g}): {helps}.")
    return found


def _fit(prediction: BNDLPrediction, labels: Tensor, now: Recalibration) -> Recalibration:
    fitted = fit_temperature(
        prediction, labels, variance_scale=min(float(now.variance_scale), 100.0), label_smoothing=1 / (len(labels) + 1)
    )
    return Recalibration(fitted.temperature, fitted.variance_scale)


def _unfamiliar_above(statistic: Tensor | None, familiar: float, notes: list[str]) -> float | None:
    """The ceil((M + 1) familiar)-th smallest statistic: a new image lies below it with at least that probability."""
    if statistic is None:
        notes.append("No image is called unfamiliar: the layer has no familiarity.")
        return None
    rank = math.ceil((len(statistic) + 1) * familiar - 1e-9)
    if rank > len(statistic):
        needed = math.ceil(familiar / (1 - familiar) - 1e-9)
        notes.append(
            f"No image is called unfamiliar: that {familiar:.3g} of its own kind are familiar takes {needed} images; "
            f"{len(statistic)} were left."
        )
        return None
    notes.append(f"Unfamiliar: at most {100 * (1 - familiar):.3g} in 100 images of the model's own kind are called so.")
    return statistic.double().kthvalue(rank).values.item()


def _threshold(
    curve: list[tuple[float, float, float]], risk: float, delta: float, num_images: int, notes: list[str]
) -> float | None:
    """The threshold that answers most of those whose bound is within the risk."""
    within = [point for point in curve if point[1] <= risk]
    share = f"{100 * risk:.3g} %"
    if within:
        notes.append(
            f"Sure: at most {share} of the sure answers are wrong, for {100 * (1 - delta):.3g} of 100 held-out sets "
            f"(fitted on {num_images} images)."
        )
        return within[0][0]
    needed = math.ceil(math.log(delta / NUM_THRESHOLDS) / math.log1p(-risk))
    lowest = min(point[1] for point in curve)
    notes.append(
        f"No answer is sure: {num_images} familiar images do not promise {share} errors (lowest in reach: "
        f"{100 * lowest:.3g} %); it takes {needed} sure answers without a mistake, and more with some."
    )
    return None


def _sets(probs: Tensor, labels: Tensor, coverage: float, notes: list[str]) -> ConformalPredictor | None:
    needed = math.ceil(coverage / (1 - coverage) - 1e-9)
    if len(labels) < needed:
        notes.append(
            f"No prediction sets: a coverage of {coverage:.3g} takes {needed} images; {len(labels)} were left."
        )
        return None
    notes.append(f"Torn: the prediction set holds the true class in at least {100 * coverage:.3g} of 100 images.")
    return fit_conformal(probs, labels, coverage)


def _probs(prediction: BNDLPrediction, recalibration: Recalibration) -> Tensor:
    """Probabilities [B, C], float32 as `predict` makes them, of the same logits under T and v."""
    top = prediction.logits_mean.argmax(dim=-1, keepdim=True)
    gaps = prediction.logits_mean - prediction.logits_mean.gather(1, top)
    return recalibration.log_probs(gaps, prediction.gap_variance).exp()


def _take(prediction: BNDLPrediction, rows: Tensor) -> BNDLPrediction:
    values = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    taken: dict[str, Any] = {n: v[rows] if isinstance(v, Tensor) else None for n, v in values.items()}
    return BNDLPrediction(**taken)
