"""Decision layers BNDL is compared with, behind the same interface, and the comparison itself."""

from bndl_hf.baselines.card import CardClassifier, CardPrediction, CardSettings
from bndl_hf.baselines.classifiers import Classifier, LogProbsClassifier, PosteriorClassifier
from bndl_hf.baselines.comparison import FeatureTask, current_defaults, judge_head, train_and_judge, train_head
from bndl_hf.baselines.elastic_net import elastic_net_path
from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer, Head, make_head
from bndl_hf.baselines.laplace import LaplaceClassifier
from bndl_hf.baselines.laplace_torch import LaplaceTorchClassifier
from bndl_hf.baselines.logistic import LogisticFit, logistic_regression
from bndl_hf.baselines.variational_last_layer import VariationalLastLayer

__all__ = [
    "HEADS",
    "CardClassifier",
    "CardPrediction",
    "CardSettings",
    "Classifier",
    "DenseDecisionLayer",
    "FeatureTask",
    "Head",
    "LaplaceClassifier",
    "LaplaceTorchClassifier",
    "LogProbsClassifier",
    "LogisticFit",
    "PosteriorClassifier",
    "VariationalLastLayer",
    "current_defaults",
    "elastic_net_path",
    "judge_head",
    "logistic_regression",
    "make_head",
    "train_and_judge",
    "train_head",
]
