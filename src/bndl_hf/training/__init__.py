"""Training: the Trainer that knows the ELBO's terms, data, cached features and head-only fitting."""

from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.data import DataArguments, collate, load_image_dataset
from bndl_hf.training.features import FeatureDataset, fit_decision_layer
from bndl_hf.training.trainer import BNDLTrainer

__all__ = [
    "BNDLTrainer",
    "BNDLTrainingArguments",
    "DataArguments",
    "FeatureDataset",
    "collate",
    "fit_decision_layer",
    "load_image_dataset",
]
