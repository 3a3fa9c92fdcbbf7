"""Judge a trained BNDL classifier on a dataset: how often it is right, and how far its probabilities can be trusted.

    python scripts/evaluate.py --model_name_or_path outputs/finetune --dataset_name uoft-cs/cifar10

Writes one JSON file and prints a table. Several processes share the work under `accelerate launch` or `torchrun`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.command_line import run
from bndl_hf.training.data import DataArguments, collate, load_image_dataset
from bndl_hf.training.results import describe_environment, write_json

MEANINGS = {
    "accuracy": "share of images answered right",
    "nll": "negative log-likelihood of the labels, nats; smaller is better",
    "ece": "expected calibration error, 15 bins; 0 is perfect",
    "brier": "squared error of the probabilities, 0 to 2",
    "aurc": "area under the risk-coverage curve by largest probability; smaller is better",
    "pavpu": "accurate-certain plus inaccurate-uncertain, exact t-test for 20 draws at p < .05",
    "sparsity": "share of loadings above 1e-5",
}


@dataclass
class EvaluateArguments:
    """What to judge and where the figures go."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of a BNDL classifier."})
    output: str = field(default="outputs/evaluate/results.json", metadata={"help": "JSON file to write."})
    batch_size: int = field(default=256, metadata={"help": "Images at a time on each device."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    num_samples: int = field(
        default=20,
        metadata={"help": "Draws behind the sampled PAvPU beside the exact one; 0 draws none. 20: the paper's."},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is an accelerator."})


def evaluate(arguments: EvaluateArguments, data_arguments: DataArguments) -> dict[str, Any]:
    """Every figure of the model on the dataset's test split."""
    model = BNDLForImageClassification.from_pretrained(arguments.model_name_or_path)
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    is_named = names != [f"LABEL_{i}" for i in range(len(names))]
    dataset = load_image_dataset(data_arguments, evaluation_only=True, label_names=names if is_named else None)
    if len(dataset.label_names) != len(names):
        raise ValueError(
            f"{arguments.model_name_or_path} has {len(names)} classes without names, {dataset.sources['test']} has "
            f"{len(dataset.label_names)}, so they cannot be matched; set model.config.id2label and save it again."
        )
    settings = BNDLTrainingArguments(
        output_dir="outputs/evaluate",
        per_device_eval_batch_size=arguments.batch_size,
        dataloader_num_workers=arguments.num_workers,
        num_eval_samples=arguments.num_samples,
        use_cpu=arguments.use_cpu,
        report_to="none",
    )
    trainer = BNDLTrainer(model=model, args=settings, data_collator=collate)
    metrics = trainer.evaluate(dataset.with_pixel_values("test", processor), metric_key_prefix="test")
    results = {name.removeprefix("test_"): value for name, value in metrics.items()}
    results |= {"evaluated_on": dataset.sources["test"], "num_images": len(dataset.test or [])}
    results["environment"] = {**describe_environment(), "processes": settings.world_size}
    if trainer.is_world_process_zero():
        write_json(arguments.output, results)
        print(table(results))
        print(f"\n{results['num_images']} images of {results['evaluated_on']}; written to {arguments.output}")
    return results


def table(results: dict[str, Any]) -> str:
    """Figures with what they mean, one a line."""
    lines = [f"{name:<16}{results[name]:<10.4f}{meaning}" for name, meaning in MEANINGS.items()]
    sampled = [name for name in results if name.startswith("pavpu_")]
    lines += [f"{name:<16}{results[name]:<10.4f}the same from draws" for name in sampled]
    return "\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and judge."""
    parser = HfArgumentParser(
        (EvaluateArguments, DataArguments), description=__doc__.splitlines()[0] if __doc__ else None
    )
    return evaluate(*parser.parse_args_into_dataclasses(argv))


if __name__ == "__main__":
    run(main)
