"""A fair comparison of decision layers: the same frozen features, rows to choose on, other rows to report.

`FeatureTask` holds the rows, `train_head` trains one head on them, `judge_head` says everything about it, the fitted
temperature beside the plain figures, because a dense layer with a temperature is the rival to beat. The scripts
`benchmarks/heads.py` and `benchmarks/frontier.py` make the tables of docs/benchmarks.md of them.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import set_seed

from bndl_hf.baselines.heads import HEADS, make_head
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

Rows = tuple[Tensor, Tensor]  # features [n, D] and labels [n]


@dataclass(frozen=True)
class FeatureTask:
    """Frozen features, split.

    Attributes:
        train: rows to train on.
        choosing: rows on which settings and temperatures are chosen.
        reporting: rows on which nothing was chosen.
        ood: features of out-of-distribution sets, by name.
    """

    train: Rows
    choosing: Rows
    reporting: Rows
    ood: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """C, the number of classes."""
        return int(self.train[1].max()) + 1

    @classmethod
    def read(cls, path: str | os.PathLike[str], hold_out: int = 0, report_from: int | None = None) -> FeatureTask:
        """The task in a features file, in float32.

        Args:
            path: a file as `scripts/benchmarks/heads.py features` makes it: train.features [N, D], train.labels [N],
                test.features, test.labels, NAME.features of out-of-distribution sets.
            hold_out: this many rows of train, drawn with a fixed seed, are for choosing, and all of test is reported:
                for a backbone that has not seen the training images. 0 chooses on test rows drawn with a fixed seed
                (files may be in the order of their classes), for one that has memorised the training images.
            report_from: without `hold_out` how many test rows are for choosing; the others are reported. None is half.

        Raises:
            ValueError: there is no such file, a tensor is missing, or a split is empty.
        """
        if not Path(path).is_file():
            raise ValueError(f"{path} does not exist; make it with: python scripts/benchmarks/heads.py features --help")
        tensors = load_file(path)
        needed = ("train.features", "train.labels", "test.features", "test.labels")
        if missing := [name for name in needed if name not in tensors]:
            raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(tensors))}.")
        tensors = {name: t.long() if name.endswith("labels") else t.float() for name, t in tensors.items()}
        return cls.split(tensors, hold_out, report_from)

    @classmethod
    def digits(cls) -> FeatureTask:
        """Scikit-learn's digits as 64 raw pixels, noise as OOD images: a comparison that runs anywhere in seconds."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        test, train = order[:600], order[600:]
        return cls.split(
            {
                "train.features": pixels[train],
                "train.labels": labels[train],
                "test.features": pixels[test],
                "test.labels": labels[test],
                "noise.features": torch.rand(600, 64, generator=torch.Generator().manual_seed(1)),
            }
        )

    @classmethod
    def split(cls, tensors: dict[str, Tensor], hold_out: int = 0, report_from: int | None = None) -> FeatureTask:
        """The task of tensors named as in a features file; see `read`."""
        train, test = ((tensors[f"{part}.features"], tensors[f"{part}.labels"]) for part in ("train", "test"))
        if hold_out and report_from is not None:
            raise ValueError(f"hold_out={hold_out} reports all of test, so report_from={report_from} has no place.")
        if hold_out:
            order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))
            taken = f"hold_out={hold_out} leaves none of {len(train[1])} training rows"
            train, choosing, reporting = _rows(train, order[hold_out:]), _rows(train, order[:hold_out]), test
        else:
            first = len(test[1]) // 2 if report_from is None else report_from
            taken = f"report_from={first} leaves none of {len(test[1])} test rows"
            rows = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(0))
            choosing, reporting = _rows(test, rows[:first]), _rows(test, rows[first:].sort().values)
        parts = {"training": train, "choosing": choosing, "reporting": reporting}
        if empty := [name for name, (_, labels) in parts.items() if not len(labels)]:
            raise ValueError(f"{taken}. No rows are left for {' and '.join(empty)}; change hold_out or report_from.")
        names = [name.removesuffix(".features") for name in sorted(tensors) if name.endswith(".features")]
        ood = {name: tensors[f"{name}.features"] for name in names if name not in ("train", "test")}
        return cls(train, choosing, reporting, ood)


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

    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        prediction = predict(features)
        seconds.append(time.perf_counter() - started)
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
    figures["predict_seconds"] = statistics.median(seconds)
    fitted = fit_temperature(predict(task.choosing[0]), task.choosing[1])
    layer.set_temperature(fitted)
    tempered = summarize(predict(features).probs, labels, prediction.p_value)
    layer.set_temperature(1.0)
    kept = {name: value for name, value in tempered.items() if name not in ("accuracy", "pavpu")}
    figures["tempered"] = {"temperature": fitted.temperature, **kept}
    return figures


def train_and_judge(
    name: str,
    task: FeatureTask,
    seed: int,
    config: dict[str, Any] | None = None,
    choose: bool = False,
    **training: Any,
) -> dict[str, Any]:
    """`train_head` and `judge_head`, with what the training took."""
    set_seed(seed)
    fresh, recipe = make_head(name, task.train[0].shape[1], task.num_labels, **(config or {}))
    dead = dead_loadings(fresh, task.train[0][:4096], task.train[1][:4096])
    started = time.perf_counter()
    layer = train_head(name, task, seed, config, **training)
    seconds = time.perf_counter() - started
    epochs = {**HEAD_DEFAULTS, **recipe, **training}["num_train_epochs"]
    return {
        **judge_head(layer, task, HEADS[name].predict, seed, choose),
        "kl_local_weight": layer.config.kl_local_weight,
        "dead_loadings_at_init": dead,
        "train_seconds": seconds,
        "train_images_per_second": len(task.train[1]) * epochs / seconds,
    }


def dead_loadings(layer: PosteriorHead, features: Tensor, labels: Tensor) -> float:
    """Share of loadings that get no gradient from the likelihood of some images, a fraction in [0, 1]."""
    layer.train()
    (gradient,) = torch.autograd.grad(layer(features, labels).nll, layer.raw_loadings)
    return (gradient == 0).float().mean().item()


def current_defaults() -> dict[str, object]:
    """What a result of the default head depends on beside its command: finished runs of other defaults are not kept."""
    return {**PRESETS["default"], **HEAD_DEFAULTS, "kl_local_budget": KL_LOCAL_BUDGET}


def _rows(part: Rows, index: Tensor) -> Rows:
    return part[0][index], part[1][index]
