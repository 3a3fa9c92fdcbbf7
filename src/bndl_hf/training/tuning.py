"""A decision layer whose strength comes from the data: candidates, judged on held-out rows, and the best one kept.

Few photographs want a strong prior, many a free projection, and no one setting serves both (docs/defaults.md). So two
kinds of layer are compared: the exact non-negative equivalent of L2 logistic regression with a Laplace posterior of its
loadings (convex_layer.py), and the layer that training makes on features with noise (trained_layer.py). The pool of
both (joined_layer.py) is kept unless one of them is clearly better on the held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.utils import logging

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.candidates import Candidate
from bndl_hf.training.convex_layer import convex_candidate, why_not_convex
from bndl_hf.training.feature_statistics import FeatureStatistics
from bndl_hf.training.joined_layer import joined_candidate
from bndl_hf.training.logistic_regression import Split, folds
from bndl_hf.training.trained_layer import Training, trained_candidate
from bndl_hf.training.tuning_report import TuningReport

logger = logging.get_logger(__name__)

NUM_FOLDS = 5
# Above this many rows one fold held out says enough, and five fits take long.
MAX_ROWS_TO_CROSS_VALIDATE = 5000
# Classes of training images that lie further apart than this have been learned by heart (feature_statistics.py).
MEMORISED_SEPARATION = 1.0


def tune_decision_layer(
    features: Tensor,
    labels: Tensor,
    config: BNDLConfig,
    train: Training,
    held_out: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    report: TuningReport | None = None,
    then: Callable[[PosteriorHead, Candidate, Sequence[Split]], PosteriorHead] | None = None,
) -> PosteriorHead:
    """The best of the candidates by held-out likelihood, with a temperature from the same rows.

    Args:
        features: [N, D], float32; or [V, N, D], V views of each image (feature_views.py). Layers are fitted to all
            views of their images; an image is held out with all its views and judged on the first, the plain one.
        labels: [N], in 0 .. C - 1.
        config: of the layer wanted. Where it departs from the default preset in what the convex candidate is made of
            (projection, number of factors, thresholds, concentrations), that candidate is left out, and it is said.
        train: how a layer is trained; with views it is given V n rows, view by view.
        held_out: rows (features, labels) to choose on. None chooses by five-fold cross-validation, above 5,000 rows on
            a fifth of them, and fits again on all rows.
        seed: of the folds.
        keep: fields of `config` that stay as they are whatever is chosen, as if they departed from the preset.
        report: is told what is tried and chosen; it is logged all the same.
        then: makes the layer that is returned of the best one, its candidate and the splits (density.py does).

    Returns:
        A fitted layer. Its temperature is that of the held-out rows.

    Raises:
        ValueError: fewer rows than two of some class, without `held_out`.
    """
    x, labels = features.float(), labels.long()
    views = x if x.ndim == 3 else x[None]  # [V, N, D]
    x, y = x.flatten(0, -2), labels.repeat(len(views))
    report = TuningReport() if report is None else report
    if held_out is None and _is_memorised(views[0], labels, config.num_labels):
        report.is_memorised, report.chosen = True, "trained"
        report.note(
            "The classes of the training images lie so far apart that the backbone must have learned these images by "
            "heart: nothing can be tuned on them, and the default is used. Pass held-out images it has not seen as "
            "eval_features and eval_labels.",
            warns=True,
        )
        return train(x, y, config)
    splits = _splits(views, labels, held_out, seed)
    report.num_held_out = sum(len(split.held_labels) for split in splits)
    report.num_folds = 0 if held_out is not None else len(splits)
    candidates: list[Candidate] = []
    if reason := why_not_convex(config, keep):
        report.note(f"Logistic regression is not tried, because its equivalent cannot have {reason}.")
    else:
        candidates.append(convex_candidate(splits, config, keep))
    trained, met_all = trained_candidate(splits, config, train, keep, *candidates)
    if met_all:
        candidates.append(trained)
    else:
        report.note(
            f"trained ({trained.settings}): negative log-likelihood {trained.judged.loss:.4f} on the first of "
            f"{len(splits)} folds, more than {candidates[0].name}; it is left out."
        )
    if len(candidates) == 2 and (joined := joined_candidate(splits, *candidates)):
        candidates.append(joined)
    for candidate in candidates:
        judged = candidate.judged
        report.candidates.append(
            {
                "name": candidate.name,
                "negative_log_likelihood": judged.loss,
                "temperature": judged.fitted.temperature,
                "variance_scale": judged.fitted.variance_scale,
                "settings": candidate.settings,
            }
        )
        logger.info(
            "%s: negative log-likelihood %.4f on held-out images with temperature %.2f, variance times %.2f (%s)",
            *(candidate.name, judged.loss, judged.fitted.temperature, judged.fitted.variance_scale, candidate.settings),
        )
    best = _best(candidates)
    logger.info("Chosen: %s", best.name)
    report.chosen, report.temperature = best.name, best.judged.fitted.temperature
    layer = best.fit(x, y)
    layer.config.num_training_images = len(labels)
    layer.set_temperature(best.judged.fitted)
    return layer if then is None else then(layer, best, splits)


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The last of `candidates`, which joins the others, unless one is better by more than a standard error."""
    last = candidates[-1]
    if last.name != "both":
        return min(candidates, key=lambda candidate: candidate.judged.loss)
    gains = [(last.judged.losses - one.judged.losses, one) for one in candidates]
    clear = [(gain.mean().item(), one) for gain, one in gains if gain.mean() > gain.std() / len(gain) ** 0.5]
    return max(clear, key=lambda pair: pair[0], default=(0.0, last))[1]


def _splits(views: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor] | None, seed: int) -> list[Split]:
    """Rows of all views [V, N, D] to fit on, plain ones to choose on: no image is on both sides."""
    V = len(views)
    if held_out is not None:
        return [Split(views.flatten(0, 1), y.repeat(V), held_out[0].float(), held_out[1].long())]
    if (rarest := y.bincount()[y.unique()].min().item()) < 2:
        raise ValueError(
            f"A class has {rarest} image, so none can be held out to tune on; pass two or more images of every class, "
            "eval_features and eval_labels, or tune=False."
        )
    every = folds(torch.arange(len(y)), y, NUM_FOLDS, seed)  # of images
    every = every if len(y) <= MAX_ROWS_TO_CROSS_VALIDATE else every[:1]
    return [
        Split(views[:, s.features].flatten(0, 1), s.labels.repeat(V), views[0, s.held_features], s.held_labels)
        for s in every
    ]


def _is_memorised(x: Tensor, y: Tensor, num_labels: int) -> bool:
    separation = FeatureStatistics(x, y, num_labels).class_separation
    return separation is not None and separation > MEMORISED_SEPARATION
