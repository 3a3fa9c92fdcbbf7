"""Products with the moments of the loadings: what exact prediction spends its time on, and what pruning makes cheap.

After pruning nine loadings in ten are exactly zero, and so are their variances. On a CPU a prediction then multiplies
with the others alone, and takes log Gamma of the others alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
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
        return loadings.moments if isinstance(loadings, KnownLoadings) else cls._made_of(loadings)

    @classmethod
    def _made_of(cls, loadings: WeibullPosterior) -> LoadingMoments:
        if _may_be_sparse(loadings.mean):
            transposed = loadings.mean.T.contiguous()  # [C, K], in whose order CSR has its entries
            is_nonzero = transposed != 0
            if int(is_nonzero.sum()) < _SPARSE_BELOW * is_nonzero.numel():
                return cls._in_rows(transposed, is_nonzero, loadings.concentration)
        return cls(loadings.mean, loadings.variance, loadings.mean.square() + loadings.variance)

    @classmethod
    def _in_rows(cls, transposed: Tensor, is_nonzero: Tensor, concentration: Tensor) -> LoadingMoments:
        C, K = transposed.shape
        entries = is_nonzero.view(-1).nonzero().squeeze(-1)
        columns = entries.remainder(K)
        starts = F.pad(is_nonzero.sum(dim=1).cumsum(0), (1, 0))
        mean = transposed.view(-1)[entries]
        variance = mean.square() * relative_variance(concentration.expand(K, C).T.reshape(-1)[entries])

        def in_rows(values: Tensor) -> Tensor:
            return torch.sparse_csr_tensor(starts, columns, values, transposed.shape, check_invariants=False)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return cls(in_rows(mean), in_rows(variance), in_rows(mean.square() + variance))


class KnownLoadings(WeibullPosterior):
    """A posterior of the loadings whose moments are made once."""

    @cached_property
    def moments(self) -> LoadingMoments:
        """Its moments."""
        return LoadingMoments._made_of(self)


class LoadingsMemo:
    """Keeps sparse loadings and their moments from one prediction to the next, as long as they are the same.

    Before every use the parameters are compared, number by number, with a copy of those the moments were made of: no
    write goes unnoticed, not even one to `.data`, and it takes a tenth of the time the moments do. The price is memory
    for that copy and for the posterior made of it. Copies and pickles of a memo are empty.
    """

    def __init__(self) -> None:
        self._known: tuple[list[Tensor], tuple[float, ...], KnownLoadings] | None = None

    def __reduce__(self) -> tuple[type[LoadingsMemo], tuple[()]]:
        return LoadingsMemo, ()

    def get(
        self, make: Callable[[], WeibullPosterior], parameters: Sequence[Tensor], constants: tuple[float, ...]
    ) -> WeibullPosterior:
        """What `make` makes of these parameters and constants, made anew only where one of them has changed."""
        known = self._known  # another thread may take it away meanwhile
        if known is not None and _may_be_sparse(parameters[0]):
            copies, known_constants, loadings = known
            if constants == known_constants and all(map(_same, parameters, copies)):
                return loadings
        self._known = None
        made = make()
        if _may_be_sparse(parameters[0]):
            loadings = KnownLoadings(made.mean, made.concentration)
            if loadings.moments.mean.layout is torch.sparse_csr:
                self._known = [one.detach().clone() for one in parameters], constants, loadings
            return loadings
        return made


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)


def times(x: Tensor, moment: Tensor) -> Tensor:
    """x [B, K] times a moment of the loadings [K, C], dense or sparse: [B, C]."""
    return x @ moment if moment.layout is torch.strided else (moment @ x.T).T.contiguous()


def _may_be_sparse(mean: Tensor) -> bool:
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    on_cpu = mean.device.type == "cpu" and mean.dtype == torch.float32
    return on_cpu and not recorded and torch.backends.mkl.is_available()
