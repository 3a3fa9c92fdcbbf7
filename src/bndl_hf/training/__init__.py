"""Training: the Trainer that knows the ELBO's terms, cached features and head-only fitting."""

from bndl_hf.training.arguments import HEAD_DEFAULTS, BNDLTrainingArguments
from bndl_hf.training.feature_views import FeatureViews
from bndl_hf.training.features import FeatureDataset
from bndl_hf.training.fitting import fit_decision_layer
from bndl_hf.training.recalibrating import recalibrate
from bndl_hf.training.trainer import BNDLTrainer
from bndl_hf.training.warm_posterior import FittedPosterior, fit_posterior

__all__ = [
    "HEAD_DEFAULTS",
    "BNDLTrainer",
    "BNDLTrainingArguments",
    "FeatureDataset",
    "FeatureViews",
    "FittedPosterior",
    "fit_decision_layer",
    "fit_posterior",
    "recalibrate",
]
