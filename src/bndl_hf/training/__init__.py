"""Training: the Trainer that knows the ELBO's terms, cached features and head-only fitting."""

from bndl_hf.training.arguments import HEAD_DEFAULTS, BNDLTrainingArguments
from bndl_hf.training.deciding import decide, judge_verdicts
from bndl_hf.training.feature_views import FeatureViews
from bndl_hf.training.features import FeatureDataset
from bndl_hf.training.fitting import fit_decision_layer
from bndl_hf.training.recalibrating import recalibrate
from bndl_hf.training.trainer import BNDLTrainer
from bndl_hf.training.warm_posterior import FittedPosterior, fit_posterior
from bndl_hf.training.whole_training import WHOLE_TRAINING, suit_whole_training

__all__ = [
    "HEAD_DEFAULTS",
    "WHOLE_TRAINING",
    "BNDLTrainer",
    "BNDLTrainingArguments",
    "FeatureDataset",
    "FeatureViews",
    "FittedPosterior",
    "decide",
    "fit_decision_layer",
    "fit_posterior",
    "judge_verdicts",
    "recalibrate",
    "suit_whole_training",
]
