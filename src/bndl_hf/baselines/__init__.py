"""Decision layers BNDL is compared with, behind the same interface, and the comparison itself."""

from bndl_hf.baselines.classifiers import Classifier, ClassifierRecipe, LogProbsClassifier, PosteriorClassifier
from bndl_hf.baselines.comparison import current_defaults, judge_classifier, judge_head, train_and_judge, train_head
from bndl_hf.baselines.elastic_net import elastic_net_at, elastic_net_path
from bndl_hf.baselines.feature_task import FeatureTask
from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer, Head, make_head
from bndl_hf.baselines.laplace import LaplaceClassifier
from bndl_hf.baselines.logistic import LogisticFit, logistic_regression
from bndl_hf.baselines.registry import CLASSIFIERS, about_head, fit_classifier, head_names, is_random
from bndl_hf.baselines.variational_last_layer import VariationalLastLayer

__all__ = [
    "CLASSIFIERS",
    "HEADS",
    "Classifier",
    "ClassifierRecipe",
    "DenseDecisionLayer",
    "FeatureTask",
    "Head",
    "LaplaceClassifier",
    "LogProbsClassifier",
    "LogisticFit",
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
