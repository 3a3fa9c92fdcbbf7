"""Why a decision: where its parts lie in the image (Sec. 5.2 and App. A.1 of the paper).

`factor_maps` and `class_maps` are exact where features are an average over positions, `gradcam` and `lime_factor`
approximate any backbone. `import bndl_hf` does not import this package.
"""

from .factor_maps import ClassMaps, FactorMaps, class_maps, factor_maps
from .gradcam import gradcam
from .lime import LimeExplanation, lime_factor

__all__ = ["ClassMaps", "FactorMaps", "LimeExplanation", "class_maps", "factor_maps", "gradcam", "lime_factor"]
