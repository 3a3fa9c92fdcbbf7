"""Compare decision layers on frozen features, or make such features from any classifier and datasets.

    python scripts/benchmark.py features --model_name_or_path MODEL --dataset_name DATA --ood near=DATA2 --output FILE
    python scripts/benchmark.py heads --features FILE --heads bndl released nmf dense --seeds 0 1 2 --output FILE.json

A features file holds train.features [N, D], train.labels [N], test.features, test.labels, NAME.features for every
out-of-distribution set, and head.weight [C, D], head.bias [C] of the classifier's own layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, set_seed

from bndl_hf import BNDLForImageClassification, BNDLTrainingArguments
from bndl_hf.baselines import HEADS, make_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.training import DataArguments, fit_decision_layer, load_image_dataset
from bndl_hf.training.data import collate
from bndl_hf.training.features import HEAD_DEFAULTS, cached_features
from bndl_hf.training.results import describe_environment, write_json
from bndl_hf.uncertainty import ood_auroc, summarize

# How far an image lies from what was learned; higher is further. `ood` reports the usual one, which nobody tuned.
OOD_SCORES: dict[str, Callable[[BNDLPrediction], Tensor]] = {
    "max_probability": lambda prediction: 1 - prediction.probs.amax(dim=-1),
    "entropy": lambda prediction: prediction.total,
    "entropy_of_halved_logits": lambda p: torch.distributions.Categorical(logits=p.logits_mean / 2).entropy(),
    "energy": lambda prediction: -prediction.logits_mean.logsumexp(dim=-1),
}
OOD_SCORE = "max_probability"


def compare_heads(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train every head with every seed on one features file and judge it on the reporting rows."""
    data = digits_features() if arguments.features is None else read_features(arguments.features)
    report_from = default_report_from(data) if arguments.report_from is None else arguments.report_from
    runs = [(head, seed) for head in arguments.heads for seed in arguments.seeds]
    results = []
    for head, seed in tqdm(runs, desc="Heads x seeds", disable=arguments.quiet):
        results.append({"head": head, "seed": seed, **train_and_judge(head, seed, data, report_from, arguments)})
        if arguments.output:  # after every run: an interrupted comparison keeps what it has
            write_json(arguments.output, report(results, arguments, data, report_from))
    return report(results, arguments, data, report_from)


def train_and_judge(
    head: str, seed: int, data: dict[str, Tensor], report_from: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Every figure of one head and seed."""
    set_seed(seed)
    num_labels = int(data["train.labels"].max()) + 1
    layer, recipe = make_head(head, data["train.features"].shape[1], num_labels, **arguments.config)
    recipe = {**recipe, **arguments.training, "disable_tqdm": arguments.quiet}
    dead = dead_loadings(layer, data["train.features"][:4096], data["train.labels"][:4096])
    started = time.perf_counter()
    layer = fit_decision_layer(
        data["train.features"],
        data["train.labels"],
        layer.config,
        layer=layer,
        seed=seed,
        **recipe,
    )
    train_seconds = time.perf_counter() - started
    rows = slice(0, report_from) if arguments.choose else slice(report_from, None)
    features, labels = data["test.features"][rows], data["test.labels"][rows]

    def predict(features: Tensor) -> BNDLPrediction:
        generator = torch.Generator().manual_seed(seed)
        return layer.predict(features, method=HEADS[head].predict, generator=generator)

    predict_seconds = []
    for _ in range(5):
        started = time.perf_counter()
        prediction = predict(features)
        predict_seconds.append(time.perf_counter() - started)
    draws = layer.predict(features, method="monte_carlo", generator=torch.Generator().manual_seed(seed))
    figures = summarize(prediction.probs, labels, prediction.p_value)
    figures["pavpu_20_draws"] = summarize(prediction.probs, labels, draws.p_value)["pavpu"]
    outside = {name: predict(data[f"{name}.features"]) for name in ood_names(data)}
    ood = {
        score_name: {name: ood_auroc(score(prediction), score(out)) for name, out in outside.items()}
        for score_name, score in OOD_SCORES.items()
    }
    return {
        **figures,
        "ood": ood[OOD_SCORE],
        "ood_by_score": ood,
        "nonzero_loadings": layer.sparsity(),
        "dead_loadings_at_init": dead,
        "train_seconds": train_seconds,
        "train_images_per_second": len(data["train.labels"])
        * {**HEAD_DEFAULTS, **recipe}["num_train_epochs"]
        / train_seconds,
        "predict_seconds": statistics.median(predict_seconds),
    }


def dead_loadings(layer: BNDLDecisionLayer, features: Tensor, labels: Tensor) -> float:
    """Share of loadings that get no gradient from the likelihood of 4,096 images before training."""
    layer.train()
    (gradient,) = torch.autograd.grad(layer(features, labels).nll, layer.raw_loadings)
    return (gradient == 0).float().mean().item()


def report(
    results: list[dict[str, Any]], arguments: argparse.Namespace, data: dict[str, Tensor], report_from: int
) -> dict[str, Any]:
    """The runs, their means and standard deviations per head, and what they were run with."""
    summary: dict[str, Any] = {}
    for head in dict.fromkeys(run["head"] for run in results):
        runs = [flat(run) for run in results if run["head"] == head]
        summary[head] = {
            "about": HEADS[head].about,
            "mean": {k: statistics.mean(run[k] for run in runs) for k in runs[0]},
            "sd": {k: statistics.stdev(run[k] for run in runs) if len(runs) > 1 else None for k in runs[0]},
        }
    return {
        "command": "python scripts/benchmark.py " + " ".join(arguments.argv),
        "features": Path(arguments.features).name if arguments.features else "digits (8x8 pixels)",
        "num_training_images": len(data["train.labels"]),
        "reported_rows": [0, report_from] if arguments.choose else [report_from, len(data["test.labels"])],
        "config": arguments.config,
        "ood_score": OOD_SCORE,
        "environment": describe_environment(),
        "summary": summary,
        "runs": results,
    }


def flat(run: dict[str, Any]) -> dict[str, float]:
    """The figures of a run, one level deep."""
    figures = {k: v for k, v in run.items() if k not in ("head", "seed", "ood", "ood_by_score")}
    for name, value in run["ood"].items():
        figures[f"ood_{name}"] = value
    for score, values in run["ood_by_score"].items():
        figures |= {f"{score}_{name}": value for name, value in values.items()}
    return figures


def table(summary: dict[str, Any]) -> str:
    """The means as a Markdown table."""
    columns = ["accuracy", "nll", "ece", "brier", "aurc", "pavpu"]
    columns += [c for c in next(iter(summary.values()))["mean"] if c.startswith("ood_")]
    columns += ["nonzero_loadings", "dead_loadings_at_init", "train_seconds", "predict_seconds"]
    lines = ["| head | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for head, figures in summary.items():
        lines.append(f"| {head} | " + " | ".join(f"{figures['mean'][c]:.4f}" for c in columns) + " |")
    return "\n".join(lines)


def read_features(path: str) -> dict[str, Tensor]:
    """A features file, in float32; says which tensors are missing."""
    if not Path(path).is_file():
        raise SystemExit(
            f"--features {path} does not exist; make one with: python scripts/benchmark.py features --help"
        )
    data = load_file(path)
    needed = ("train.features", "train.labels", "test.features", "test.labels")
    if missing := [name for name in needed if name not in data]:
        raise SystemExit(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(data))}.")
    return {name: tensor.long() if name.endswith("labels") else tensor.float() for name, tensor in data.items()}


def digits_features() -> dict[str, Tensor]:
    """Scikit-learn's digits as 64 raw pixels: a comparison that runs anywhere in seconds."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:600], order[600:]
    noise = torch.rand(600, 64, generator=torch.Generator().manual_seed(1))
    return {
        "train.features": pixels[train],
        "train.labels": labels[train],
        "test.features": pixels[test],
        "test.labels": labels[test],
        "noise.features": noise,
    }


def default_report_from(data: dict[str, Tensor]) -> int:
    """The first half of the test rows is for choosing, the second for reporting."""
    return len(data["test.labels"]) // 2


def ood_names(data: dict[str, Tensor]) -> list[str]:
    """Names of the out-of-distribution sets in a features file."""
    known = {"train", "test"}
    return sorted(n.removesuffix(".features") for n in data if n.endswith(".features") and n.split(".")[0] not in known)


def make_features(arguments: argparse.Namespace) -> None:
    """Run a classifier once over a dataset and every OOD dataset, and write a features file."""
    ood = [split_ood(entry) for entry in arguments.ood]
    model = BNDLForImageClassification.from_backbone_pretrained(arguments.model_name_or_path, warm_start=False)
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    tensors: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as scratch:
        settings = BNDLTrainingArguments(
            output_dir=scratch,
            feature_cache_dir=arguments.feature_cache_dir,
            feature_batch_size=arguments.batch_size,
            dataloader_num_workers=arguments.num_workers,
            report_to="none",
        )
        sets: list[tuple[str, str, bool]] = [("", arguments.dataset_name, False)]
        sets += [(name, path, True) for name, path in ood]
        for name, path, is_ood in sets:
            dataset = load_image_dataset(DataArguments(dataset_name=path), evaluation_only=is_ood)
            for part in ["test"] if is_ood else ["train", "test"]:
                rows = dataset.with_pixel_values(part, processor)
                features = cached_features(model, rows, settings, processor, collate, f"{name or path} ({part})")
                key = name if is_ood else part
                tensors[f"{key}.features"] = features.features.half() if arguments.half else features.features
                if not is_ood:
                    tensors[f"{key}.labels"] = features.labels
    save_features(tensors, arguments)
    print(f"Wrote {arguments.output}: " + ", ".join(f"{k} {list(v.shape)}" for k, v in tensors.items()))


def save_features(tensors: dict[str, Tensor], arguments: argparse.Namespace) -> None:
    """Write the file with the classifier's own head beside the features."""
    from transformers import AutoModelForImageClassification

    from bndl_hf.model.backbone import detach_head, find_head

    classifier = AutoModelForImageClassification.from_pretrained(arguments.model_name_or_path)
    head = detach_head(classifier, find_head(classifier)[0])
    tensors["head.weight"] = head.weight.detach().flatten(1).contiguous()
    if head.bias is not None:
        tensors["head.bias"] = head.bias.detach()
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, arguments.output)


def split_ood(entry: str) -> tuple[str, str]:
    """'NAME=PATH' as its two parts."""
    name, separator, path = entry.partition("=")
    if not (separator and name and path) or name in ("train", "test", "head"):
        raise SystemExit(f"--ood {entry!r} is not NAME=PATH with a name of its own, for example mnist=ylecun/mnist.")
    return name, path


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; every flag explained by --help."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, formatter_class=formatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    heads = commands.add_parser(
        "heads", help="train and judge decision layers on a features file", formatter_class=formatter
    )
    heads.add_argument("--features", help="features file; without one, scikit-learn's digits as raw pixels")
    heads.add_argument("--heads", nargs="+", choices=list(HEADS), default=["bndl", "released", "nmf", "dense"])
    heads.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    heads.add_argument(
        "--report_from",
        type=int,
        help="first test row to report on, earlier ones are for choosing; default: half of them",
    )
    heads.add_argument(
        "--choose", action="store_true", help="judge on the choosing rows instead: for trying things out"
    )
    heads.add_argument("--epochs", type=float, help="passes over the training images, instead of each head's own")
    heads.add_argument("--learning_rate", type=float, help="learning rate, instead of each head's own")
    heads.add_argument(
        "--config", type=json.loads, default={}, help='fields of BNDLConfig over each head\'s own: \'{"bias": "none"}\''
    )
    heads.add_argument("--output", required=True, help="JSON file, rewritten after every run")
    heads.add_argument("--quiet", action="store_true", help="no progress bars")

    features = commands.add_parser("features", help="make a features file from a classifier", formatter_class=formatter)
    features.add_argument("--model_name_or_path", required=True, help="Hub id or folder of an image classifier")
    features.add_argument("--dataset_name", required=True, help="dataset with a train and a test split")
    features.add_argument(
        "--ood", nargs="*", default=[], metavar="NAME=PATH", help="out-of-distribution datasets (test split)"
    )
    features.add_argument("--output", required=True, help="safetensors file to write")
    features.add_argument("--batch_size", type=int, default=256, help="images at a time")
    features.add_argument("--num_workers", type=int, default=0, help="processes that decode images")
    features.add_argument("--half", action="store_true", help="store features in float16")
    features.add_argument("--feature_cache_dir", help="keep shards here, so that an interrupted run goes on")

    arguments = parser.parse_args(argv)
    arguments.argv = argv
    if arguments.command == "heads":
        chosen = {"num_train_epochs": arguments.epochs, "decision_layer_learning_rate": arguments.learning_rate}
        arguments.training = {name: value for name, value in chosen.items() if value is not None}
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.command == "features":
        make_features(arguments)
    else:
        results = compare_heads(arguments)
        print(table(results["summary"]))
        print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    main()
