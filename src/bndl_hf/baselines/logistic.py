"""Logistic regression with an L2 penalty, its strength by held-out likelihood: the convex rival (Cox 1958).

mean cross-entropy + strength / (2 N) |W|^2 on features of unit spread, bias free; scikit-learn's L-BFGS solves it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.baselines.heads import HEADS
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.uncertainty import negative_log_likelihood

# Strengths go from 10 D down by half a power of ten each; the path ends where held-out likelihood has become this much
# worse than its best, and at the last resort after this many.
_STEP = math.sqrt(10)
_RISE = 1.05
_MAX_STRENGTHS = 21


@dataclass(frozen=True)
class LogisticFit:
    """The chosen head.

    Attributes:
        layer: a dense decision layer of its weights, of features as they come.
        strength: lambda of the chosen one.
        is_at_end: no better strength was ruled out: the chosen one is the first or the last that was tried.
        weight, bias: of standardised features, [D, C] and [C], float64.
        mean, std: of the training features, [D], float64: what they were standardised with.
    """

    layer: DenseDecisionLayer
    strength: float
    is_at_end: bool
    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor


def logistic_regression(
    features: Tensor,
    labels: Tensor,
    eval_features: Tensor,
    eval_labels: Tensor,
    max_iterations: int = 500,
    tolerance: float = 1e-4,
) -> LogisticFit:
    """The L2 path from 10 D downwards, each fit started from the one before; the best on held-out rows.

    Args:
        features: h = f(x), [N, D].
        labels: [N], every class of 0 .. C - 1 at least once.
        eval_features, eval_labels: held-out rows, [M, D] and [M].
        max_iterations, tolerance: of scikit-learn's solver, for each strength; a solver that has not converged warns
            no more than once.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: a class has no row to learn from.

    Example:
        >>> features, labels = torch.rand(60, 4), torch.arange(60) % 3
        >>> logistic_regression(features, labels, features, labels).layer.predict(features).probs.shape
        torch.Size([60, 3])
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('Logistic regression needs scikit-learn; install "bndl-hf[baselines]".') from error
    D = features.shape[1]
    C = int(max(labels.max(), eval_labels.max())) + 1
    if missing := sorted(set(range(C)) - set(labels.tolist())):
        raise ValueError(f"No training row has class {', '.join(map(str, missing))}; every class of {C} needs one.")
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-8)
    standardised = ((features.double() - mean) / std).numpy()
    solver = LogisticRegression(warm_start=True, max_iter=max_iterations, tol=tolerance)
    tried: list[tuple[float, LogisticFit]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("once", ConvergenceWarning)
        for number in range(_MAX_STRENGTHS):
            strength = 10 * D / _STEP**number
            solver.C = 1 / strength
            solver.fit(standardised, labels.numpy())
            fit = _as_layer(torch.from_numpy(solver.coef_.T), torch.from_numpy(solver.intercept_), mean, std, strength)
            loss = negative_log_likelihood(fit.layer.predict(eval_features).probs, eval_labels)
            tried.append((loss, fit))
            if loss > _RISE * min(known for known, _ in tried):
                break
    best = min(range(len(tried)), key=lambda number: tried[number][0])
    chosen = tried[best][1]
    return LogisticFit(**{**vars(chosen), "is_at_end": best in (0, len(tried) - 1)})


def _as_layer(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor, strength: float) -> LogisticFit:
    """The head of weights [D, C] (of two classes scikit-learn has the second's alone) of standardised features."""
    if weight.shape[1] == 1:  # +- half keeps the penalty's meaning: it is symmetric in the classes
        weight, bias = (torch.cat([-one / 2, one / 2], dim=-1) for one in (weight, bias))
    weight, bias = weight.double().clone(), bias.double().clone()
    config = BNDLConfig(feature_dim=len(mean), num_labels=weight.shape[1], **HEADS["dense"].config)
    layer = DenseDecisionLayer(config)
    with torch.no_grad():
        layer.raw_loadings.copy_(weight / std[:, None])
        assert layer.raw_bias is not None
        layer.raw_bias.copy_(bias - (mean / std) @ weight)
    return LogisticFit(layer.eval(), strength, False, weight, bias, mean, std)
