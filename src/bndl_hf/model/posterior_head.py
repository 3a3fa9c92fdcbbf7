"""What every decision layer here gives: logits, predictions and explanations made of two posteriors (Eqs. 3-5).

A head says what it believes of the factor scores of an image and of the loadings of the classes. Everything else
follows: the random logits (logit_posterior.py), the answer (predictive.py), its parts (evidence.py), the loss
(loss.py). decision_layer.py is the BNDL head; `bndl_hf.baselines` has an NMF and a dense one.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_bndl import BNDLConfig
from .configuration_checks import check_num_samples
from .decisions import Decisions, store_abstention, store_conformal, store_decisions, store_temperature
from .evidence import Evidence, explain_logit
from .familiarity import Familiarity
from .logit_posterior import LogitPosterior, Posterior
from .loss import likelihood_loss, negative_elbo
from .mean_field import Recalibration
from .outputs import BNDLImageClassifierOutput
from .prediction_sets import ConformalPredictor
from .predictive import BNDLPrediction, predict_by_sampling, predict_exactly

AnswerT = TypeVar("AnswerT")

# A loading above this counts as non-zero in the paper's 1-sparsity (Sec. 5.1.2).
SPARSITY_THRESHOLD = 1e-5
# A pruned raw loading is put this far below the threshold. There it gets no gradient, and what momentum an optimizer
# still has moves it by some ten learning rates, so it stays pruned and nothing about it has to be remembered.
_OUT_OF_REACH = 1.0
_SMALLEST_TO_POWER = 1e-4
# The variance of a logit holds the square of a feature times up to 1e11: beyond this it leaves float32.
_LARGEST_FEATURE = 1e12


class PosteriorHead(nn.Module, ABC):
    """A decision layer over features [B, D]: subclasses say what its posteriors are; always float32.

    Args:
        config: `feature_dim` and `num_labels` must be set.
        num_factors: K, the rows of `raw_loadings`.

    Raises:
        ValueError: when the configuration names no feature width.
    """

    knows_labels: bool = False  # while a Trainer trains on labels that it has checked
    feature_scale: Tensor  # [D], what the power of every feature is multiplied by before anything else

    def __init__(self, config: BNDLConfig, num_factors: int | None) -> None:
        super().__init__()
        if config.feature_dim is None or num_factors is None:
            raise ValueError("feature_dim is missing from the configuration; set it to the width of the features.")
        self.config = config
        self.register_buffer("feature_scale", torch.ones(config.feature_dim))
        self.raw_loadings = nn.Parameter(torch.empty(num_factors, config.num_labels))  # [K, C]
        rank = config.familiarity_rank
        self.familiarity = None if rank is None else Familiarity(config.num_labels, config.feature_dim, rank)
        self.raw_bias = None if config.bias == "none" else nn.Parameter(torch.empty(config.num_labels))

    # ---- what a head is ----

    @abstractmethod
    def posterior_of_inputs(self, inputs: Tensor) -> Posterior:
        """q(theta | h) of `inputs` [B, D]: means [B, K], concentrations [B, 1] or [B, K]."""

    @abstractmethod
    def loading_posterior(self) -> Posterior:
        """q(Phi): means [K, C], concentrations [K, 1] or [K, C]."""

    @abstractmethod
    def kl_local(self, scores: Any) -> Tensor:
        """KL of the scores to their prior: sum over factors, mean over the images, nats."""

    @abstractmethod
    def kl_global(self, loadings: Any) -> Tensor:
        """KL of the loadings to their prior: sum over all entries, nats."""

    @property
    def bias(self) -> Tensor:
        """b of Eq. 5, [C]: free, relu(b - c_phi) (released code), or zeros."""
        if self.raw_bias is None:
            return self.raw_loadings.new_zeros(self.raw_loadings.shape[1])
        if self.config.bias == "non_negative":
            return F.relu(self.raw_bias - self.config.loading_threshold)
        return self.raw_bias

    def inputs(self, features: Tensor) -> Tensor:
        """Features [B, D] as the posterior of the scores reads them: float32, their power, in units of their spread."""
        features, power = features.float(), self.config.feature_power
        return (features if power == 1 else signed_power(features, power)) * self.feature_scale

    def score_posterior(self, features: Tensor) -> Posterior:
        """q(theta | h) of features [B, D] (Eqs. 8-9): means [B, K], concentrations [B, 1] or [B, K]."""
        return self.posterior_of_inputs(self.inputs(features))

    # ---- training ----

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        answer: Callable[[LogitPosterior], Any] | None = None,
    ) -> Any:
        """Logits of features [B, D] and, with labels [B], every term of the loss: a `BNDLImageClassifierOutput`.

        Args:
            features: [B, D].
            labels: [B].
            answer: makes something else of the random logits, which is then returned. `predict` and `explain` pass
                through here, so that hooks on this method run for them too: accelerate loads offloaded weights so.

        Raises:
            ValueError: for features of another width or, in evaluation mode, with NaN or infinite entries; for labels
                of another shape or outside 0 .. C-1.
        """
        self.check_inputs(features, labels)
        with without_autocast(features):
            if answer is not None:
                return answer(LogitPosterior(self.score_posterior(features), self.loading_posterior(), self.bias))
            labels = None if labels is None else labels.long()
            inputs = self.inputs(features)
            if self.training and self.config.feature_noise:
                inputs = inputs + self.config.feature_noise * torch.randn_like(inputs)
            return self.output_of(
                LogitPosterior(self.posterior_of_inputs(inputs), self.loading_posterior(), self.bias), labels
            )

    def output_of(self, random: LogitPosterior, labels: Tensor | None) -> BNDLImageClassifierOutput:
        """What `forward` makes of the random logits; a head with a loss of its own has one of these."""
        logits = self.logits_of(random, labels)
        loss = nll = kl_local = kl_global = None
        if labels is not None:
            loss = nll = self.likelihood_loss(logits, labels)
            kl_local, kl_global = self.kl_local(random.scores), self.kl_global(random.loadings)
            if self.training:
                loss = negative_elbo(nll, kl_local, kl_global, self.config)
        return BNDLImageClassifierOutput(
            loss, logits, nll, kl_local, kl_global, logits_mean=random.mean, factor_scores=random.scores.mean
        )

    def logits_of(self, random: LogitPosterior, labels: Tensor | None) -> Tensor:
        """`logits` of `forward`, [B, C]: of the predictive in evaluation mode, of the objective while training."""
        if not self.training:
            return random.damped(random.top_two[0], Decisions.of(self.config).recalibration)
        if self.config.objective == "sampled":
            return random.sample()  # one draw of theta per image and of Phi per batch (Sec. 3.4)
        return random.damped(random.top_two[0] if labels is None else labels, Recalibration())

    def likelihood_loss(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """What the labels cost where `forward` gave `logits`; see `loss.likelihood_loss`, which has the arguments."""
        return likelihood_loss(logits, labels, class_weights, label_smoothing)

    # ---- answers ----

    @torch.no_grad()
    def predict(
        self,
        features: Tensor,
        method: str = "exact",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        abstain_below: float | None = None,
    ) -> BNDLPrediction:
        """Answer and uncertainty for features [B, D]; see `BNDLForImageClassification.predict`."""
        num_samples = self.config.num_samples if num_samples is None else num_samples
        if method not in ("exact", "monte_carlo"):
            raise ValueError(f"method={method!r} is unknown; choose 'exact' or 'monte_carlo'.")
        check_num_samples(num_samples)
        decisions = Decisions.of(self.config)

        def answer(random: LogitPosterior) -> BNDLPrediction:
            prediction = self.prediction_of(random, method, num_samples, decisions.recalibration, generator)
            if self.familiarity is not None:
                distance, statistic = self.familiarity(features, prediction.logits_mean)
                found = {"mahalanobis_distance": distance, "fisher_statistic": statistic}
                prediction = dataclasses.replace(prediction, **found)
            return decisions.apply(prediction, abstain_below)

        return self._answer(features, answer)

    def prediction_of(
        self,
        random: LogitPosterior,
        method: str,
        num_samples: int,
        recalibration: Recalibration,
        generator: torch.Generator | None,
    ) -> BNDLPrediction:
        """What `predict` makes of the random logits, before anything is decided on it."""
        threshold = self.config.certainty_threshold
        if method == "exact":
            return predict_exactly(random, num_samples, threshold, recalibration)
        return predict_by_sampling(random, num_samples, threshold, recalibration, generator)

    @torch.no_grad()
    def explain(
        self,
        features: Tensor,
        target: Tensor | int | None = None,
        top_k: int | None = None,
        against: Tensor | int | str | None = None,
    ) -> Evidence:
        """The parts of a logit for features [B, D]; see `BNDLForImageClassification.explain`."""
        return self._answer(features, lambda random: explain_logit(random, target, top_k, against))

    def scores(self, features: Tensor) -> Posterior:
        """`score_posterior` for features as they come: checked, outside autocast, with the hooks of `forward`."""
        return self._answer(features, lambda random: random.scores)

    def _answer(self, features: Tensor, answer: Callable[[LogitPosterior], AnswerT]) -> AnswerT:
        return self(features, answer=answer)

    # ---- sparsity (Sec. 5.1.2) ----

    @property
    def factor_loadings(self) -> Tensor:
        """E[Phi], [K, C], >= 0."""
        return self.loading_posterior().mean

    @torch.no_grad()
    def sparsity(self) -> float:
        """Share of loadings farther than 1e-5 from zero, a fraction in [0, 1]; the paper's 1-sparsity, Sec. 5.1.2."""
        return (self.factor_loadings.abs() > SPARSITY_THRESHOLD).float().mean().item()

    @torch.no_grad()
    def zero_loadings(self, is_zero: Tensor) -> None:
        """Set the loadings where `is_zero` [K, C] to zero for good: training does not bring them back."""
        self.raw_loadings.masked_fill_(is_zero, self.config.loading_threshold - _OUT_OF_REACH)

    @torch.no_grad()
    def prune_smallest(self, density: float) -> None:
        """Keep the share `density` of the loadings, the largest posterior means; the others are zero for good.

        Args:
            density: a fraction in (0, 1]. Every class keeps its largest loading whatever the density.
        """
        means = self.factor_loadings  # [K, C]
        is_largest = torch.zeros_like(means, dtype=torch.bool).scatter_(0, means.argmax(dim=0, keepdim=True), True)
        ranked = torch.where(is_largest, torch.inf, means).flatten()
        kept = ranked.topk(max(round(density * means.numel()), means.shape[1])).indices
        self.zero_loadings((ranked > 0).index_fill_(0, kept, False).view_as(means))

    # ---- set-up and checks ----

    @torch.no_grad()
    def set_feature_scale(self, scale: Tensor) -> None:
        """Set the factor [D] the power of every feature is multiplied by (`normalize_features`)."""
        self.feature_scale.copy_(scale)

    def set_temperature(self, temperature: Any, variance_scale: float | None = None) -> None:
        """Recalibrate; see `BNDLForImageClassification.set_temperature`."""
        store_temperature([self.config], temperature, variance_scale)

    def set_abstention(self, threshold: Any) -> None:
        """Decline to answer below this largest probability; see `BNDLForImageClassification.set_abstention`."""
        store_abstention([self.config], threshold)

    def set_conformal(self, predictor: ConformalPredictor | Mapping[str, Any] | None) -> None:
        """Answer with prediction sets too; see `BNDLForImageClassification.set_conformal`."""
        store_conformal([self.config], predictor)

    def set_decisions(self, decisions: Any) -> None:
        """Give verdicts; see `BNDLForImageClassification.set_decisions`."""
        store_decisions(self, [self.config], decisions)

    def set_familiarity(self, familiarity: Familiarity | None) -> None:
        """Say how familiar features are; see `BNDLForImageClassification.set_familiarity`."""
        wanted = list(self.raw_loadings.shape[1:]) + list(self.feature_scale.shape)  # [C, D]
        if familiarity is not None and list(familiarity.class_means.shape) != wanted:
            raise ValueError(
                f"familiarity was fitted on class means of shape {list(familiarity.class_means.shape)}; this decision "
                f"layer needs {wanted}. Fit it on this layer's features."
            )
        kept = None if familiarity is None else copy.deepcopy(familiarity).to(self.raw_loadings.device)
        self.familiarity = kept
        self.config.familiarity_rank = None if kept is None else kept.rank

    def check_inputs(self, features: Tensor, labels: Tensor | None) -> None:
        """Raise ValueError or TypeError where features or labels do not fit this layer."""
        for name, value, kinds in (("features", features, Tensor), ("labels", labels, Tensor | None)):
            if not isinstance(value, kinds):
                raise TypeError(f"{name} arrived as {type(value).__name__}; pass a tensor.")
        D = self.config.feature_dim
        if features.ndim != 2 or features.shape[1] != D:
            raise ValueError(f"features have shape {list(features.shape)}; this decision layer reads [B, {D}].")
        whole = labels is None or not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if labels is not None and (labels.shape != features.shape[:1] or not whole):
            raise ValueError(
                f"labels have shape {list(labels.shape)} and dtype {labels.dtype}; one whole number for each of the "
                f"{len(features)} images fits, its class. Several classes for one image (multi-hot labels) are not "
                "supported."
            )
        if torch.compiler.is_compiling() or features.is_meta:
            return
        # While training the loss says it, and nothing has to wait for the device. A loading of zero hides what it is
        # multiplied by, and relu(-inf) is zero, so an answer could be finite.
        if not self.training and not (fits := features.float().abs() <= _LARGEST_FEATURE).all():
            fits = fits.all(dim=1)
            raise ValueError(
                f"features hold NaN or infinite entries, or larger ones than {_LARGEST_FEATURE:g}, in "
                f"{(~fits).sum().item()} of {len(fits)} images (first: image {fits.int().argmin().item()} of the "
                "batch); check the weights and the dtype of the backbone."
            )
        C = self.config.num_labels
        if self.training and self.knows_labels and features.is_cuda:
            return  # checked once, and nothing has to wait for the device
        if labels is not None and labels.numel() and not 0 <= labels.min() <= labels.max() < C:
            raise ValueError(
                f"labels run from {labels.min().item()} to {labels.max().item()}; this model knows 0 to {C - 1} "
                f"(num_labels={C}). Check the label column, or pass num_labels to fit the data."
            )

    @torch.no_grad()
    def check_active(self, features: Tensor) -> None:
        """Raise ValueError when the thresholds leave no factor to learn with on `features` [B, D]."""
        if not (self.factor_loadings != 0).any():
            raise ValueError(
                f"loading_threshold={self.config.loading_threshold} leaves no active factor: the largest raw loading "
                f"is {self.raw_loadings.max().item():.3g}. Lower it, or use loading_init='alive'."
            )
        if not (self.score_posterior(features).mean != 0).any():
            raise ValueError(
                f"score_threshold={self.config.score_threshold} leaves no active factor on {len(features)} images: "
                "every score is zero. Lower it."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PosteriorHead:
        """Move between devices as any module, but stay float32 under `model.to(torch.bfloat16)` and the like."""

        def in_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            stays = moved.dtype == torch.float32 or not tensor.is_floating_point()
            return moved if stays else tensor.to(moved.device, torch.float32)

        return super()._apply(in_float32, recurse)


def signed_power(features: Tensor, power: float) -> Tensor:
    """sign(h) |h|^power, of the shape of `features`: below 1 a few large features count less against many small ones.

    Close to zero (|h| < 1e-4) it is a straight line, so that its slope stays finite.
    """
    return features * power_slope(features, power)


def power_slope(features: Tensor, power: float) -> Tensor:
    """|h|^(power - 1): what each feature is multiplied by in `signed_power`."""
    if power == 1:
        return torch.ones_like(features)
    return features.abs().clamp_min(_SMALLEST_TO_POWER).pow(power - 1)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the device of `tensor`, so that float32 stays float32; the meta device has no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(device_type=tensor.device.type, enabled=False)
