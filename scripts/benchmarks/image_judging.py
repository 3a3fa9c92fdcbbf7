"""Everything about a trained system on test images, by the same functions for all: answers in, figures out.

A system answers in one of two ways: a head reads features that one pass of the backbone made (plain networks too,
their linear layer being a head without spread), or several passes of networks give draws of the logits (MC dropout, an
ensemble). Both give `BNDLPrediction`s, and the rest is the same.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.predictive import BNDLPrediction, predict_from_draws
from bndl_hf.uncertainty import fit_temperature, ood_auroc, ood_scores, summarize
from bndl_hf.utils.results import seconds_taken

NUM_DRAWS = 20  # the paper's, App. A.1
# Scores that mean the same for every system.
OOD_SCORES = ("max_probability", "entropy", "energy", "mutual_information", "z")
TIMED_IMAGES, _TIMINGS = 256, 15


class Answers(ABC):
    """How a trained system answers rows, which are what its passes over some images left."""

    sparsity: float
    temperature: float = 1.0

    @abstractmethod
    def predict(self, rows: Tensor) -> BNDLPrediction:
        """The answer."""

    @abstractmethod
    def draw(self, rows: Tensor) -> BNDLPrediction:
        """The answer by draws, whose p-value is that of the paper's PAvPU (S = 20 where it draws S)."""

    def fit_temperature(self, rows: Tensor, labels: Tensor) -> None:
        """Set the temperature of least negative log-likelihood on held-out rows."""
        self.temperature = 1.0
        self.temperature = fit_temperature(self.predict(rows), labels).temperature


class HeadAnswers(Answers):
    """A head on features [N, D]; `method` is how it predicts."""

    def __init__(self, layer: PosteriorHead, method: str = "exact") -> None:
        self.layer, self.method = layer.cpu().eval(), method
        self.sparsity = layer.sparsity()

    def _predict(self, rows: Tensor, method: str) -> BNDLPrediction:
        self.layer.set_temperature(self.temperature)
        found = self.layer.predict(rows, method, NUM_DRAWS, torch.Generator().manual_seed(0))
        self.layer.set_temperature(1.0)
        return found

    def predict(self, rows: Tensor) -> BNDLPrediction:
        """By the head's own method."""
        return self._predict(rows, self.method)

    def draw(self, rows: Tensor) -> BNDLPrediction:
        """By S draws of its posterior."""
        return self._predict(rows, "monte_carlo")


class DrawnAnswers(Answers):
    """Draws of the logits [N, S, C], one a pass or a member."""

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity

    def predict(self, rows: Tensor) -> BNDLPrediction:
        """The mean over draws of the softmax; there is no evidence to speak of."""
        nothing = torch.full((len(rows),), torch.nan)
        return predict_from_draws(rows.transpose(0, 1), nothing, 0.05, Recalibration(self.temperature, 1.0))

    def draw(self, rows: Tensor) -> BNDLPrediction:
        """The same: it has no other answer."""
        return self.predict(rows)


def judge(answers: Answers, rows: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Any]:
    """Every figure of one system.

    Args:
        answers: of the system.
        rows: of "test", of "held_out" where images were, and of out-of-distribution sets "ood_NAME".
        labels: of "test" and "held_out".

    Returns:
        The figures of `summarize` on all test images; `pavpu_20_draws`, with p-values of draws; `ood`, AUROC by score
        and set; `sparsity`; `tempered`, the same figures with a temperature of the held-out images, or of one half of
        the test images, judged on the other half.
    """
    truth = labels["test"]
    answers.temperature = 1.0
    prediction, drawn = answers.predict(rows["test"]), answers.draw(rows["test"])
    figures: dict[str, Any] = summarize(prediction.probs, truth, prediction.p_value)
    figures["pavpu_20_draws"] = summarize(prediction.probs, truth, drawn.p_value)["pavpu"]
    figures["sparsity"] = answers.sparsity
    inside = ood_scores(prediction)
    figures["ood"] = {name: {} for name in OOD_SCORES}
    for part in (p for p in rows if p.startswith("ood_")):
        outside = ood_scores(answers.predict(rows[part]))
        for name in OOD_SCORES:
            figures["ood"][name][part.removeprefix("ood_")] = ood_auroc(inside[name], outside[name])
    judged = torch.arange(len(truth))
    if "held_out" in rows:
        answers.fit_temperature(rows["held_out"], labels["held_out"])
    else:
        order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
        fitted, judged = order[: len(order) // 2], order[len(order) // 2 :].sort().values
        answers.fit_temperature(rows["test"][fitted], truth[fitted])
    tempered = summarize(answers.predict(rows["test"][judged]).probs, truth[judged], prediction.p_value[judged])
    kept = {name: value for name, value in tempered.items() if name != "pavpu"}
    figures["tempered"] = {"temperature": answers.temperature, "images": len(judged), **kept}
    answers.temperature = 1.0
    return figures


def cost_of(answer: Callable[[Tensor], Any], forward: Callable[[Tensor], Any], pixels: Tensor) -> float:
    """How many times one forward pass of the plain network an answer with its uncertainty takes, on these images.

    Args:
        answer: images to the answer.
        forward: images to the logits of the plain network.
        pixels: [B, 3, H, W], on the device of both.

    Returns:
        The median of paired ratios: both are timed in turn.
    """
    device = pixels.device.type
    ratios = []
    for turn in range(_TIMINGS + 2):
        pair = [seconds_taken(lambda call=call: call(pixels), device) for call in (forward, answer)]
        if turn >= 2:  # the first ones warm up
            ratios.append(pair[1] / pair[0])
    return statistics.median(ratios)
