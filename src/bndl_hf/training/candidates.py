"""What a search for a decision layer compares: candidates, and how held-out rows judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.logistic_regression import Split
from bndl_hf.uncertainty.collecting import collect_predictions, join_predictions
from bndl_hf.uncertainty.recalibration import fit_temperature

Fit = Callable[[Tensor, Tensor], PosteriorHead]


@dataclass(frozen=True)
class Judged:
    """What held-out rows say of a layer.

    Attributes:
        loss: negative log-likelihood a row, nats, with the temperature below and one more image of unknown class: a
            layer that is right on all of a few rows is not for that reason sure of everything.
        temperature: of least loss.
        num_images: how many rows there were.
    """

    loss: float
    temperature: float
    num_images: int


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
    """Loss and temperature on the held-out rows of every split, each answered by the layer of its other rows."""
    found = [
        collect_predictions(fit(s.features, s.labels), s.held_features, s.held_labels, progress=False) for s in splits
    ]
    labels = torch.cat([labels for _, labels in found])
    prediction = join_predictions([prediction for prediction, _ in found])
    fitted = fit_temperature(prediction, labels, label_smoothing=1 / (len(labels) + 1))
    return Judged(fitted.negative_log_likelihood_after, fitted.temperature, len(labels))
