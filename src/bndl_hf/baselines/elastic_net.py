"""The sparse linear head of Debuggable Networks: an elastic-net path, what the paper's sparsity is compared with.

The objective is glm_saga's (Wong et al. 2021, arXiv:2105.04857), cross-entropy + strength (l1_ratio |W|_1 +
(1 - l1_ratio)/2 |W|_2^2) on standardised features; scikit-learn's SAGA solves it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer
from bndl_hf.model.configuration_bndl import BNDLConfig

# From nothing but the bias to half of the weights on CIFAR-10 features.
STRENGTHS = (0.3, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0001, 0.00003, 0.00001)


def elastic_net_path(
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    l1_ratio: float = 0.99,
    max_iterations: int = 200,
    tolerance: float = 1e-3,
) -> Iterator[tuple[float, DenseDecisionLayer]]:
    """Heads from the sparsest to the densest, each started from the one before.

    Args:
        features: h = f(x), [N, D].
        labels: [N], in 0 .. C - 1.
        strengths: lambda > 0, in falling order.
        l1_ratio: 0.99: glm_saga's value.
        max_iterations, tolerance: of scikit-learn's solver, for each strength; a solver that has not converged warns
            no more than once a path.

    Yields:
        (strength, a dense decision layer of these weights), ready to predict.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('The elastic-net path needs scikit-learn; install "bndl-hf[baselines]".') from error
    N, D = features.shape
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-8)
    standardised = ((features.double() - mean) / std).numpy()
    # scikit-learn 1.8 takes the kind of penalty from l1_ratio; 1.7, the last for Python 3.10, has to be told.
    kind = {"penalty": "elasticnet"} if LogisticRegression().penalty == "l2" else {}
    solver = LogisticRegression(
        **kind,
        solver="saga",
        l1_ratio=l1_ratio,
        warm_start=True,
        max_iter=max_iterations,
        tol=tolerance,
        random_state=0,
    )
    for strength in strengths:
        solver.C = 1 / (strength * N)
        with warnings.catch_warnings():
            warnings.simplefilter("once", ConvergenceWarning)
            solver.fit(standardised, labels.numpy())
        config = BNDLConfig(feature_dim=D, num_labels=len(solver.classes_), **HEADS["dense"].config)
        layer = DenseDecisionLayer(config)
        weight, bias = torch.from_numpy(solver.coef_.T), torch.from_numpy(solver.intercept_)
        if weight.shape[1] == 1:  # of two classes scikit-learn has the second's alone
            weight, bias = (torch.cat([torch.zeros_like(one), one], dim=-1) for one in (weight, bias))
        weight = weight / std[:, None]  # [D, C], of features as they come
        with torch.no_grad():
            layer.raw_loadings.copy_(weight)
            layer.bias.copy_(bias - mean @ weight)
        yield strength, layer.eval()
