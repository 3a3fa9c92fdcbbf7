"""`fit_decision_layer`: train a decision layer alone, on features that are known already."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import HEAD_DEFAULTS, MIN_STEPS, BNDLTrainingArguments
from bndl_hf.training.candidates import Candidate
from bndl_hf.training.density import check_density, default_config, sparse_layer, wanted_density
from bndl_hf.training.features import FeatureDataset
from bndl_hf.training.layer_training import enough_epochs, learning_rate_of, train_layer
from bndl_hf.training.logistic_regression import Split
from bndl_hf.training.trained_layer import Training
from bndl_hf.training.trainer import BNDLTrainer
from bndl_hf.training.tuning import tune_decision_layer
from bndl_hf.training.tuning_report import TuningReport


def fit_decision_layer(
    features: Tensor,
    labels: Tensor,
    config: BNDLConfig,
    *,
    layer: PosteriorHead | None = None,
    tune: bool = False,
    density: float | str | None = None,
    eval_features: Tensor | None = None,
    eval_labels: Tensor | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **training_arguments: Any,
) -> PosteriorHead:
    """Train a decision layer on features that do not change.

    Args:
        features: h = f(x), [N, D], any float dtype.
        labels: [N], in 0 .. C - 1.
        config: `feature_dim` must be D.
        layer: continue with this layer (one that was warm-started, say); default: a new one.
        tune: compare the layer that training makes, the non-negative equivalent of L2 logistic regression and both as
            one layer on held-out rows, keep one of them and give it the temperature of those rows (tuning.py). The rows
            are `eval_features`, or folds of the training rows. The log says what was tried. With the preset
            "interpretable" the better one is then made sparse (density.py): at most 20 weights a class.
        density: with `tune`, how sparse the layer is made: a share of the loadings, in (0, 1], or "auto", as sparse as
            the held-out likelihood allows within one standard error.
        eval_features, eval_labels: held-out rows to judge on while training, or to tune on.
        callbacks: of the Trainer.
        **training_arguments: fields of `BNDLTrainingArguments`; the defaults here are those of HEAD_DEFAULTS.

    Returns:
        The layer, in evaluation mode, on the CPU.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, NaN features, or thresholds that leave no factor;
            for `tune` with a `layer` to continue with, or with too few images to hold any out; for a `density` without
            `tune`, or one that there is not.

    Example:
        >>> config = BNDLConfig(feature_dim=64, num_labels=10)
        >>> layer = fit_decision_layer(torch.rand(512, 64), torch.arange(512) % 10, config, disable_tqdm=True)
        >>> layer.predict(torch.rand(3, 64)).probs.shape
        torch.Size([3, 10])
    """
    train_dataset = FeatureDataset(features, labels)
    held_out = None
    if (eval_features is None) != (eval_labels is None):
        raise ValueError("eval_features and eval_labels belong together; pass both or neither.")
    if eval_features is not None and eval_labels is not None:
        held_out = FeatureDataset(eval_features, eval_labels)
    if density is not None:
        check_density(density)
        if not tune:
            raise ValueError(
                f"density={density!r} is for tune=True; training alone takes it from the configuration: pass "
                "BNDLConfig(..., loading_density=...)."
            )
    if tune:
        if layer is not None:
            raise ValueError("tune=True makes layers of its own, so `layer` would be ignored; pass one of them.")
        config = copy.deepcopy(config)
        config.factor_names = None  # of factors that are no longer there
        check = BNDLDecisionLayer(config)
        for dataset in (train_dataset, held_out):
            if dataset is not None:
                check.check_inputs(dataset.features, dataset.labels)

        density = wanted_density(config) if density is None else density
        # A layer of few factors has a dense one to learn from.
        dense = config if config.preset != "interpretable" else default_config(config)

        def train(features: Tensor, labels: Tensor, config: BNDLConfig, epochs: float) -> PosteriorHead:
            is_sought = config.feature_noise > 0
            rate = {"decision_layer_learning_rate": learning_rate_of(len(labels))} if is_sought else {}
            arguments = {"num_train_epochs": epochs, **rate, **training_arguments}
            return _train(FeatureDataset(features, labels), config, None, None, callbacks, arguments)

        def make_sparse(layer: PosteriorHead, best: Candidate, splits: Sequence[Split]) -> PosteriorHead:
            assert density is not None
            return sparse_layer(layer, best.fit, splits, train_dataset.features.float(), config, density, seed)

        rows = None if held_out is None else (held_out.features, held_out.labels)
        seed = int(training_arguments.get("seed", BNDLTrainingArguments.seed))
        then, report = None if density is None else make_sparse, TuningReport()
        tuned = tune_decision_layer(
            *(train_dataset.features, train_dataset.labels, dense, _training(train, training_arguments), rows, seed),
            report=report,
            then=then,
        )
        if not report.is_memorised or density is None:
            return tuned
        if not isinstance(density, str):
            config = copy.deepcopy(config)
            config.loading_density = density
    return _train(train_dataset, config, layer, held_out, callbacks, training_arguments)


def _training(
    fit: Callable[[Tensor, Tensor, BNDLConfig, float], PosteriorHead], training_arguments: dict[str, Any]
) -> Training:
    """Few images get more epochs, where none were asked for: held-out rows say whether so many did good."""
    values = {**HEAD_DEFAULTS, **training_arguments}
    epochs, batch_size = values["num_train_epochs"], values["per_device_train_batch_size"]
    is_asked_for = bool(training_arguments.keys() & {"num_train_epochs", "max_steps"})

    def num_epochs(num_images: int, min_steps: int) -> float:
        return epochs if is_asked_for else enough_epochs(num_images, batch_size, epochs, min_steps)

    min_steps = training_arguments.get("tune_min_steps", MIN_STEPS)
    return Training(fit, num_epochs, 0 if is_asked_for else min_steps)


def _train(
    train_dataset: FeatureDataset,
    config: BNDLConfig,
    layer: PosteriorHead | None,
    eval_dataset: FeatureDataset | None,
    callbacks: Sequence[TrainerCallback],
    training_arguments: dict[str, Any],
) -> PosteriorHead:
    with tempfile.TemporaryDirectory() as scratch:
        evaluates = {} if eval_dataset is None else {"eval_strategy": "epoch"}
        values = {"output_dir": scratch, "save_strategy": "no", **HEAD_DEFAULTS, **evaluates, **training_arguments}
        arguments = BNDLTrainingArguments(**values)
        return train_layer(BNDLTrainer, arguments, config, train_dataset, eval_dataset, layer, callbacks)
