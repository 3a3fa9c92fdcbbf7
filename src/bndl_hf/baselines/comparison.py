"""A fair comparison of decision layers: the same frozen features, rows to choose on, other rows to report.

`FeatureTask` (feature_task.py) holds the rows, `train_head` trains one head on them, `judge_head` says everything about
it, the fitted temperature beside the plain figures, because a dense layer with a temperature is the rival to beat.
`train_and_judge` does both for any name of registry.py. The scripts `benchmarks/heads.py` and `benchmarks/frontier.py`
make the tables of docs/benchmarks.md of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from bndl_hf.baselines.classifiers import Classifier, PosteriorClassifier
from bndl_hf.baselines.feature_task import FeatureTask
from bndl_hf.baselines.heads import HEADS, make_head
from bndl_hf.baselines.registry import CLASSIFIERS, fit_classifier
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.presets import KL_LOCAL_BUDGET, PRESETS
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.arguments import HEAD_DEFAULTS
from bndl_hf.uncertainty import (
    fit_temperature,
    ood_auroc,
    ood_scores,
    summarize,
)

# Of all that is measured, what a comparison on all test rows keeps.
_OF_ALL_ROWS = (
    *("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage"),
    *("pavpu", "pavpu_20_draws"),
)


def train_head(
    name: str, task: FeatureTask, seed: int, config: dict[str, Any] | None = None, **training: Any
) -> PosteriorHead:
    """A head of `HEADS` trained with its own recipe.

    Args:
        name: a key of `HEADS`.
        task: its training rows are used.
        seed: of initialisation and order.
        config: fields of `BNDLConfig` over the head's own.
        **training: fields of `BNDLTrainingArguments` over the recipe's.
    """
    set_seed(seed)
    layer, recipe = make_head(name, task.train[0].shape[1], task.num_labels, **(config or {}))
    recipe = {**recipe, **training, "callbacks": HEADS[name].callbacks}
    return fit_decision_layer(*task.train, layer.config, layer=layer, seed=seed, **recipe)


def judge_head(
    layer: PosteriorHead, task: FeatureTask, method: str = "exact", seed: int = 0, choose: bool = False
) -> dict[str, Any]:
    """Everything about a trained head on the reporting rows (the choosing rows, with `choose`).

    Returns:
        The figures of `summarize`; `pavpu_20_draws`; `tempered`, accuracy and PAvPU aside, with the temperature fitted
        on the choosing rows; `ood`, AUROC by score and set; `sparsity` (a fraction) and `factors_per_class`;
        `predict_seconds`, median of five.
    """
    features, labels = task.choosing if choose else task.reporting

    def predict(features: Tensor, method: str = method) -> BNDLPrediction:
        return layer.predict(features, method, generator=torch.Generator().manual_seed(seed))

    prediction, seconds = _timed(lambda: predict(features))
    figures: dict[str, Any] = summarize(prediction.probs, labels, prediction.p_value)
    draws = predict(features, "monte_carlo")
    figures["pavpu_20_draws"] = summarize(prediction.probs, labels, draws.p_value)["pavpu"]
    scores = ood_scores(prediction)
    figures["ood"] = {score: {} for score in scores}
    for name, images in task.ood.items():
        for score, values in ood_scores(predict(images)).items():
            figures["ood"][score][name] = ood_auroc(scores[score], values)
    num_nonzero = layer.sparsity() * layer.raw_loadings.numel()
    figures |= {"sparsity": layer.sparsity(), "factors_per_class": num_nonzero / task.num_labels}
    figures["predict_seconds"] = seconds
    fitted = fit_temperature(predict(task.choosing[0]), task.choosing[1])
    layer.set_temperature(fitted)
    tempered = summarize(predict(features).probs, labels, prediction.p_value)
    layer.set_temperature(1.0)
    kept = {name: value for name, value in tempered.items() if name not in ("accuracy", "pavpu")}
    figures["tempered"] = {"temperature": fitted.temperature, **kept}
    return figures


def judge_classifier(classifier: Classifier, task: FeatureTask, choose: bool = False) -> dict[str, Any]:
    """What `judge_head` says, of a head of any kind.

    Returns:
        The same figures under the same names; of what is not a `PosteriorHead` without `pavpu_20_draws`, and without
        `pavpu` where it has no p-value.
    """
    if isinstance(classifier, PosteriorClassifier):
        return judge_head(classifier.layer, task, classifier.method, classifier.seed, choose)
    features, labels = task.choosing if choose else task.reporting
    probs, seconds = _timed(lambda: classifier.probs(features))
    figures: dict[str, Any] = _summary(probs, labels, classifier.p_value(features))
    scores = classifier.ood_scores(features)
    figures["ood"] = {score: {} for score in scores}
    for name, images in task.ood.items():
        for score, values in classifier.ood_scores(images).items():
            figures["ood"][score][name] = ood_auroc(scores[score], values)
    figures |= {"sparsity": classifier.density, "factors_per_class": classifier.weights_per_class}
    figures["predict_seconds"] = seconds
    temperature = classifier.fit_temperature(*task.choosing)
    tempered = _summary(classifier.probs(features), labels, None)
    classifier.temperature = 1.0
    figures["tempered"] = {"temperature": temperature, **{k: v for k, v in tempered.items() if k != "accuracy"}}
    return figures


def train_and_judge(
    name: str,
    task: FeatureTask,
    seed: int,
    config: dict[str, Any] | None = None,
    choose: bool = False,
    all_rows: bool = False,
    **training: Any,
) -> dict[str, Any]:
    """Any head of the registry trained and judged, with what the training took.

    Args:
        name: a key of `HEADS` or `CLASSIFIERS`.
        task: its training rows are used, the reporting rows judged (the choosing rows, with `choose`).
        seed: of initialisation and order.
        config: fields of `BNDLConfig` over the head's own.
        choose: judge on the choosing rows.
        all_rows: beside the figures of `judge_head`, under `all_rows`, those of choosing and reporting rows together,
            as comparisons elsewhere report them. A head that chose something has seen half of them.
        **training: fields of `BNDLTrainingArguments` over the recipe's.

    Raises:
        ValueError: `config` or `training` change a head of `CLASSIFIERS`, which has a training of its own.
    """
    joined = [torch.cat(parts) for parts in zip(task.choosing, task.reporting, strict=True)]
    whole = replace(task, reporting=(joined[0], joined[1]))
    if name in CLASSIFIERS:
        return _fit_and_judge(name, task, whole if all_rows else None, seed, config, choose, training)
    set_seed(seed)
    fresh, recipe = make_head(name, task.train[0].shape[1], task.num_labels, **(config or {}))
    dead = dead_loadings(fresh, task.train[0][:4096], task.train[1][:4096])
    started = time.perf_counter()
    layer = train_head(name, task, seed, config, **training)
    seconds = time.perf_counter() - started
    epochs = {**HEAD_DEFAULTS, **recipe, **training}["num_train_epochs"]
    figures = {
        **judge_head(layer, task, HEADS[name].predict, seed, choose),
        "kl_local_weight": layer.config.kl_local_weight,
        "dead_loadings_at_init": dead,
        "train_seconds": seconds,
        "train_images_per_second": len(task.train[1]) * epochs / seconds,
    }
    if all_rows:
        figures["all_rows"] = _of_all_rows(judge_head(layer, whole, HEADS[name].predict, seed))
    return figures


def _fit_and_judge(
    name: str,
    task: FeatureTask,
    whole: FeatureTask | None,
    seed: int,
    config: dict[str, Any] | None,
    choose: bool,
    training: dict[str, Any],
) -> dict[str, Any]:
    """`train_and_judge` of a head of `CLASSIFIERS`; `whole` has all rows to report, where they are asked for."""
    if changed := [*(config or {}), *(key for key in training if key != "disable_tqdm")]:
        raise ValueError(
            f"The head {name!r} has a training of its own, which {', '.join(changed)} would not reach; leave "
            f"{'it' if len(changed) == 1 else 'them'} out, or compare heads of: {', '.join(HEADS)}."
        )
    set_seed(seed)
    started = time.perf_counter()
    classifier = fit_classifier(name, task, seed)
    seconds = time.perf_counter() - started

    figures = {**judge_classifier(classifier, task, choose), "train_seconds": seconds}
    if whole is not None:
        figures["all_rows"] = _of_all_rows(judge_classifier(classifier, whole))
    return figures


def _of_all_rows(figures: dict[str, Any]) -> dict[str, Any]:
    kept = {name: figures[name] for name in _OF_ALL_ROWS if name in figures}
    return {**kept, "ood": {score: figures["ood"][score] for score in ("max_probability", "entropy")}}


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` gives and the seconds it takes, median of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - started)
    return found, statistics.median(seconds)


def _summary(probs: Tensor, labels: Tensor, p_value: Tensor | None) -> dict[str, float]:
    """`summarize`, without PAvPU where there is no p-value."""
    figures = summarize(probs, labels, probs.new_zeros(len(probs)) if p_value is None else p_value)
    return {name: value for name, value in figures.items() if name != "pavpu" or p_value is not None}


def dead_loadings(layer: PosteriorHead, features: Tensor, labels: Tensor) -> float:
    """Share of loadings that get no gradient from the likelihood of some images, a fraction in [0, 1]."""
    layer.train()
    (gradient,) = torch.autograd.grad(layer(features, labels).nll, layer.raw_loadings)
    return (gradient == 0).float().mean().item()


def current_defaults() -> dict[str, object]:
    """What a result of the default head depends on beside its command: finished runs of other defaults are not kept."""
    return {**PRESETS["default"], **HEAD_DEFAULTS, "kl_local_budget": KL_LOCAL_BUDGET}
