"""From held-out images to verdicts: which answers are sure, between what the others are torn, what is unfamiliar.

One pass over the images, then four fits that build on each other: the temperature where it pays on other images than
those it was fitted on, the threshold of sure answers (abstention.py), the prediction sets of the others (conformal.py)
and what is unusual (familiarity.py). What the images are too few to promise is left out and said. The verdict itself is
`bndl_hf.model.verdicts`, because it travels with the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.familiarity import Familiarity
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.model.verdicts import VerdictRule, as_percentage

from .abstention import fit_abstention, images_needed
from .collecting import batches_of, collect_predictions
from .conformal import fit_conformal, images_for_coverage
from .familiarity import MIN_HELD_OUT, fit_familiarity
from .recalibration import FittedTemperature, fit_temperature, smoothing_of_few
from .scoring import log_loss_per_image

# Risks a reader may slide to, each with its own threshold.
RISKS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)

Images = Dataset | Iterable[Mapping[str, Tensor]] | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FittedDecisions:
    """What `fit_decisions` found; `model.set_decisions` takes it as it is, `print` says it in sentences.

    Attributes:
        rule: when an answer is sure, torn or unfamiliar.
        conformal: the prediction sets; None where they were not asked for, or too few images were torn or held out.
        familiarity: statistics of familiar features; None where the model keeps those it has, or none were asked for.
        temperature: to be stored with them; None leaves the model's own.
        notes: sentences: what is promised, what could not be and how many images that would take.
    """

    rule: VerdictRule
    conformal: ConformalPredictor | None
    familiarity: Familiarity | None
    temperature: FittedTemperature | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"From {self.rule.num_held_out:,} held-out images:", *(f"- {note}" for note in self.notes)])


def fit_decisions(
    model: Any,
    held_out: Images,
    risk: float = 0.02,
    coverage: float | None = 0.95,
    familiar: float | None = 0.99,
    *,
    delta: float = 0.05,
    training: Images | None = None,
    recalibrate: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> FittedDecisions:
    """Everything a verdict needs, from images that were not trained on.

    - *Sure*: of the answers to familiar images with this probability or more at most `risk` are wrong, for 1 - delta of
      all held-out sets (Clopper-Pearson, fixed-sequence testing; `fit_abstention`).
    - *Torn*: the prediction sets of images that are not sure hold the true class with probability `coverage`: they are
      fitted on such images alone (least ambiguous sets, Sadinle et al. 2019, the smallest), or on all where fewer are
      torn than that takes.
    - *Unfamiliar*: Fisher's statistic (`fit_familiarity`) above that of the share `familiar` of held-out images, with
      the correction of split conformal prediction for their number.

    Args:
        model: a `BNDLForImageClassification`, or a decision layer for features. It is not changed.
        held_out: images it was not trained on: a dataset, a DataLoader or batches of {"pixel_values" or "features",
            "labels"}, or a pair (features [M, D], labels [M]).
        risk: accepted share of errors among the sure, in (0, 1).
        coverage: in (0, 1); None makes no prediction sets.
        familiar: in (0, 1); None calls nothing unfamiliar.
        delta: probability that the promise about `risk` fails, in (0, 1).
        training: training images, of which class means and covariance are taken. Without them those the model has stay;
            where it has none they are taken from half of the held-out images, and the other half says what is usual.
        recalibrate: whether to look for a temperature. It is kept where it gains more than a standard error on images
            it was not fitted on (two folds).
        seed: of the folds.
        progress: show a bar.

    Returns:
        FittedDecisions.

    Raises:
        ValueError: no images, labels out of range, or fractions that are none.

    Example:
        >>> decisions = fit_decisions(model, held_out, risk=0.02, progress=False)
        >>> model.set_decisions(decisions)
        >>> decisions.rule.threshold is None  # so few images promise nothing, as print(decisions) says
        True
    """
    for name, value in {"risk": risk, "coverage": coverage, "familiar": familiar, "delta": delta}.items():
        if value is not None and not 0 < value < 1:
            raise ValueError(f"{name}={value} is not a fraction in (0, 1).")
    features, labels = _read(model, held_out, "Held-out images", progress)
    layer = copy.deepcopy(getattr(model, "decision_layer", model)).cpu().eval()
    layer.set_decisions(None)
    layer.set_abstention(None)
    notes: list[str] = []
    first = _half(labels, seed)
    temperature = _temperature(layer, features, labels, first, notes) if recalibrate else None
    if temperature is not None:
        layer.set_temperature(temperature)
    familiarity, usual = None, torch.ones_like(first)
    if familiar is not None:
        known = None if training is None else _read(model, training, "Training images", progress)
        familiarity, usual = _familiarity(layer, features, labels, first, known, notes)
        layer.set_familiarity(familiarity or layer.familiarity)
    prediction, labels = collect_predictions(layer, features, labels, progress=False)
    probs, truth, unfamiliar_above = prediction.probs, labels, None
    if familiar is not None and prediction.fisher_statistic is not None:
        unfamiliar_above = _unusual(prediction.fisher_statistic[usual], familiar, notes)
        if unfamiliar_above is not None:  # sure and torn are said of the others alone
            is_familiar = prediction.fisher_statistic.double() <= unfamiliar_above
            probs, truth = probs[is_familiar], truth[is_familiar]
    curve = _risk_curve(probs, truth, delta)
    threshold = _threshold(probs, truth, risk, delta, notes)
    conformal = None
    if coverage is not None:
        is_sure = probs.amax(-1).double() >= (math.inf if threshold is None else threshold)
        conformal = _sets(probs, truth, is_sure, coverage, notes)
    rule = VerdictRule(
        risk=risk,
        delta=delta,
        threshold=threshold,
        coverage=None if conformal is None else coverage,
        familiar=None if unfamiliar_above is None else familiar,
        unfamiliar_above=unfamiliar_above,
        num_held_out=len(labels),
        risk_curve=curve,
    )
    return FittedDecisions(rule, conformal, familiarity, temperature, tuple(notes))


@torch.no_grad()
def _read(model: Any, images: Images, name: str, progress: bool) -> tuple[Tensor, Tensor]:
    """Features [N, D] and labels [N] on the CPU."""
    if isinstance(images, tuple):
        features, labels = images
        return features.detach().float().cpu(), torch.as_tensor(labels).cpu().long()
    batches, count = batches_of(images)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found: list[tuple[Tensor, Tensor]] = []
    with tqdm(total=count, desc=name, unit=" images", disable=not progress) as bar:
        for batch in batches:
            inputs = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
            if (truth := inputs.pop("labels", None)) is None:
                raise ValueError(f"A batch has the entries {', '.join(batch)}; labels are missing.")
            found.append((features_of(model, inputs).float().cpu(), truth.cpu().long()))
            bar.update(len(truth))
    model.train(was_training)
    if not found:
        raise ValueError(f"{name} are none; pass at least one batch.")
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def _half(labels: Tensor, seed: int) -> Tensor:
    """Half of the images of every class, drawn at random: [M] bool."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[::2]] = True
    return chosen


def _temperature(
    layer: Any, features: Tensor, labels: Tensor, first: Tensor, notes: list[str]
) -> FittedTemperature | None:
    """A temperature where it gains more than a standard error on images it was not fitted on."""
    if not 0 < int(first.sum()) < len(labels):
        return None
    gains = torch.zeros(len(labels), dtype=torch.float64)
    judged = copy.deepcopy(layer)
    for fold in (first, ~first):
        fitted = _fit_temperature(layer, features[fold], labels[fold])
        judged.set_temperature(fitted)
        before, after = (
            log_loss_per_image(one.predict(features[~fold]).probs.double(), labels[~fold]) for one in (layer, judged)
        )
        gains[~fold] = before - after
    gain, error = gains.mean().item(), gains.std().item() / len(gains) ** 0.5
    if gain <= error:
        notes.append(
            f"The temperature stays {layer.config.temperature:.3g}: another gains {gain:.4f} nats an image on others "
            f"than it was fitted on, within the noise ({error:.4f})."
        )
        return None
    fitted = _fit_temperature(layer, features, labels)
    notes.append(
        f"Temperature {fitted.temperature:.3g}: {gain:.4f} nats an image better, on others than it was fitted on."
    )
    return fitted


def _fit_temperature(layer: Any, features: Tensor, labels: Tensor) -> FittedTemperature:
    prediction, labels = collect_predictions(layer, features, labels, progress=False)
    scale = layer.config.variance_scale
    return fit_temperature(prediction, labels, variance_scale=scale, label_smoothing=smoothing_of_few(len(labels)))


def _threshold(probs: Tensor, labels: Tensor, risk: float, delta: float, notes: list[str]) -> float | None:
    needed = images_needed(risk, delta)
    try:
        fitted = fit_abstention(probs, labels, risk, delta=delta)
    except ValueError:
        M, confident = len(labels), as_percentage(1 - delta)
        why = (
            f"{needed:,} or more do, if none of the surest is wrong"
            if needed > M
            else "too many of the surest are wrong"
        )
        notes.append(
            f"Nothing is called sure: {M:,} images do not show, with confidence {confident}, that at most "
            f"{as_percentage(risk)} of any answers are wrong; {why}."
        )
        return None
    notes.append(
        f"Sure: {fitted.coverage:.1%} of these images; at most {as_percentage(risk)} of sure answers are wrong (with "
        f"confidence {as_percentage(1 - delta)}), {fitted.empirical_risk:.1%} were here."
    )
    return max(0.0, fitted.threshold)


def _risk_curve(probs: Tensor, labels: Tensor, delta: float) -> tuple[tuple[float, float, float], ...]:
    """(threshold, risk, share answered) for every risk within reach, each by itself with confidence 1 - delta."""
    points: dict[float, tuple[float, float, float]] = {}
    for risk in RISKS:
        if len(labels) < images_needed(risk, delta):
            continue
        try:
            fitted = fit_abstention(probs, labels, risk, delta=delta)
        except ValueError:  # out of reach on these images
            continue
        threshold = max(0.0, fitted.threshold)
        points.setdefault(threshold, (threshold, risk, fitted.coverage))
    return tuple(points[threshold] for threshold in sorted(points))


def _familiarity(
    layer: Any,
    features: Tensor,
    labels: Tensor,
    first: Tensor,
    training: tuple[Tensor, Tensor] | None,
    notes: list[str],
) -> tuple[Familiarity | None, Tensor]:
    """New statistics, or None for those the layer has, and the held-out images that say what is usual, [M] bool."""
    everyone = torch.ones_like(first)
    if training is None and layer.familiarity is not None:
        return None, everyone
    needed = MIN_HELD_OUT if training is not None else 2 * MIN_HELD_OUT
    if len(labels) < needed:
        notes.append(
            f"Nothing is called unfamiliar: {len(labels)} images do not say what is usual; {needed} or more do."
        )
        return None, everyone
    if training is not None:
        return fit_familiarity(layer, *training, features), everyone
    notes.append(
        "Class means are of half of the held-out images, because the model has none: pass training= for better ones."
    )
    return fit_familiarity(layer, features[first], labels[first], features[~first]), ~first


def _unusual(statistics: Tensor, familiar: float, notes: list[str]) -> float | None:
    """The ceil((M + 1) familiar)-th smallest statistic: a new image of the same kind lies above it that rarely."""
    M = len(statistics)
    rank = math.ceil((M + 1) * familiar - 1e-9)
    if rank > M:
        needed = images_for_coverage(familiar)
        notes.append(
            f"Nothing is called unfamiliar: {M} images do not show what is rarer than 1 in "
            f"{1 / (1 - familiar):.0f}; {needed:,} or more do."
        )
        return None
    notes.append(f"Unfamiliar: what is less usual than {as_percentage(familiar)} of such images.")
    return statistics.double().sort().values[rank - 1].item()


def _sets(
    probs: Tensor, labels: Tensor, is_sure: Tensor, coverage: float, notes: list[str]
) -> ConformalPredictor | None:
    """Sets fitted on the images that are not sure, on all where these are too few; None where all are."""
    needed = images_for_coverage(coverage)
    torn = int((~is_sure).sum())
    rows = ~is_sure if torn >= needed else torch.ones_like(is_sure)
    if int(rows.sum()) < needed:
        notes.append(
            f"No prediction sets: {len(labels)} images are too few for a coverage of {as_percentage(coverage)}; "
            f"{needed:,} or more do."
        )
        return None
    whose = "torn images" if torn >= needed else f"all images (only {torn} are torn, and {needed} are needed)"
    notes.append(f"Torn: the sets of {whose} hold the true class in {as_percentage(coverage)}.")
    return fit_conformal(probs[rows], labels[rows], coverage, method="lac")
