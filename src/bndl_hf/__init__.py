"""Any Hub image classifier, now able to say "I'm not sure" and "here is why".

Importing this package registers `BNDLConfig`, `BNDLModel` and `BNDLForImageClassification` with transformers' Auto
classes, so that checkpoints load with no `trust_remote_code`.
"""

from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.modeling_bndl import BNDLForImageClassification, BNDLModel

if TYPE_CHECKING:
    from bndl_hf.training.arguments import BNDLTrainingArguments
    from bndl_hf.training.trainer import BNDLTrainer

AutoConfig.register("bndl", BNDLConfig)
AutoModel.register(BNDLConfig, BNDLModel)
AutoModelForImageClassification.register(BNDLConfig, BNDLForImageClassification)

__version__ = "0.1.0"

_LAZY = {"BNDLTrainer": "bndl_hf.training.trainer", "BNDLTrainingArguments": "bndl_hf.training.arguments"}

__all__ = ["BNDLConfig", "BNDLForImageClassification", "BNDLModel", "BNDLTrainer", "BNDLTrainingArguments"]


def __getattr__(name: str) -> object:
    """Import the Trainer only when it is asked for: it is slow to import and not needed to load a model."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
