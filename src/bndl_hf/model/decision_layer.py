"""The Bayesian non-negative decision layer: posteriors of factor scores and loadings, and the terms of its loss.

Eqs. 3-5 are the model (logits = scores @ loadings + bias), Eqs. 8-9 the local network that reads an image's features,
Eqs. 10-11 the global posterior of the loadings. Works alone on features [B, D] and, inside the model, on whatever the
backbone hands it. Read predictive.py next: it turns the two posteriors into probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_bndl import BNDLConfig
from .decisions import Decisions, decide
from .evidence import Evidence, explain_logit
from .loading_moments import LoadingsMemo
from .loss import negative_elbo
from .outputs import BNDLImageClassifierOutput
from .predictive import BNDLPrediction, exact_log_probs, predict_by_sampling, predict_exactly
from .sparse_loadings import SparseLoadings
from .weibull import WeibullPosterior

# softplus(4.69) = 4.7: with the floor of 0.3 every posterior starts at k = 5, a coefficient of variation of 0.23.
_INITIAL_RAW_CONCENTRATION = 4.69
# Departure: the released code has no floor. At k = 0.05 the relative variance is 1e11, and the variance of a logit
# holds the square of it; below, that leaves float32, and at k = 0 (softplus underflows) so does the gradient.
_LOWEST_CONCENTRATION = 0.05


class PerFactorAffine(nn.Module):
    """w_k x_k + b_k for inputs [B, K]: a diagonal Linear, 2 K weights instead of K^2 + K."""

    def __init__(self, num_factors: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_factors))
        self.bias = nn.Parameter(torch.empty(num_factors))

    def forward(self, x: Tensor) -> Tensor:
        """[B, K] -> [B, K]."""
        return x * self.weight + self.bias


class BNDLDecisionLayer(Decisions, SparseLoadings, nn.Module):
    """Posteriors of scores and loadings, their logits and the loss terms; always float32.

    Args:
        config: `feature_dim` and `num_labels` must be set.

    Raises:
        ValueError: when the configuration names no feature width.

    Example:
        >>> layer = BNDLDecisionLayer(BNDLConfig(feature_dim=64, num_labels=10))
        >>> layer(torch.rand(8, 64), labels=torch.zeros(8, dtype=torch.long)).logits.shape
        torch.Size([8, 10])
    """

    feature_scale: Tensor
    selection: Tensor | None
    projection: nn.Module
    score_concentration: nn.Module
    loading_concentration: nn.Linear | nn.Parameter

    def __init__(self, config: BNDLConfig) -> None:
        super().__init__()
        if config.feature_dim is None or config.num_factors is None:
            raise ValueError("feature_dim is missing from the configuration; set it to the width of the features.")
        self.config = config
        D, K, C = config.feature_dim, config.num_factors, config.num_labels
        P = config.num_projected or K  # values z = g(h) has, of which K are factors
        H = config.projection_dim or P  # hidden width of a projection of two layers
        self.register_buffer("feature_scale", torch.ones(D))
        self.register_buffer("selection", torch.arange(K) if config.num_projected else None)
        if config.projection == "linear":
            self.projection = nn.Linear(D, P)
        elif config.projection == "two_layer":
            self.projection = nn.Sequential(nn.Linear(D, H), nn.GELU(), nn.Linear(H, P))
        else:
            self.projection = nn.Identity()
        if config.score_concentration_input == "pre_activation":
            self.score_concentration = PerFactorAffine(K)
        else:
            inputs = D if config.score_concentration_input == "features" else P
            self.score_concentration = nn.Linear(inputs, 1 if config.score_concentration == "per_image" else K)
        self.raw_loadings = nn.Parameter(torch.empty(K, C))
        per_factor = config.loading_concentration == "per_factor"
        self.loading_concentration = nn.Linear(C, 1) if per_factor else nn.Parameter(torch.empty(K, C))
        self.raw_bias = None if config.bias == "none" else nn.Parameter(torch.empty(C))
        self._loadings_memo = LoadingsMemo()
        self.float()  # whatever the default dtype
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every parameter as the configuration's `loading_init` says, leaving loaded weights alone."""
        for module in self.modules():
            if isinstance(module, nn.Linear):  # torch's own: uniform within 1/sqrt(inputs)
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.weight, -bound, bound)
                init.uniform_(module.bias, -bound, bound)
            elif isinstance(module, PerFactorAffine):
                init.zeros_(module.weight)
                init.zeros_(module.bias)
        init.ones_(self.feature_scale)
        bound = 1 / math.sqrt(self.raw_loadings.shape[0])
        if self.config.loading_init == "linear":
            init.uniform_(self.raw_loadings, -bound, bound)
            if self.raw_bias is not None:
                init.uniform_(self.raw_bias, -bound, bound)
            if isinstance(self.loading_concentration, nn.Parameter):
                init.zeros_(self.loading_concentration)
            return
        init.uniform_(self.raw_loadings, self.config.loading_threshold, self.config.loading_threshold + bound)
        if self.raw_bias is not None:
            init.zeros_(self.raw_bias)
        for raw in (self.score_concentration, self.loading_concentration):  # the same k whatever the input
            if not isinstance(raw, nn.Parameter):
                init.zeros_(raw.weight)
            init.constant_(raw if isinstance(raw, nn.Parameter) else raw.bias, _INITIAL_RAW_CONCENTRATION)
        if isinstance(self.projection, nn.Linear):
            K, D = self.projection.weight.shape
            identity = torch.eye(D, device=self.raw_loadings.device).repeat(-(-K // D), 1)[:K]
            init.copy_(self.projection.weight, identity + 0.1 * self.projection.weight)
            init.constant_(self.projection.bias, self.config.score_threshold)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BNDLDecisionLayer:
        """Move between devices as any module, but stay float32 under `model.to(torch.bfloat16)` and the like."""

        def in_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            stays = moved.dtype == torch.float32 or not tensor.is_floating_point()
            return moved if stays else tensor.to(moved.device, torch.float32)

        return super()._apply(in_float32, recurse)

    # ---- posteriors ----

    def score_posterior(self, features: Tensor) -> WeibullPosterior:
        """q(theta | h) of Eqs. 8-9: means [B, K], concentrations [B, 1] or [B, K]."""
        features = features.float() * self.feature_scale
        every = self.projection(features) - self.config.score_threshold  # [B, D] -> [B, P]
        # [B, P] -> [B, K]; long() because transformers, loading in another dtype, makes all of this layer float32
        z = every if self.selection is None else every[:, self.selection.long()]
        sources = {"features": features, "score_mean": F.relu(every), "pre_activation": z}
        raw = self.score_concentration(sources[self.config.score_concentration_input])
        return WeibullPosterior(F.relu(z), self._concentration(raw))

    def loading_posterior(self) -> WeibullPosterior:
        """q(Phi) of Eqs. 10-11: means [K, C], concentrations [K, 1] or [K, C]."""
        mean = F.relu(self.raw_loadings - self.config.loading_threshold)
        raw = self.loading_concentration
        raw = raw if isinstance(raw, nn.Parameter) else raw(mean)  # [K, C] -> [K, 1]
        return WeibullPosterior(mean, self._concentration(raw))

    def _remembered_loadings(self) -> WeibullPosterior:
        """`loading_posterior`, with the moments of the last prediction where no parameter has changed since."""
        config, raw = self.config, getattr(self, "loading_concentration", None)
        # As attributes, which is how they are read: a reparametrisation or a pruning mask stands behind them.
        concentration = [raw.weight, raw.bias] if isinstance(raw, nn.Linear) else [] if raw is None else [raw]
        parameters = [self.raw_loadings, *concentration]
        constants = (config.loading_threshold, config.min_concentration, config.max_concentration)
        return self._loadings_memo.get(self.loading_posterior, parameters, constants)

    def _concentration(self, raw: Tensor) -> Tensor:
        """k = softplus(raw) + floor, below the ceiling; a NaN stays a NaN, so that it is seen."""
        k = F.softplus(raw) + self.config.min_concentration
        return k.clamp(_LOWEST_CONCENTRATION, self.config.max_concentration)

    @property
    def bias(self) -> Tensor:
        """b of Eq. 5, [C]: free, relu(b - c_phi) (released code), or zeros."""
        if self.raw_bias is None:
            return self.raw_loadings.new_zeros(self.raw_loadings.shape[1])
        shifted = self.raw_bias - self.config.loading_threshold
        return F.relu(shifted) if self.config.bias == "non_negative" else self.raw_bias

    # ---- training ----

    def forward(self, features: Tensor, labels: Tensor | None = None) -> BNDLImageClassifierOutput:
        """Logits of features [B, D] and, with labels [B], every term of the loss.

        Raises:
            ValueError: for features of another width, or labels outside 0 .. C-1.
        """
        with torch.autocast(device_type=features.device.type, enabled=False):
            self.check_inputs(features, labels)
            if self.training and self.config.feature_noise:
                spread = self.config.feature_noise / self.feature_scale  # of what is divided by it again
                features = features.float() + spread * torch.randn_like(features, dtype=torch.float32)
            scores, loadings, bias = self.score_posterior(features), self.loading_posterior(), self.bias
            sampled = self.training and self.config.objective == "sampled"
            # While sampling: one draw of theta per image and of Phi per batch (Sec. 3.4).
            theta, phi = (scores.sample(), loadings.sample()) if sampled else (scores.mean, loadings.mean)
            logits = theta @ phi + bias  # [B, K] @ [K, C] -> [B, C]
            kl_local, kl_global = self.kl_local(scores), self.kl_global(loadings)
            loss = nll = None
            if labels is not None:
                if sampled:
                    nll = F.cross_entropy(logits, labels)
                else:
                    # While training the label is the reference of the gaps and nothing is recalibrated; evaluation
                    # takes the top class and the fitted temperature, as `predict` does.
                    reference = labels if self.training else logits.argmax(dim=-1)
                    recalibration = () if self.training else self._recalibration
                    nll = F.nll_loss(exact_log_probs(scores, loadings, bias, reference, *recalibration), labels)
                loss = negative_elbo(nll, kl_local, kl_global, self.config)
            return BNDLImageClassifierOutput(loss, logits, nll, kl_local, kl_global, factor_scores=scores.mean)

    def kl_local(self, scores: WeibullPosterior) -> Tensor:
        """KL of the scores to their Gamma prior: sum over factors, mean over the images, nats (Eq. 12)."""
        config = self.config
        kl = scores.kl(config.score_prior_concentration, config.score_prior_rate, config.score_scale_floor)
        return kl.sum(dim=-1).mean()

    def kl_global(self, loadings: WeibullPosterior) -> Tensor:
        """KL of the loadings to their Gamma prior: sum over all entries, nats (Eq. 12)."""
        config = self.config
        kl = loadings.kl(config.loading_prior_concentration, config.loading_prior_rate, config.loading_scale_floor)
        return kl.sum()

    # ---- answers ----

    @property
    def _recalibration(self) -> tuple[float, float]:
        """T and v."""
        return self.config.temperature, self.config.variance_scale

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
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: a t-test needs 2 draws or more (the paper takes 20).")
        with torch.autocast(device_type=features.device.type, enabled=False):
            self.check_inputs(features, None)
            scores, bias = self.score_posterior(features), self.bias
            threshold, recalibration = self.config.certainty_threshold, self._recalibration
            if method == "exact":
                loadings = self._remembered_loadings()
                prediction = predict_exactly(scores, loadings, bias, num_samples, threshold, *recalibration)
            else:
                posteriors = scores, self.loading_posterior(), bias
                prediction = predict_by_sampling(*posteriors, num_samples, threshold, generator, *recalibration)
            return decide(prediction, self.config, abstain_below)

    @torch.no_grad()
    def explain(
        self,
        features: Tensor,
        target: Tensor | int | None = None,
        top_k: int | None = None,
        against: Tensor | int | str | None = None,
    ) -> Evidence:
        """The parts of a logit for features [B, D]; see `BNDLForImageClassification.explain`."""
        with torch.autocast(device_type=features.device.type, enabled=False):
            self.check_inputs(features, None)
            posteriors = self.score_posterior(features), self.loading_posterior(), self.bias
            return explain_logit(*posteriors, target, top_k, against)

    # ---- set-up and checks ----

    @torch.no_grad()
    def set_feature_scale(self, scale: Tensor) -> None:
        """Set the factor [D] every feature is multiplied by before anything else (`normalize_features`)."""
        self.feature_scale.copy_(scale)

    def check_inputs(self, features: Tensor, labels: Tensor | None) -> None:
        """Raise ValueError where features or labels do not fit this layer."""
        D = self.feature_scale.shape[0]
        if features.ndim != 2 or features.shape[1] != D:
            raise ValueError(f"features have shape {list(features.shape)}; this decision layer reads [B, {D}].")
        if labels is None or torch.compiler.is_compiling() or labels.is_meta:
            return
        C = self.raw_loadings.shape[1]
        if labels.numel() and not 0 <= labels.min() <= labels.max() < C:
            raise ValueError(
                f"labels run from {labels.min().item()} to {labels.max().item()}; this model knows 0 to {C - 1} "
                f"(num_labels={C}). Check the label column, or pass num_labels to fit the data."
            )
