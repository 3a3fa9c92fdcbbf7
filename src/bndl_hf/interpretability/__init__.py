"""Why a decision: what it consists of, where its parts lie in the image, what the factors mean, how far to trust that.

`factor_maps` and `class_maps` are exact where features are an average over positions, `gradcam` and `lime_factor`
approximate any backbone (Sec. 5.2 and App. A.1 of the paper). `import bndl_hf` does not import this package.
"""

from bndl_hf.interpretability.examples import ChosenExample, choose_examples
from bndl_hf.interpretability.explanation_length import ExplanationLength, explanation_length
from bndl_hf.interpretability.gallery import FactorCard, FactorGallery, factor_gallery
from bndl_hf.interpretability.identifiability import (
    IdentifiabilityCheck,
    IdentifiabilityReport,
    identifiability_report,
)
from bndl_hf.interpretability.maps import (
    ClassMaps,
    FactorMaps,
    FaithfulnessCurves,
    LimeExplanation,
    MapAgreement,
    class_maps,
    class_probability,
    factor_maps,
    factor_score,
    faithfulness_curves,
    gradcam,
    lime_factor,
    map_agreement,
)
from bndl_hf.interpretability.pictures import denormalized_images
from bndl_hf.interpretability.pruning import prune
from bndl_hf.interpretability.purity import FactorPurity, FactorPurityCheck, factor_purity
from bndl_hf.interpretability.sepin import SepinResult, sepin_at_k
from bndl_hf.interpretability.sparsity import SparsityReport, SparsitySweep, sparsity_report, sparsity_sweep
from bndl_hf.interpretability.thumbnails import (
    FactorThumbnails,
    collect_factor_thumbnails,
    load_factor_thumbnails,
)
from bndl_hf.model.factor_names import factor_names

__all__ = [
    "ChosenExample",
    "ClassMaps",
    "ExplanationLength",
    "FactorCard",
    "FactorGallery",
    "FactorMaps",
    "FactorPurity",
    "FactorPurityCheck",
    "FactorThumbnails",
    "FaithfulnessCurves",
    "IdentifiabilityCheck",
    "IdentifiabilityReport",
    "LimeExplanation",
    "MapAgreement",
    "SepinResult",
    "SparsityReport",
    "SparsitySweep",
    "choose_examples",
    "class_maps",
    "class_probability",
    "collect_factor_thumbnails",
    "denormalized_images",
    "explanation_length",
    "factor_gallery",
    "factor_maps",
    "factor_names",
    "factor_purity",
    "factor_score",
    "faithfulness_curves",
    "gradcam",
    "identifiability_report",
    "lime_factor",
    "load_factor_thumbnails",
    "map_agreement",
    "prune",
    "sepin_at_k",
    "sparsity_report",
    "sparsity_sweep",
]
