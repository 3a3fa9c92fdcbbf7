"""What a search for a decision layer compares: candidates, and how held-out rows judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.logistic_regression import Split
from bndl_hf.uncertainty.collecting import collect_predictions, join_predictions
from bndl_hf.uncertainty.recalibration import FittedTemperature, fit_temperature

Fit = Callable[[Tensor, Tensor], PosteriorHead]


@dataclass(frozen=True)
class Judged:
    """What held-out rows say of a layer.

    Attributes:
        fitted: temperature and variance scale of least loss, the loss in nats a row. One more image of unknown class is
            among the rows: a layer that is right on all of a few rows is not for that reason sure of everything.
    """

    fitted: FittedTemperature

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
        name: "trained" or "logistic regression".
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
    return Judged(
        fit_temperature(prediction, labels, variance_scale=None, label_smoothing=1 / (len(labels) + 1)),
    )
