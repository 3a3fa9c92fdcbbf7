"""Any Hub image classifier, now able to say "I'm not sure" and "here is why".

Importing this package registers `BNDLConfig`, `BNDLModel` and `BNDLForImageClassification` with transformers' Auto
classes, so that checkpoints load with no `trust_remote_code`, and the ResNet for small images of `bndl_hf.backbones`.
"""

from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from bndl_hf.backbones import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel
from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.evidence import Evidence
from bndl_hf.model.modeling_bndl import BNDLForImageClassification, BNDLModel
from bndl_hf.model.predictive import BNDLPrediction

if TYPE_CHECKING:
    from bndl_hf.data.image_dataset import load_image_dataset
    from bndl_hf.training.arguments import BNDLTrainingArguments
    from bndl_hf.training.fitting import fit_decision_layer
    from bndl_hf.training.trainer import BNDLTrainer

AutoConfig.register("bndl", BNDLConfig)
AutoModel.register(BNDLConfig, BNDLModel)
AutoModelForImageClassification.register(BNDLConfig, BNDLForImageClassification)
AutoConfig.register("cifar_resnet", CifarResNetConfig)
AutoModel.register(CifarResNetConfig, CifarResNetModel)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)

__version__ = "0.1.0"

_LAZY = {
    "BNDLTrainer": "bndl_hf.training.trainer",
    "BNDLTrainingArguments": "bndl_hf.training.arguments",
    "fit_decision_layer": "bndl_hf.training.fitting",
    "load_image_dataset": "bndl_hf.data.image_dataset",
}

__all__ = [
    "BNDLConfig",
    "BNDLDecisionLayer",
    "BNDLForImageClassification",
    "BNDLModel",
    "BNDLPrediction",
    "BNDLTrainer",
    "BNDLTrainingArguments",
    "Evidence",
    "fit_decision_layer",
    "load_image_dataset",
]


def __getattr__(name: str) -> object:
    """Import the Trainer and the reading of images only when asked for: slow to import, not needed to load a model."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
