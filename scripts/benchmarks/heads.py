r"""Compare decision layers on frozen features, or make such features from any classifier and datasets.

    python scripts/benchmarks/heads.py features --model_name_or_path MODEL --dataset_name DATA \
        --ood near=DATA2 --output FILE
    python scripts/benchmarks/heads.py heads --features FILE --heads bndl released nmf dense --seeds 0 1 2 \
        --output FILE.json

A features file holds train.features [N, D], train.labels [N], test.features, test.labels, NAME.features for every
out-of-distribution set, and head.weight [C, D], head.bias [C] of the classifier's own layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from bndl_hf import BNDLForImageClassification, BNDLTrainingArguments
from bndl_hf.baselines import HEADS, FeatureTask, current_defaults, train_and_judge
from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import collate
from bndl_hf.training.features import cached_features
from bndl_hf.utils.command_line import recorded_command, run
from bndl_hf.utils.results import describe_environment, read_finished, write_json


def compare_heads(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train every head with every seed on one features file and judge it on the reporting rows.

    Runs that stand in the output file already, made with the same settings, are not repeated.
    """
    if arguments.features is None:
        task = FeatureTask.digits()
    else:
        task = FeatureTask.read(arguments.features, arguments.hold_out, arguments.report_from)
    settings = {
        "features": Path(arguments.features).name if arguments.features else "digits (8x8 pixels)",
        "hold_out": arguments.hold_out,
        "num_training_images": len(task.train[1]),
        "num_choosing_images": len(task.choosing[1]),
        "num_reported_images": len((task.choosing if arguments.choose else task.reporting)[1]),
        "judged_on": "choosing rows" if arguments.choose else "reporting rows",
        "config": arguments.config,
        "training": arguments.training,
        "defaults": current_defaults(),
    }
    done = read_finished(arguments.output, settings)
    wanted = [(head, seed) for head in arguments.heads for seed in arguments.seeds]
    results = [one for one in done if (one["head"], one["seed"]) not in wanted]
    for head, seed in tqdm(wanted, desc="Heads x seeds", disable=arguments.quiet):
        finished = [one for one in done if (one["head"], one["seed"]) == (head, seed)]
        figures = finished[0] if finished else {"head": head, "seed": seed}
        if not finished:
            figures |= train_and_judge(
                head,
                task,
                seed,
                arguments.config,
                choose=arguments.choose,
                disable_tqdm=arguments.quiet,
                **arguments.training,
            )
        results.append(figures)
        write_json(arguments.output, report(results, settings, arguments.argv))  # an interrupted run keeps what it has
    return report(results, settings, arguments.argv)


def report(results: list[dict[str, Any]], settings: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """The runs, their means and standard deviations per head, and what they were run with."""
    summary: dict[str, Any] = {}
    for head in dict.fromkeys(one["head"] for one in results):
        runs = [flat(one) for one in results if one["head"] == head]
        summary[head] = {
            "about": HEADS[head].about,
            "mean": {k: statistics.mean(one[k] for one in runs) for k in runs[0]},
            "sd": {k: statistics.stdev(one[k] for one in runs) if len(runs) > 1 else None for k in runs[0]},
        }
    return {
        "command": f"python {recorded_command('scripts/benchmarks/heads.py', argv)}",
        "settings": settings,
        "environment": describe_environment(),
        "summary": summary,
        "runs": results,
    }


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a run, one level deep: {"ood": {"joint": {"mnist": x}}} as "ood_joint_mnist"."""
    level: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            level |= flat(value, f"{prefix}{name}_")
        elif isinstance(value, int | float) and name != "seed":
            level[f"{prefix}{name}"] = value
    return level


def table(summary: dict[str, Any]) -> str:
    """The means as a Markdown table."""
    columns = [
        "accuracy",
        "negative_log_likelihood",
        "expected_calibration_error",
        "area_under_risk_coverage",
        "tempered_negative_log_likelihood",
        "tempered_expected_calibration_error",
        "pavpu",
    ]
    known = next(iter(summary.values()))["mean"]
    columns += [c for c in known if c.startswith(("ood_max_probability", "ood_joint"))]
    columns += ["sparsity", "factors_per_class", "train_seconds", "predict_seconds"]
    lines = ["| head | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for head, figures in summary.items():
        lines.append(f"| {head} | " + " | ".join(f"{figures['mean'][c]:.4f}" for c in columns) + " |")
    return "\n".join(lines)


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
        help="first test row to report on, earlier ones are for choosing; default: half of them (not with --hold_out)",
    )
    heads.add_argument(
        "--hold_out",
        type=int,
        default=0,
        help="rows of train to choose and to fit temperatures on, instead of the first half of test: for a backbone "
        "that has not seen the training images",
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
    run(main)
