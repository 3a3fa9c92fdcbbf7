r"""Compare decision layers on frozen features, or make such features from any classifier and datasets.

    python scripts/benchmarks/heads.py features --model_name_or_path MODEL --dataset_name DATA \
        --ood near=DATA2 --output FILE
    python scripts/benchmarks/heads.py heads --features FILE --heads bndl released nmf dense --seeds 0 1 2 \
        --output FILE.json

A features file holds train.features [N, D], train.labels [N], test.features, test.labels, NAME.features for every
out-of-distribution set, and head.weight [C, D], head.bias [C] of the classifier's own layer. Heads are judged on rows
that nothing was chosen on, as they come and with a temperature. Finished runs are kept.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from bndl_hf import BNDLForImageClassification, BNDLTrainingArguments
from bndl_hf.baselines import about_head, head_names, is_random, train_and_judge
from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import collate
from bndl_hf.model.backbone import detach_head, find_head
from bndl_hf.training.features import cached_features
from bndl_hf.utils.command_line import run
from common import Arguments, HeadsArguments, finish_runs, flat, json_object, mean_over_seeds, parse_command, table

FIGURES = (
    *("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage"),
    *("tempered_negative_log_likelihood", "tempered_expected_calibration_error", "pavpu"),
)
SIZES = ("sparsity", "factors_per_class", "train_seconds", "predict_seconds")


@dataclass
class CompareArguments(HeadsArguments):
    """Train and judge decision layers on a features file."""

    heads: list[str] = field(
        default_factory=lambda: ["bndl", "released", "nmf", "dense"],
        metadata={"help": f"Decision layers, of: {', '.join(head_names())}. Those without randomness are fitted once."},
    )
    choose: bool = field(default=False, metadata={"help": "Judge on the choosing rows instead: for trying things out."})
    learning_rate: float | None = field(default=None, metadata={"help": "Learning rate, instead of each head's own."})
    config: str = field(
        default="{}", metadata={"help": 'Fields of BNDLConfig over each head\'s own, as JSON: \'{"bias": "none"}\'.'}
    )
    all_rows: bool = field(
        default=False,
        metadata={
            "help": "Judge on all test rows too (`all_rows` of a run), as comparisons elsewhere do, the choosing rows "
            "among them."
        },
    )
    output: str = field(default="outputs/bench/heads.json", metadata={"help": "JSON file, rewritten after a run."})

    def known_heads(self) -> list[str]:
        """Heads of every kind."""
        return head_names()

    def head_and_seed(self) -> list[dict[str, Any]]:
        """Every head with every seed; a head without randomness with the first."""
        runs = super().head_and_seed()
        return [one for one in runs if is_random(one["head"]) or one["seed"] == self.seeds[0]]

    def training(self) -> dict[str, Any]:
        """With the learning rate, where one is given."""
        rate = {} if self.learning_rate is None else {"decision_layer_learning_rate": self.learning_rate}
        return {**super().training(), **rate}


@dataclass(kw_only=True)
class FeaturesArguments(Arguments):
    """Make a features file from a classifier and datasets."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of an image classifier."})
    dataset_name: str = field(metadata={"help": "Dataset with a train and a test split, as in finetune.py."})
    ood: list[str] = field(
        default_factory=list,
        metadata={"help": "Out-of-distribution datasets, each as NAME=DATASET (its test split) or NAME=DATASET:SPLIT."},
    )
    output: str = field(default="outputs/bench/features.safetensors", metadata={"help": "File to write."})
    batch_size: int = field(default=256, metadata={"help": "Images at a time."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    half: bool = field(default=False, metadata={"help": "Store features in float16."})
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "Keep shards here, so that an interrupted run goes on."}
    )


def compare_heads(arguments: CompareArguments) -> list[dict[str, Any]]:
    """Every head and seed: trained on one features file, judged on the reporting rows."""
    task, config = arguments.task(), json_object(arguments.config, "--config")
    settings = {
        **arguments.settings(task),
        "judged_on": "choosing rows" if arguments.choose else "reporting rows",
        "config": config,
        "training": arguments.training(),
        **({"all_rows": True} if arguments.all_rows else {}),
    }

    def one_run(head: str, seed: int) -> dict[str, Any]:
        judged = {"choose": arguments.choose, "all_rows": arguments.all_rows}
        return train_and_judge(head, task, seed, config, **judged, **arguments.training())

    return finish_runs(arguments, settings, arguments.head_and_seed(), one_run, summarise)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations of every figure over the seeds of each head."""
    summary: dict[str, Any] = {}
    for head in dict.fromkeys(one["head"] for one in runs):
        of_head = [flat(one) for one in runs if one["head"] == head]
        numbers = [{name: value for name, value in one.items() if name not in ("head", "seed")} for one in of_head]
        summary[head] = {
            "about": about_head(head),
            "mean": {k: statistics.mean(one[k] for one in numbers) for k in numbers[0]},
            "sd": {k: statistics.stdev(one[k] for one in numbers) if len(numbers) > 1 else None for k in numbers[0]},
        }
    return {"summary": summary}


def make_features(arguments: FeaturesArguments) -> None:
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
            disable_tqdm=arguments.quiet,
            report_to="none",
        )
        sets: list[tuple[str, str, str | None, bool]] = [("", arguments.dataset_name, None, False)]
        sets += [(name, path, split, True) for name, path, split in ood]
        for name, path, split, is_ood in sets:
            data = DataArguments(dataset_name=path, test_split=split)
            dataset = load_image_dataset(data, evaluation_only=is_ood)
            for part in ["test"] if is_ood else ["train", "test"]:
                rows = dataset.with_pixel_values(part, processor)
                features = cached_features(model, rows, settings, processor, collate, f"{name or path} ({part})")
                key = name if is_ood else part
                tensors[f"{key}.features"] = features.features.half() if arguments.half else features.features
                if not is_ood:
                    tensors[f"{key}.labels"] = features.labels
    tensors |= own_head(arguments.model_name_or_path)
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, arguments.output)
    print(f"Wrote {arguments.output}: " + ", ".join(f"{k} {list(v.shape)}" for k, v in tensors.items()))


def own_head(model_name_or_path: str) -> dict[str, Tensor]:
    """Weight [C, D] and bias [C], where it has one, of the layer the classifier came with."""
    classifier = AutoModelForImageClassification.from_pretrained(model_name_or_path)
    head = detach_head(classifier, find_head(classifier)[0])
    bias = {} if head.bias is None else {"head.bias": head.bias.detach()}
    return {"head.weight": head.weight.detach().flatten(1), **bias}


def split_ood(entry: str) -> tuple[str, str, str | None]:
    """'NAME=DATASET:SPLIT' as its parts, SPLIT None where there is none."""
    name, separator, path = entry.partition("=")
    path, _, split = path.partition(":")
    if not (separator and name and path) or name in ("train", "test", "head"):
        raise ValueError(
            f"--ood {entry!r} is not NAME=DATASET or NAME=DATASET:SPLIT with a name of its own; write "
            "mnist=ylecun/mnist, say."
        )
    return name, path, split or None


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments = parse_command({"heads": CompareArguments, "features": FeaturesArguments}, __doc__, argv)
    if isinstance(arguments, FeaturesArguments):
        make_features(arguments)
        return
    runs = compare_heads(arguments)
    ood = [name for name in flat(runs[0]) if name.startswith(("ood_max_probability", "ood_joint"))]
    print(table(mean_over_seeds(runs, by=("head",), of=(*FIGURES, *ood, *SIZES))))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
