"""What a search for a decision layer compares: candidates, and how held-out rows judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.logistic_regression import Split
from bndl_hf.uncertainty.collecting import collect_predictions, join_predictions
from bndl_hf.uncertainty.recalibration import FittedTemperature, fit_temperature, smoothing_of_few

# Of features, unless the configuration names another: the one that did best on held-out rows of most tasks.
FEATURE_POWER = 0.7

Fit = Callable[[Tensor, Tensor], PosteriorHead]


@dataclass(frozen=True)
class Judged:
    """What held-out rows say of a layer.

    Attributes:
        fitted: temperature and variance scale of least loss, the loss in nats a row. Half an image of unknown class
            is among the rows: a layer that is right on all of a few rows is not for that reason sure of everything.
        losses: negative log-likelihood of each row with them, [M], nats.
        mean_temperature: of least loss where the variance counts for nothing: what the mean logits are divided by.
    """

    fitted: FittedTemperature
    losses: Tensor
    mean_temperature: float

    @property
    def loss(self) -> float:
        """Negative log-likelihood a row, nats, with temperature and variance scale."""
        return self.fitted.negative_log_likelihood_after

    @property
    def num_images(self) -> int:
        """How many rows there were."""
        return self.fitted.num_images


@dataclass(frozen=True)
class Candidate:
    """A kind of decision layer.

    Attributes:
        name: "trained", "logistic regression" or "both".
        fit: rows [N, D] and labels [N] to a layer.
        judged: on the held-out rows.
        settings: what was chosen inside it, in words.
    """

    name: str
    fit: Fit
    judged: Judged
    settings: str = ""


def judge(splits: Sequence[Split], fit: Fit) -> Judged:
    """Loss, temperature and variance scale on the held-out rows of every split, answered by the layers of its others.

    Noise while training makes the variance of the logits larger than it is, by how much is anybody's guess: on few
    images of many classes the scale is worth more than the temperature.
    """
    found = [
        collect_predictions(fit(s.features, s.labels), s.held_features, s.held_labels, progress=False) for s in splits
    ]
    labels = torch.cat([labels for _, labels in found])
    prediction = join_predictions([prediction for prediction, _ in found])
    smoothing = smoothing_of_few(len(labels))
    free, as_is, of_means = (
        fit_temperature(prediction, labels, variance_scale=scale, label_smoothing=smoothing)
        for scale in (None, 1.0, 0.0)
    )
    # A second number has to pay for itself (Akaike 1974): one nat over all rows.
    gain = min(as_is, of_means, key=_loss).negative_log_likelihood_after - free.negative_log_likelihood_after
    fitted = free if gain * len(labels) > 1 else min(as_is, of_means, key=_loss)
    mean = prediction.logits_mean.double()
    recalibration = Recalibration(fitted.temperature, fitted.variance_scale)
    log_probs = recalibration.log_probs(mean - mean.amax(-1, keepdim=True), prediction.gap_variance.double())
    return Judged(fitted, -log_probs.gather(1, labels[:, None]).squeeze(1), of_means.temperature)


def _loss(fitted: FittedTemperature) -> float:
    return fitted.negative_log_likelihood_after
