"""Looking inside: which factors a decision layer has, what each of them means, and how far that can be trusted."""

from bndl_hf.interpretability.pruning import prune
from bndl_hf.interpretability.sparsity import SparsityReport, SparsitySweep, sparsity_report, sparsity_sweep

__all__ = [
    "SparsityReport",
    "SparsitySweep",
    "prune",
    "sparsity_report",
    "sparsity_sweep",
]
