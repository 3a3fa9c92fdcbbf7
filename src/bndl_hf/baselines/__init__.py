"""Decision layers BNDL is compared with, behind the same interface, and the comparison itself."""

from bndl_hf.baselines.belief_matching import BeliefMatchingDecisionLayer
from bndl_hf.baselines.card import CardClassifier, CardPrediction, CardSettings
from bndl_hf.baselines.classifiers import Classifier, ClassifierRecipe, LogProbsClassifier, PosteriorClassifier
from bndl_hf.baselines.comparison import current_defaults, judge_classifier, judge_head, train_and_judge, train_head
from bndl_hf.baselines.dropout import MCDropoutDecisionLayer
from bndl_hf.baselines.elastic_net import elastic_net_at, elastic_net_path
from bndl_hf.baselines.ensemble import EnsembleDecisionLayer
from bndl_hf.baselines.feature_task import FeatureTask
from bndl_hf.baselines.heads import HEADS, Head, make_head
from bndl_hf.baselines.laplace import LaplaceClassifier
from bndl_hf.baselines.laplace_torch import LaplaceTorchClassifier
from bndl_hf.baselines.logistic import LogisticFit, logistic_regression
from bndl_hf.baselines.nmf import NMFDecisionLayer
from bndl_hf.baselines.nmf_gelu import NMFGELUDecisionLayer
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.baselines.registry import CLASSIFIERS, about_head, fit_classifier, head_names, is_random
from bndl_hf.baselines.variational_last_layer import VariationalLastLayer

__all__ = [
    "CLASSIFIERS",
    "HEADS",
    "BeliefMatchingDecisionLayer",
    "CardClassifier",
    "CardPrediction",
    "CardSettings",
    "Classifier",
    "ClassifierRecipe",
    "DenseDecisionLayer",
    "EnsembleDecisionLayer",
    "FeatureTask",
    "Head",
    "LaplaceClassifier",
    "LaplaceTorchClassifier",
    "LogProbsClassifier",
    "LogisticFit",
    "MCDropoutDecisionLayer",
    "NMFDecisionLayer",
    "NMFGELUDecisionLayer",
    "PosteriorClassifier",
    "VariationalLastLayer",
    "about_head",
    "current_defaults",
    "elastic_net_at",
    "elastic_net_path",
    "fit_classifier",
    "head_names",
    "is_random",
    "judge_classifier",
    "judge_head",
    "logistic_regression",
    "make_head",
    "train_and_judge",
    "train_head",
]
