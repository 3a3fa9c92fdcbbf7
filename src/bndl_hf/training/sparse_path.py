"""From a decision layer to sparse ones that answer like it: few factors, few loadings a class, one path of pruning.

A sparse layer of the backbone's own features loses much where few weights are left (docs/interpretability.md has the
figures), one of learned factors little. What those factors are is learned from the layer that was tuned, not from the
labels: its probabilities say of every image how alike the classes are (distillation: Hinton et al. 2015,
arXiv:1503.02531), and as it answers for any features, rows between training rows teach too (mixup: Zhang et al. 2018,
arXiv:1710.09412), so that few images do not run out. Loadings are pruned along a cubic (Zhu and Gupta 2017,
arXiv:1710.01878) by what they contribute: loading times spread of its score. Read density.py next: it chooses a step.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer, PerFactorAffine

Teacher = Callable[[Tensor], Tensor]  # features [B, D] to probabilities [B, C]

# Optimizer steps until the densest step of the path is reached, and from each step to the next.
FIRST_STEPS, NEXT_STEPS = 1000, 300
# Share of those steps within which loadings are pruned; in the others what is left learns to do without.
_PRUNING_ENDS = 0.6
_STEPS_BETWEEN_PRUNINGS = 5
_BATCH_SIZE = 256
# Adam moves every entry alike, so a score of D entries moves sqrt(D) as far: the rate of the projection follows.
_PROJECTION_RATE, _LOADING_RATE = 0.04, 1e-2
_WARMUP_STEPS = 20
# Rows are moved at most this far towards another row; so many of them are made, and the teacher asked once for each.
_MIXING, _MIXED_ROWS = 0.5, 32_768
# Precisions of Gaussian priors, of N images: of the projection around its start, and of the loadings around zero.
_PROJECTION_PRECISION, LOADING_PRECISION = 0.1, 1.0
_RIDGE = 1e-2
_ROWS_AT_ONCE = 4096
# Where factors are shared, no loading is more than this many times the second of its factor. A factor of a single class
# would be that class's own logit, and "a bass, because it is a bass" is short but no reason.
MOST_OVER_SECOND = 2.0


@dataclass(frozen=True)
class SparseFactors:
    """A point on the path: logits = relu((h * scale - mean) @ projection + offset) @ loadings + bias.

    Attributes:
        mean, scale: [D], of the features.
        projection: [D, K].
        offset: [K].
        loadings: [K, C], >= 0; the smallest of every row is zero, as softmax does not see what all classes share.
        bias: [C].
    """

    mean: Tensor
    scale: Tensor
    projection: Tensor
    offset: Tensor
    loadings: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, K], >= 0."""
        return F.relu((features * self.scale - self.mean) @ self.projection + self.offset)

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return self.scores(features) @ self.loadings + self.bias


@torch.no_grad()
def sparse_path(
    teacher: Teacher,
    features: Tensor,
    num_factors: int,
    weights_per_class: Sequence[int],
    seed: int = 0,
    shared: bool = False,
    first_steps: int = FIRST_STEPS,
    next_steps: int = NEXT_STEPS,
) -> Iterator[SparseFactors]:
    """Sparser and sparser layers that answer like `teacher`, each learned from the one before.

    Args:
        teacher: features [B, D] to probabilities [B, C].
        features: [N, D], float32; no labels are needed.
        num_factors: K.
        weights_per_class: how many loadings above zero every class may have, in falling order.
        seed: of the start, of the rows drawn and of how they are mixed.
        shared: every factor speaks for two classes or more: no loading of it is above twice the second.
        first_steps, next_steps: optimizer steps until the densest layer, and from each to the next.

    Yields:
        A point for each of `weights_per_class`.

    Raises:
        ValueError: `weights_per_class` does not fall, or falls below one.
    """
    falls = all(a > b for a, b in itertools.pairwise(weights_per_class))
    if not falls or min(weights_per_class, default=1) < 1:
        raise ValueError(f"weights_per_class={list(weights_per_class)} must fall, to no less than 1.")
    spread = features.std(0, correction=0)
    typical = spread.mean().clamp_min(1e-12)
    scale = 1 / (spread.clamp_min(1e-2 * typical) * typical).sqrt()
    mean = features.mean(0) * scale
    generator = torch.Generator().manual_seed(seed)
    student = _Student(features, mean, scale, teacher, num_factors, shared, generator)
    steps = first_steps
    for most in weights_per_class:
        student.learn(most, steps)
        steps = next_steps
        loadings = student.loadings * student.is_kept
        yield SparseFactors(
            mean,
            scale,
            student.projection.detach().clone(),
            student.offset.detach().clone(),
            (loadings - loadings.amin(dim=1, keepdim=True)).detach(),
            student.bias.detach().clone(),
        )


class _Student:
    """What learns along the path."""

    def __init__(
        self,
        features: Tensor,
        mean: Tensor,
        scale: Tensor,
        teacher: Teacher,
        num_factors: int,
        shared: bool,
        generator: torch.Generator,
    ) -> None:
        self._generator = generator
        self._shared = shared
        self._x = x = features * scale - mean
        logits = torch.cat([teacher(rows) for rows in features.split(_ROWS_AT_ONCE)]).clamp_min(1e-12).log()
        logits = logits - logits.mean(dim=1, keepdim=True)  # [N, C]
        self._pairs = torch.randint(len(x), (2, _MIXED_ROWS), generator=generator)
        self._shares = _MIXING * torch.rand(_MIXED_ROWS, generator=generator).to(x)
        mixed = (
            torch.lerp(features[first], features[second], share[:, None])
            for first, second, share in zip(
                *(t.split(_ROWS_AT_ONCE) for t in (*self._pairs, self._shares)), strict=True
            )
        )
        self._answers = torch.cat([teacher(rows) for rows in mixed])  # [_MIXED_ROWS, C]
        weight = _ridge(x, logits - logits.mean(0))  # [D, C]: the teacher, nearly
        # A factor begins as a mixture of classes, for some and against others, at unit spread: classes share it.
        mixture = torch.randn(logits.shape[1], num_factors, generator=generator).to(x)
        start = weight @ mixture
        self._start = start / (x @ start).std(0).clamp_min(1e-6)
        scores = F.relu(x @ self._start)
        loadings = _ridge(scores - scores.mean(0), logits - logits.mean(0))
        loadings = loadings - loadings.amin(dim=1, keepdim=True)
        self.projection = nn.Parameter(self._start.clone())
        self.offset = nn.Parameter(x.new_zeros(num_factors))
        self.loadings = nn.Parameter(loadings)
        self.bias = nn.Parameter(logits.mean(0) - scores.mean(0) @ loadings)
        self.is_kept = torch.ones_like(loadings, dtype=torch.bool)

    @torch.enable_grad()
    def learn(self, most: int, steps: int) -> None:
        """Prune to `most` loadings a class within a share of `steps`, and learn in all of them."""
        D = len(self.projection)
        N, before = len(self._x), int(self.is_kept.sum(0).max())
        rates = [
            {"params": [self.projection], "lr": _PROJECTION_RATE / math.sqrt(D)},
            {"params": [self.offset, self.loadings, self.bias], "lr": _LOADING_RATE},
        ]
        optimizer = torch.optim.Adam(rates, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: min(1, (i + 1) / _WARMUP_STEPS) * (1 + math.cos(math.pi * i / steps)) / 2
        )
        last = int(_PRUNING_ENDS * steps)
        for step in range(steps):
            drawn = torch.randint(_MIXED_ROWS, (_BATCH_SIZE,), generator=self._generator)
            scores = F.relu(self._mixed(drawn) @ self.projection + self.offset)
            loadings = self.loadings * self.is_kept
            loss = F.cross_entropy(scores @ loadings + self.bias, self._answers[drawn])
            loss = loss + _PROJECTION_PRECISION / (2 * N) * (self.projection - self._start).square().sum()
            loss = loss + LOADING_PRECISION / (2 * N) * loadings.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                self.loadings.clamp_(min=0)
                self._share()
                if step <= last and (step % _STEPS_BETWEEN_PRUNINGS == 0 or step == last):
                    left = most + (before - most) * (1 - step / last) ** 3
                    self._prune(math.ceil(left) if step < last else most, scores.std(0))

    def _prune(self, most: int, spread: Tensor) -> None:
        """Keep for every class the `most` loadings that contribute most."""
        if most < len(self.loadings):
            contribution = self.loadings * self.is_kept * spread[:, None]
            kept = contribution.topk(most, dim=0).indices
            self.is_kept = torch.zeros_like(self.is_kept).scatter_(0, kept, True)

    def _share(self) -> None:
        """No loading exceeds MOST_OVER_SECOND times the second of its factor; of two classes it may stand alone."""
        if self._shared and self.loadings.shape[1] > 2:
            second = (self.loadings * self.is_kept).topk(2, dim=1).values[:, 1:]
            self.loadings.copy_(torch.minimum(self.loadings, MOST_OVER_SECOND * second))

    def _mixed(self, drawn: Tensor) -> Tensor:
        """Some of the rows between two training rows, scaled and centred, [B, D]."""
        pair, share = self._pairs[:, drawn], self._shares[drawn, None]
        return torch.lerp(self._x[pair[0]], self._x[pair[1]], share)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Least squares [D, C] of y [N, C] on x [N, D], both centred, a little of the mean variance added."""
    gram = x.T @ x
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, x.T @ y)


@torch.no_grad()
def layer_of(config: BNDLConfig, factors: SparseFactors) -> BNDLDecisionLayer:
    """The decision layer of a point on the path, its scores and loadings as good as certain, in evaluation mode.

    Args:
        config: of the layer wanted; the copy the layer keeps has the number of factors and the density of `factors`.
        factors: K of them.

    Raises:
        ValueError: the configuration makes scores or loadings in another way than the path does.
    """
    wanted = {"projection": "linear", "bias": "free", "score_concentration": "per_factor"}
    wanted |= {"score_concentration_input": "pre_activation", "loading_concentration": "per_entry"}
    others = [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]
    if others:
        needed = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
        raise ValueError(f"A sparse layer is not made with {', '.join(others)}; leave them out: it takes {needed}.")
    config = copy.deepcopy(config)
    K = len(factors.loadings)
    config.num_factors, config.feature_power = K, 1.0  # the path reads features as they come
    config.loading_density = max((factors.loadings > 0).double().mean().item(), 1 / K)
    layer = BNDLDecisionLayer(config)
    scale = factors.scale if config.normalize_features else torch.ones_like(factors.scale)
    layer.set_feature_scale(scale)
    projection, raw_concentration = layer.projection, layer.score_concentration
    assert isinstance(projection, nn.Linear)
    assert isinstance(raw_concentration, PerFactorAffine)
    assert isinstance(layer.loading_concentration, nn.Parameter)
    assert layer.raw_bias is not None
    projection.weight.copy_(factors.projection.T * (factors.scale / scale))
    projection.bias.copy_(factors.offset - factors.mean @ factors.projection + config.score_threshold)
    layer.raw_loadings.copy_(factors.loadings + config.loading_threshold)
    layer.zero_loadings(factors.loadings == 0)
    layer.raw_bias.copy_(factors.bias)
    certain = config.max_concentration - config.min_concentration  # softplus of a large number is that number
    raw_concentration.weight.zero_()
    raw_concentration.bias.fill_(certain)
    layer.loading_concentration.fill_(certain)
    return layer.eval()
