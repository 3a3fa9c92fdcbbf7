"""Multinomial logistic regression with an L2 penalty on frozen features: the convex rival, and a place to start from.

Its optimum is unique and found in seconds, and a non-negative decision layer can be its exact equivalent
(model/warm_start.py). What about it comes from the data, convex_layer.py says: the strength of the penalty, and the
scale of the features under it, which is how much of the backbone's own scale the prior believes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bndl_hf.model.posterior_head import signed_power

# Strengths of the penalty in multiples of D, strongest first, each a third of the one before.
STRENGTHS = tuple(10.0 * 10 ** (-i / 2) for i in range(13))
# The path of strengths ends once the held-out likelihood is this much worse than its best.
_PATH_ENDS = 1.05
# Rows that powers of the spread are compared on; a strength for the one chosen is then sought on all rows.
MAX_ROWS_TO_COMPARE = 10_000
_MAX_ITERATIONS = 200


@dataclass(frozen=True)
class LogisticRegression:
    """Weights of a fitted regression on features to a power, otherwise as they come.

    Attributes:
        weight: [D, C], of unscaled powers of features.
        bias: [C].
        scale: [D], what features were multiplied by while fitting.
        precision: of the Gaussian prior of every weight of *scaled* features (the penalty is precision / 2 times the
            sum of their squares, against the summed log-likelihood).
        feature_power: p of sign(h) |h|^p.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    precision: float
    feature_power: float = 1.0

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return signed_power(features, self.feature_power) @ self.weight + self.bias


@dataclass(frozen=True)
class Split:
    """Rows to fit on and rows to choose on.

    Attributes:
        features, labels: [n, D] and [n], to fit on.
        held_features, held_labels: [m, D] and [m], to choose on.
    """

    features: Tensor
    labels: Tensor
    held_features: Tensor
    held_labels: Tensor


def fit_logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_labels: int,
    precision: float,
    power: float = 1.0,
    start: LogisticRegression | None = None,
    feature_power: float = 1.0,
) -> LogisticRegression:
    """The optimum of sum_n log p(y_n | h_n) - precision / 2 |W|^2, by L-BFGS from `start` or from zero.

    Args:
        features: [N, D], float32.
        labels: [N], in 0 .. C - 1.
        num_labels: C.
        precision: > 0, of the prior of the weights of scaled features; the bias has none.
        power: features are divided by spread^power times mean spread^(1 - power): 1 gives each of them unit spread, 0
            leaves their scales alone, -1 squares them. The mean feature has about unit spread whatever the power.
        start: an optimum at another strength.
        feature_power: p of sign(h) |h|^p, which everything above is about.

    Returns:
        Weights for features to that power, otherwise as they come.
    """
    N, D = features.shape
    features = signed_power(features, feature_power)
    mean, spread = features.mean(0), features.std(0, correction=0)
    typical = spread.mean().clamp_min(1e-12)
    scale = 1 / (spread.clamp_min(1e-2 * typical).pow(power) * typical.pow(1 - power))
    x = (features - mean) * scale  # centred: the bias then has little to do with the weights, and L-BFGS few steps
    weight, bias = x.new_zeros(D, num_labels), x.new_zeros(num_labels)
    if start is not None:
        weight, bias = start.weight / scale[:, None], start.bias + mean @ start.weight
    weight.requires_grad_()
    bias.requires_grad_()
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
    )

    def objective() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + precision / (2 * N) * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(objective)
    weight = weight.detach() * scale[:, None]
    return LogisticRegression(weight, bias.detach() - mean @ weight, scale, precision, feature_power)


def folds(features: Tensor, labels: Tensor, count: int, seed: int) -> list[Split]:
    """`count` splits of all rows, each row held out once; classes are spread evenly over the folds.

    Args:
        features: [N, D].
        labels: [N].
        count: of folds, >= 2.
        seed: of the order within each class.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # class by class, at random within it
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % count
    parts = [(fold != i, fold == i) for i in range(count)]
    return [Split(features[fit], labels[fit], features[held], labels[held]) for fit, held in parts]


def choose_strength(
    splits: Sequence[Split], num_labels: int, power: float, multiples: Iterable[float] = STRENGTHS
) -> tuple[float, float, Tensor]:
    """Strength of the penalty by held-out likelihood, along a path from strong to weak.

    Returns:
        (multiple of D, negative log-likelihood a held-out row in nats, held-out logits [M, C] of all splits).
    """
    best: tuple[float, float, Tensor] | None = None
    fitted: list[LogisticRegression | None] = [None] * len(splits)
    labels = torch.cat([split.held_labels for split in splits])
    for multiple in multiples:
        D = splits[0].features.shape[1]
        for i, split in enumerate(splits):
            fitted[i] = fit_logistic_regression(
                split.features, split.labels, num_labels, multiple * D, power, fitted[i]
            )
        logits = torch.cat([f.logits(s.held_features) for f, s in zip(fitted, splits, strict=True) if f is not None])
        loss = F.cross_entropy(logits.double(), labels).item()
        if best is None or loss < best[1]:
            best = (multiple, loss, logits)
        elif loss > _PATH_ENDS * best[1]:
            break
    assert best is not None
    return best
