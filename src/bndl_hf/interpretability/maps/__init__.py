"""Where in the image the parts of a decision lie: factor maps, Grad-CAM, LIME, and how far maps agree."""

from bndl_hf.interpretability.maps.agreement import MapAgreement, map_agreement
from bndl_hf.interpretability.maps.factor_maps import ClassMaps, FactorMaps, class_maps, factor_maps
from bndl_hf.interpretability.maps.faithfulness import (
    FaithfulnessCurves,
    class_probability,
    factor_score,
    faithfulness_curves,
)
from bndl_hf.interpretability.maps.gradcam import gradcam
from bndl_hf.interpretability.maps.lime import LimeExplanation, lime_factor

__all__ = [
    "ClassMaps",
    "FactorMaps",
    "FaithfulnessCurves",
    "LimeExplanation",
    "MapAgreement",
    "class_maps",
    "class_probability",
    "factor_maps",
    "factor_score",
    "faithfulness_curves",
    "gradcam",
    "lime_factor",
    "map_agreement",
]
