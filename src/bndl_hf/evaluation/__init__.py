"""Judging a model: images in, measures, tables and figures out."""

from bndl_hf.evaluation.judging import Evaluation, evaluate_classifier
from bndl_hf.evaluation.predictions import ImagePredictions, PredictionSettings, predict_dataset
from bndl_hf.evaluation.verdict_results import judge_answers

__all__ = [
    "Evaluation",
    "ImagePredictions",
    "PredictionSettings",
    "evaluate_classifier",
    "judge_answers",
    "predict_dataset",
]
