"""Products with the moments of the loadings: what exact prediction spends its time on, and what pruning makes cheap.

After pruning nine loadings in ten are exactly zero, and so are their variances. On a CPU a prediction then multiplies
with the others alone, and makes the moments of the others alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .weibull import WeibullPosterior

# Below this share of non-zero loadings a sparse product is the faster one (measured: equal at about 0.4).
_SPARSE_BELOW = 0.25


@dataclass(frozen=True)
class LoadingMoments:
    """E[Phi], Var[Phi] and E[Phi^2], each [K, C]; or, of sparse loadings, the transpose [C, K] in rows (CSR).

    Attributes:
        entries: posterior of all entries [K, C]; of the sparse ones' alone, [nnz].
        rows: of sparse loadings where each class's entries start [C + 1], their factors [nnz], and K.
    """

    entries: WeibullPosterior
    rows: tuple[Tensor, Tensor, int] | None = None

    @classmethod
    def of(cls, loadings: WeibullPosterior) -> LoadingMoments:
        """The moments of a posterior over [K, C], in the form that is faster to multiply with."""
        if _may_be_sparse(loadings.mean):
            transposed = loadings.mean.T.contiguous()  # [C, K], in whose order CSR has its entries
            is_nonzero = transposed != 0
            if int(is_nonzero.sum()) < _SPARSE_BELOW * is_nonzero.numel():
                C, K = transposed.shape
                places = is_nonzero.view(-1).nonzero().squeeze(-1)
                concentration = loadings.concentration.expand(K, C).T.reshape(-1)[places]
                starts = F.pad(is_nonzero.sum(dim=1).cumsum(0), (1, 0))
                entries = WeibullPosterior(transposed.view(-1)[places], concentration)
                return cls(entries, (starts, places.remainder(K), K))
        return cls(loadings)

    @cached_property
    def mean(self) -> Tensor:
        """E[Phi]."""
        return self._laid_out(self.entries.mean)

    @cached_property
    def variance(self) -> Tensor:
        """Var[Phi]."""
        return self._laid_out(self.entries.variance)

    @cached_property
    def second(self) -> Tensor:
        """E[Phi^2]."""
        return self._laid_out(self.entries.mean.square() + self.entries.variance)

    def _laid_out(self, values: Tensor) -> Tensor:
        if self.rows is None:
            return values
        starts, factors, K = self.rows
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            shape = (len(starts) - 1, K)
            return torch.sparse_csr_tensor(starts, factors, values, shape, check_invariants=False)


def times(x: Tensor, moment: Tensor) -> Tensor:
    """x [B, K] times a moment of the loadings [K, C], dense or sparse: [B, C]."""
    return x @ moment if moment.layout is torch.strided else (moment @ x.T).T.contiguous()


def _may_be_sparse(mean: Tensor) -> bool:
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    on_cpu = mean.device.type == "cpu" and mean.dtype == torch.float32
    return on_cpu and not recorded and torch.backends.mkl.is_available()
