"""Products with the moments of the loadings: what exact prediction spends its time on, and what pruning makes cheap.

After pruning nine loadings in ten are exactly zero, and so are their variances. On a CPU a prediction then multiplies
with the others alone, and takes log Gamma of the others alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .weibull import WeibullPosterior, relative_variance

# Below this share of non-zero loadings a sparse product is the faster one (measured: equal at about 0.4).
_SPARSE_BELOW = 0.25


@dataclass(frozen=True)
class LoadingMoments:
    """E[Phi], Var[Phi] and E[Phi^2], each [K, C]; or, of sparse loadings, the transpose [C, K] in rows (CSR)."""

    mean: Tensor
    variance: Tensor
    second: Tensor

    @classmethod
    def of(cls, loadings: WeibullPosterior) -> LoadingMoments:
        """The moments of a posterior over [K, C], in the form that is faster to multiply with."""
        if _is_worth_it(loadings):
            return _sparse(loadings)
        return cls(loadings.mean, loadings.variance, loadings.mean.square() + loadings.variance)


def times(x: Tensor, moment: Tensor) -> Tensor:
    """x [B, K] times a moment of the loadings [K, C], dense or sparse: [B, C]."""
    return x @ moment if moment.layout is torch.strided else (moment @ x.T).T.contiguous()


def _is_worth_it(loadings: WeibullPosterior) -> bool:
    mean = loadings.mean
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if recorded or mean.device.type != "cpu" or mean.dtype != torch.float32 or not torch.backends.mkl.is_available():
        return False
    return int(mean.count_nonzero()) < _SPARSE_BELOW * mean.numel()


def _sparse(loadings: WeibullPosterior) -> LoadingMoments:
    C = loadings.mean.shape[1]
    transposed = loadings.mean.T.contiguous()  # [C, K], in whose order the entries are
    rows, columns = transposed.nonzero(as_tuple=True)
    mean = transposed[rows, columns]
    variance = mean.square() * relative_variance(loadings.concentration.expand_as(loadings.mean).T[rows, columns])
    starts = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=C).cumsum(0)])

    def in_rows(values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(starts, columns, values, transposed.shape, check_invariants=False)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return LoadingMoments(in_rows(mean), in_rows(variance), in_rows(mean.square() + variance))
