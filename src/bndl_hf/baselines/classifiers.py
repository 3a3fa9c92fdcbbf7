"""What a comparison needs of any head: probabilities, a temperature, out-of-distribution scores, how many weights.

A `PosteriorHead` is judged through `PosteriorClassifier`; heads of other kinds (laplace.py, variational_last_layer.py)
say their log-probabilities, and the rest follows. A `ClassifierRecipe` makes one by name (registry.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bndl_hf.baselines.feature_task import FeatureTask
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.uncertainty import fit_temperature, ood_scores
from bndl_hf.uncertainty.recalibration import MAX_TEMPERATURE, MIN_TEMPERATURE


class Classifier(ABC):
    """A trained head as a comparison sees it.

    Attributes:
        temperature: T, 1 until one is fitted.
        weights_per_class: how many numbers a class is decided by, on average.
        density: share of the weights that are not zero, a fraction in [0, 1].
    """

    temperature: float = 1.0
    weights_per_class: float
    density: float = 1.0

    @abstractmethod
    def probs(self, features: Tensor) -> Tensor:
        """Predictive probabilities of features [B, D] at this temperature, [B, C]."""

    @abstractmethod
    def fit_temperature(self, features: Tensor, labels: Tensor) -> float:
        """Set the temperature of least negative log-likelihood on held-out rows, and return it.

        Args:
            features: [N, D].
            labels: [N].
        """

    @abstractmethod
    def ood_scores(self, features: Tensor) -> dict[str, Tensor]:
        """Scores of features [B, D], each [B], higher where an image lies farther out."""

    def p_value(self, features: Tensor) -> Tensor | None:
        """Of the paired t-test between the two top classes over 20 draws (Sec. 5), [B]; None where nothing is drawn."""
        return None


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a head that is not a `PosteriorHead` is made of a comparison's rows.

    Attributes:
        fit: makes it of the training rows of a task and a seed; what it chooses, it chooses on the choosing rows.
        about: one line for tables.
        citation: BibTeX.
        is_random: whether the seed changes anything; a comparison fits a head without randomness once.
    """

    fit: Callable[[FeatureTask, int], Classifier]
    about: str
    citation: str
    is_random: bool = True


class LogProbsClassifier(Classifier):
    """A head that is known by its log-probabilities; a temperature divides them before they are normalised again."""

    @abstractmethod
    def log_probs(self, features: Tensor) -> Tensor:
        """log p of features [B, D] as the head was trained, [B, C], rows normalised."""

    def probs(self, features: Tensor) -> Tensor:
        """softmax(log p / T), [B, C]."""
        return (self.log_probs(features) / self.temperature).softmax(dim=-1)

    def fit_temperature(self, features: Tensor, labels: Tensor) -> float:
        """Temperature scaling (Guo et al. 2017, arXiv:1706.04599): T in [0.05, 20]."""
        log_probs = self.log_probs(features).double()
        truth = labels.long()[:, None]

        def loss(log_temperature: float) -> float:
            tempered = (log_probs / math.exp(log_temperature)).log_softmax(dim=-1)
            return -tempered.gather(1, truth).mean().item()

        bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        # Convex in 1 / T: one minimum, wherever the search starts.
        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
        self.temperature = math.exp(found.x)
        return self.temperature

    def ood_scores(self, features: Tensor) -> dict[str, Tensor]:
        """One minus the largest probability, and the entropy in nats."""
        probs = self.probs(features)
        return {"max_probability": 1 - probs.amax(dim=-1), "entropy": torch.special.entr(probs).sum(dim=-1)}


class PosteriorClassifier(Classifier):
    """A `PosteriorHead` with all its scores; its temperature acts on the random logits (`fit_temperature`).

    Args:
        layer: a trained head, in evaluation mode.
        method: how it predicts, "exact" or "monte_carlo".
        seed: of the draws.
    """

    def __init__(self, layer: PosteriorHead, method: str = "exact", seed: int = 0) -> None:
        self.layer, self.method, self.seed = layer, method, seed
        self.density = layer.sparsity()
        self.weights_per_class = self.density * layer.raw_loadings.shape[0]

    def probs(self, features: Tensor) -> Tensor:
        """Probabilities of the predictive, [B, C]."""
        return self.layer.predict(features, self.method, generator=self._generator()).probs

    def fit_temperature(self, features: Tensor, labels: Tensor) -> float:
        """Set the layer's temperature; see `bndl_hf.uncertainty.fit_temperature`."""
        fitted = fit_temperature(self.layer.predict(features, self.method, generator=self._generator()), labels)
        self.layer.set_temperature(fitted)
        self.temperature = fitted.temperature
        return self.temperature

    def ood_scores(self, features: Tensor) -> dict[str, Tensor]:
        """Every score of `bndl_hf.uncertainty.OOD_SCORES`."""
        return ood_scores(self.layer.predict(features, self.method, generator=self._generator()))

    def p_value(self, features: Tensor) -> Tensor:
        """That of the predictive, [B]."""
        return self.layer.predict(features, self.method, generator=self._generator()).p_value

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
