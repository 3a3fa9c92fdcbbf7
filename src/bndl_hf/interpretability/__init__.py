"""Looking inside: which factors a decision layer has, what each of them means, and how far that can be trusted."""

from bndl_hf.interpretability.agreement import MapAgreement, map_agreement
from bndl_hf.interpretability.faithfulness import (
    FaithfulnessCurves,
    class_probability,
    factor_score,
    faithfulness_curves,
)
from bndl_hf.interpretability.identifiability import (
    IdentifiabilityCheck,
    IdentifiabilityReport,
    identifiability_report,
)
from bndl_hf.interpretability.pruning import prune
from bndl_hf.interpretability.purity import FactorPurity, FactorPurityCheck, factor_purity
from bndl_hf.interpretability.sepin import SepinResult, sepin_at_k
from bndl_hf.interpretability.sparsity import SparsityReport, SparsitySweep, sparsity_report, sparsity_sweep

__all__ = [
    "FactorPurity",
    "FactorPurityCheck",
    "FaithfulnessCurves",
    "IdentifiabilityCheck",
    "IdentifiabilityReport",
    "MapAgreement",
    "SepinResult",
    "SparsityReport",
    "SparsitySweep",
    "class_probability",
    "factor_purity",
    "factor_score",
    "faithfulness_curves",
    "identifiability_report",
    "map_agreement",
    "prune",
    "sepin_at_k",
    "sparsity_report",
    "sparsity_sweep",
]
