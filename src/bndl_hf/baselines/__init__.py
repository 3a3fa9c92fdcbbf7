"""Decision layers BNDL is compared with, behind the same interface, and the comparison itself."""

from bndl_hf.baselines.comparison import FeatureTask, current_defaults, judge_head, train_and_judge, train_head
from bndl_hf.baselines.elastic_net import elastic_net_path
from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer, Head, make_head

__all__ = [
    "HEADS",
    "DenseDecisionLayer",
    "FeatureTask",
    "Head",
    "current_defaults",
    "elastic_net_path",
    "judge_head",
    "make_head",
    "train_and_judge",
    "train_head",
]
