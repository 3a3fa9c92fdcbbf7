r"""SEPIN@k of several heads' factors, for several settings of the estimator: Tables 2 and 3 of the paper.

    python scripts/benchmarks/sepin.py --features FILE --model_name_or_path BACKBONE --dataset_name DATA \
        --output docs/results/sepin_cifar10.json

Every head and seed is trained on FILE (heads.py features, of the same BACKBONE). SEPIN@k is then of its factors on two
random views of test images: once as they are (`scores`), once each times the length of its row of loadings, which is
how much of it reaches the logits (`weighted`). The paper says neither temperature, nor batch size, nor critic: only
figures of one --estimators setting compare.

A head that reads the backbone's features as they are has the backbone's SEPIN, whatever it was trained for.
--thresholds shows what a threshold alone does, with no head at all: relu(h - c), c such that these shares of the
entries become zero.
Views are kept in --views, finished runs in --output.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bndl_hf.baselines import HEADS, train_head
from bndl_hf.interpretability import sepin_at_k
from bndl_hf.uncertainty import accuracy
from bndl_hf.utils.command_line import run
from bndl_hf.utils.files import written_whole
from common import finish_runs, flat, json_object, mean_over_seeds, parse, table
from factors import KS, ViewsArguments, random_views

BACKBONE = "features"  # no head: what a head that reads them as they are would get


@dataclass(kw_only=True)
class SepinArguments(ViewsArguments):
    """Which heads, seen through which estimators."""

    heads: list[str] = field(
        default_factory=lambda: ["dense", "belief_matching", "nmf", "bndl"],
        metadata={"help": f"Decision layers, of: {', '.join(HEADS)}."},
    )
    num_images: int = field(default=5000, metadata={"help": "Test images with two views."})
    estimators: list[str] = field(
        default_factory=lambda: ["0.1/256", "0.5/256", "0.1/64"],
        metadata={"help": "Settings of the estimator, each as TEMPERATURE/BATCH."},
    )
    thresholds: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 0.9],
        metadata={"help": "Shares of the backbone's features that a threshold sets to zero, without any head."},
    )
    views: str | None = field(
        default=None, metadata={"help": "File of the views (.safetensors): read if it is there, else written."}
    )
    output: str = field(default="outputs/bench/sepin.json", metadata={"help": "JSON file, rewritten after a run."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in self.estimators:
            read_estimator(setting)
        if outside := [share for share in self.thresholds if not 0 <= share < 1]:
            raise ValueError(
                f"--thresholds {outside[0]} is not a share of the entries, 0 or more and below 1; 0.9, say."
            )


def read_estimator(setting: str) -> tuple[float, int]:
    """Temperature and batch size of "0.1/256".

    Raises:
        ValueError: it is no such pair, or out of range.
    """
    temperature, _, batch = setting.partition("/")
    try:
        found = float(temperature), int(batch)
    except ValueError:
        found = 0.0, 0
    if not (found[0] > 0 and found[1] >= 2):
        raise ValueError(
            f"--estimators {setting!r} is not TEMPERATURE/BATCH, a number above zero and 2 images or more; write "
            "0.1/256, say."
        )
    return found


def read_views(arguments: SepinArguments) -> tuple[Tensor, Tensor]:
    """The two views, [N, D] each: of --views, or made and kept there.

    Raises:
        ValueError: --views holds views of another model, augmentation or number of images.
    """
    if arguments.views is None:
        return random_views(arguments)
    made_with, path = json.dumps(arguments.views_settings()), Path(arguments.views)
    if not path.is_file():
        a, b = random_views(arguments)
        with written_whole(path) as partial:
            save_file({"a": a.contiguous(), "b": b.contiguous()}, partial, {"made_with": made_with})
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get("made_with")
        if found != made_with:
            raise ValueError(f"--views {path} holds views made with {found}, not {made_with}; name another file.")
        return file.get_tensor("a"), file.get_tensor("b")


def sepin_of(a: Tensor, b: Tensor, arguments: SepinArguments) -> dict[str, dict[str, float]]:
    """SEPIN@k of two views [N, K] for every k that fits and all, and NT-Xent of all factors, by estimator; nats."""
    found, K = {}, a.shape[1]
    for setting in arguments.estimators:
        temperature, batch = read_estimator(setting)
        one = sepin_at_k(a, b, 1, temperature, batch, progress=not arguments.quiet)
        found[setting] = {f"@{k}": one.at(k) for k in KS if k <= K} | {"@all": one.at(K), "nt_xent": one.loss}
    return found


def compare(arguments: SepinArguments) -> list[dict[str, Any]]:
    """Every head and seed, and the backbone's features at every threshold."""
    task, config = arguments.task(), json_object(arguments.config, "--config")
    settings = {
        **arguments.settings(task),
        "views": arguments.views_settings(),
        "estimators": arguments.estimators,
        "config": config,
    }
    views = functools.cache(lambda: read_views(arguments))

    @torch.no_grad()
    def one_run(head: str, seed: int, threshold: float | None = None) -> dict[str, Any]:
        if threshold is not None:
            a, b = views()
            if threshold:
                values = task.train[0].flatten().sort().values
                a, b = ((view - values[int(threshold * len(values))]).clamp_min(0) for view in (a, b))
            return {"used_factors": a.shape[1], "zero_scores": share_of_zeros(a), "scores": sepin_of(a, b, arguments)}
        with torch.enable_grad():
            layer = train_head(head, task, seed, config, **arguments.training())
        features, labels = task.reporting
        loadings = layer.factor_loadings
        is_used = (loadings != 0).any(dim=1)  # the others reach no logit
        a, b = (layer.score_posterior(view).mean[:, is_used] for view in views())
        lengths = loadings[is_used].norm(dim=1)
        return {
            "accuracy": accuracy(layer.predict(features).probs, labels),
            "sparsity": layer.sparsity(),
            "used_factors": int(is_used.sum()),
            "zero_scores": share_of_zeros(a),
            "scores": sepin_of(a, b, arguments),
            "weighted": sepin_of(a * lengths, b * lengths, arguments),
        }

    thresholds = [{"head": BACKBONE, "seed": 0, "threshold": share} for share in arguments.thresholds]
    return finish_runs(arguments, settings, [*thresholds, *arguments.head_and_seed()], one_run)


def share_of_zeros(scores: Tensor) -> float:
    """Share of entries that are exactly zero."""
    return (scores == 0).float().mean().item()


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    arguments = parse(SepinArguments, __doc__, argv)
    runs = compare(arguments)
    for kind in ("scores", "weighted"):
        able = [{"threshold": "-", **one} for one in runs if kind in one]
        if not able:
            continue
        shared = set.intersection(*(set(flat(one)) for one in able))  # few factors have no SEPIN@100
        figures = [f"{kind}_{setting}_@{k}" for setting in arguments.estimators for k in (*KS, "all")]
        figures = ["used_factors", "zero_scores", *(name for name in figures if name in shared)]
        print(f"\n{kind}\n" + table(mean_over_seeds(able, ("head", "threshold"), figures)))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
