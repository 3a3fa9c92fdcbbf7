"""The Bayesian non-negative decision layer: posteriors of factor scores and loadings, and their priors.

Eqs. 3-5 are the model (logits = scores @ loadings + bias), Eqs. 8-9 the local network that reads an image's features,
Eqs. 10-11 the global posterior of the loadings. Works alone on features [B, D] and, inside the model, on whatever the
backbone hands it. Read posterior_head.py for what it makes of the two posteriors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_bndl import BNDLConfig
from .posterior_head import PosteriorHead
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


class BNDLDecisionLayer(PosteriorHead):
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

    selection: Tensor | None
    projection: nn.Module
    score_concentration: PerFactorAffine | nn.Linear
    loading_concentration: nn.Linear | nn.Parameter

    def __init__(self, config: BNDLConfig) -> None:
        super().__init__(config, config.num_factors)
        D, (K, C) = config.feature_dim, self.raw_loadings.shape
        P = config.num_projected or K  # values z = g(h) has, of which K are factors
        H = config.projection_dim or P  # hidden width of a projection of two layers
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
        per_factor = config.loading_concentration == "per_factor"
        self.loading_concentration = nn.Linear(C, 1) if per_factor else nn.Parameter(torch.empty(K, C))
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
        if self.familiarity is not None:
            self.familiarity.reset_parameters()
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

    def posterior_of_inputs(self, inputs: Tensor) -> WeibullPosterior:
        """q(theta | h) of Eqs. 8-9: means [B, K], concentrations [B, 1] or [B, K]."""
        every = self.projection(inputs) - self.config.score_threshold  # [B, D] -> [B, P]
        # [B, P] -> [B, K]; long() because transformers, loading in another dtype, makes all of this layer float32
        z = every if self.selection is None else every[:, self.selection.long()]
        sources = {"features": inputs, "score_mean": F.relu(every), "pre_activation": z}
        raw = self.score_concentration(sources[self.config.score_concentration_input])
        return WeibullPosterior(F.relu(z), self._concentration(raw))

    def loading_posterior(self) -> WeibullPosterior:
        """q(Phi) of Eqs. 10-11: means [K, C], concentrations [K, 1] or [K, C]."""
        mean = (self.raw_loadings - self.config.loading_threshold).relu_()
        raw = self.loading_concentration
        raw = raw if isinstance(raw, Tensor) else raw(mean)  # [K, C] -> [K, 1]
        return WeibullPosterior(mean, self._concentration(raw))

    def _concentration(self, raw: Tensor) -> Tensor:
        """k = softplus(raw) + floor, below the ceiling; a NaN stays a NaN, so that it is seen."""
        k = F.softplus(raw).add_(self.config.min_concentration)
        # hardtanh is clamp with a gradient of one pass instead of four
        return F.hardtanh(k, _LOWEST_CONCENTRATION, self.config.max_concentration)

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
