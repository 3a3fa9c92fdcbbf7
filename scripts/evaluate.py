r"""Judge a trained BNDL classifier: how often it is right, and how far its uncertainty can be trusted.

    python scripts/evaluate.py --model_name_or_path outputs/mine --dataset_name uoft-cs/cifar10 \
        --ood_datasets cifar100=uoft-cs/cifar100 mnist=ylecun/mnist --output_dir outputs/mine/evaluation

    torchrun --nproc_per_node 2 scripts/evaluate.py --use_cpu --model_name_or_path outputs/mine \
        --dataset_name ./images --test_split validation --num_samples 20

Writes results.json and figures/*.png below --output_dir and prints every number with its meaning. An evaluation that
was interrupted goes on where it was when started again with the same command; one that is done is only judged and drawn
again. Several processes share the work and find the same numbers as one. Publish both with
scripts/publish.py --results OUTPUT_DIR/results.json --figures OUTPUT_DIR/figures/*.png.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification
from bndl_hf.data.classes import load_images_to_judge
from bndl_hf.data.image_dataset import DataArguments, collate
from bndl_hf.data.unlabelled import load_unlabelled_images, parse_named
from bndl_hf.evaluation.judging import Evaluation, evaluate_classifier
from bndl_hf.evaluation.predictions import PredictionSettings
from bndl_hf.model.predictive import paired_p_value
from bndl_hf.uncertainty import (
    MEASURES,
    OOD_MEASURES,
    describe_verdicts,
    pavpu_from_p_value,
    risk_coverage_curve,
    sampled_pavpu,
)
from bndl_hf.utils.command_line import HelpFormatter, recorded_command, run
from bndl_hf.utils.privacy import public_text
from bndl_hf.utils.results import describe_environment, write_json

# Scores with a histogram, where the model has them, and what stands below it; p-values crowd at zero, their figure is
# PAvPU's.
HISTOGRAMS = {
    "max_probability": "1 − largest probability",
    "entropy": "entropy, nats",
    "mutual_information": "mutual information, nats",
    "energy": "energy, nats",
    "total_evidence": "− total evidence",
    "mahalanobis": "Mahalanobis distance",
    "fisher_statistic": "Fisher's statistic",
}
# Orders of the images in the other figures: by scores that speak of the answer, not of the image alone.
RANKED_BY = {
    "max_probability": "largest probability",
    "entropy": "entropy",
    "z": "p-value",
    "mutual_information": "epistemic uncertainty",
}


@dataclass
class EvaluateArguments:
    """What to judge, on which out-of-distribution images, and where the results go."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of a BNDL classifier and its processor."})
    ood_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Images that belong to none of its classes, each as NAME=DATASET: a Hub id, a folder of images "
            "(without sub-folders, too), of parquet files, ... Their labels are not looked at."
        },
    )
    ood_split: str | None = field(
        default=None, metadata={"help": "Split of those. Found: 'test', else 'validation', else 'train'."}
    )
    output_dir: str = field(default="outputs/evaluate", metadata={"help": "Folder for everything that is written."})
    num_samples: list[int] = field(
        default_factory=lambda: [5, 20, 100],
        metadata={
            "help": "Numbers of draws S for sampled PAvPUs beside the exact one, 20 being the paper's; one set of "
            "draws serves all. 0 alone draws none, which is faster."
        },
    )
    batch_size: int = field(default=256, metadata={"help": "Images at a time on each device."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    dtype: str = field(
        default="auto", metadata={"help": "Of the backbone: float32, bfloat16, float16; auto: as it was saved."}
    )
    seed: int = field(default=0, metadata={"help": "Of the draws."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is an accelerator."})
    no_figures: bool = field(default=False, metadata={"help": "Numbers only; matplotlib is then not needed."})
    restart: bool = field(default=False, metadata={"help": "Forget the predictions kept in output_dir; start afresh."})


def evaluate(arguments: EvaluateArguments, data_arguments: DataArguments) -> tuple[Evaluation, dict[str, str]]:
    """Every measure of the model, and the source of each dataset by its name."""
    cpu = arguments.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu)
    if not state.is_main_process:  # of several processes one speaks
        logging.getLogger("bndl_hf").setLevel(logging.ERROR)
    settings = PredictionSettings(
        arguments.batch_size, tuple(sorted(set(arguments.num_samples) - {0})), seed=arguments.seed
    )
    named = parse_named(arguments.ood_datasets)
    name = arguments.model_name_or_path
    model = BNDLForImageClassification.from_pretrained(name, dtype=arguments.dtype).to(state.device)
    processor = AutoImageProcessor.from_pretrained(name)
    cache_dir = Path(arguments.output_dir) / "predictions"
    with state.main_process_first():
        dataset = load_images_to_judge(data_arguments, model.config, name)
        images = dataset.with_pixel_values("test", processor)
        ood = {
            other: load_unlabelled_images(source, processor, data_arguments, arguments.ood_split)
            for other, source in named.items()
        }
        if arguments.restart and state.is_main_process:
            shutil.rmtree(cache_dir, ignore_errors=True)
    evaluation = evaluate_classifier(
        model,
        images,
        cache_dir=cache_dir,
        collate=collate,
        ood_datasets={other: rows for other, (rows, _) in ood.items()},
        processor=processor,
        settings=settings,
        num_workers=arguments.num_workers,
    )
    sources = {"test": dataset.sources["test"], **{other: where for other, (_, where) in ood.items()}}
    return evaluation, sources


def draw(evaluation: Evaluation, folder: Path, dataset_name: str) -> list[Path]:
    """Write every figure as PNG and return their paths."""
    from bndl_hf import plots

    results, predictions = evaluation.results, evaluation.predictions
    correct, accuracy = predictions.correct, results["accuracy"]
    bins: dict[str, Any] = {name: np.array(v, dtype=float) for name, v in results["reliability"].items()}  # None: NaN
    S, threshold = results["settings"]["num_samples"], results["settings"]["threshold"]

    def pavpu(num_samples: int, threshold: float) -> float:
        p_value = paired_p_value(predictions.gap_ratio, num_samples)
        return pavpu_from_p_value(p_value, correct, threshold).pavpu

    sampled = {n: results[sampled_pavpu(n)] for n in predictions.p_value_sampled}
    thresholds = np.geomspace(1e-4, 0.99, 60)
    draws = np.unique(np.geomspace(2, 1000, 60).round().astype(int)).tolist()
    figures = {
        "reliability": plots.reliability_diagram(**bins, error=results["expected_calibration_error"]),
        "accuracy_by_decile": plots.accuracy_by_decile_plot(
            {RANKED_BY[name]: groups["accuracy"] for name, groups in results["deciles"].items()}, accuracy
        ),
        "risk_coverage": plots.risk_coverage_plot(
            {words: risk_coverage_curve(-predictions.scores[name], correct).risk for name, words in RANKED_BY.items()},
            accuracy,
        ),
        "pavpu": plots.pavpu_plot(
            thresholds,
            {n: [pavpu(n, t) for t in thresholds] for n in sorted({S, *sampled})},
            draws,
            [pavpu(n, threshold) for n in draws],
            sampled,
            accuracy,
            threshold,
        ),
        "uncertainty_histograms": histograms(evaluation, dataset_name),
    }
    return [plots.save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def histograms(evaluation: Evaluation, dataset_name: str) -> Any:
    """Scores of the dataset beside those of the OOD sets; without any, of right answers beside wrong ones."""
    from bndl_hf import plots

    predictions, shown, notes = evaluation.predictions, {}, {}
    for name, words in HISTOGRAMS.items():
        if name not in predictions.scores:
            continue
        values = predictions.scores[name]
        if evaluation.ood:
            shown[words] = {dataset_name: values, **{k: other.scores[name] for k, other in evaluation.ood.items()}}
            aurocs = [f"{k} {r['scores'][name]['auroc']:.3f}" for k, r in evaluation.results["ood"].items()]
            notes[words] = "AUROC " + ", ".join(aurocs)
        elif 0 < predictions.correct.sum() < len(predictions):
            shown[words] = {"right answers": values[predictions.correct], "wrong": values[~predictions.correct]}
            notes[words] = f"AUROC {evaluation.results['scores'][name]['error_detection_auroc']:.3f}"
        else:
            shown[words] = {dataset_name: values}
    title = "Does it notice what it was not trained for?" if evaluation.ood else "Is it less sure where it is wrong?"
    return plots.uncertainty_histograms(shown, notes, title)


def table(results: dict[str, Any]) -> str:
    """Every figure with what it means, one a line."""
    width = max(map(len, MEASURES)) + 2
    settings = results["settings"]
    lines = [f"{name:<{width}}{_written(results[name])}  {measure.describe()}" for name, measure in MEASURES.items()]
    lines += ["", f"PAvPU and the share of certain images at p < {settings['threshold']:g}, by number of draws S:"]
    for row in results["pavpu_by_samples"]:
        certain = (row["accurate_certain"] + row["inaccurate_certain"]) / results["num_images"]
        how = "exact moments" if row["test"] == "exact" else "that many draws"
        lines.append(f"  S = {row['num_samples']:<5}{_written(row['pavpu'])}{_written(certain)}  {how}")
    if "verdicts" in results:
        lines += ["", "Verdicts:", *(f"  {line}" for line in describe_verdicts(results["verdicts"]))]
    if "ood" in results:
        scores = list(next(iter(results["ood"].values()))["scores"])
        lines += ["", "Out-of-distribution images, by score (higher: more likely out of distribution):"]
        lines += [f"  {name:<8}{measure.describe()}" for name, measure in OOD_MEASURES.items()]
        for name, judged in results["ood"].items():
            lines += ["", f"  {name:<22}" + "".join(f"{measure:>8}" for measure in OOD_MEASURES)]
            for score in scores:
                numbers = "".join(_written(judged["scores"][score][measure]) for measure in OOD_MEASURES)
                lines.append(f"    {score:<20}{numbers}")
    return "\n".join(lines)


def _written(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:>8.4f}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line, judge, write and print."""
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(
        (EvaluateArguments, DataArguments),
        usage="evaluate.py --model_name_or_path NAME --dataset_name NAME [any flag below]",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    arguments, data_arguments = parser.parse_args_into_dataclasses(argv)
    started = time.perf_counter()
    evaluation, sources = evaluate(arguments, data_arguments)
    state, folder = PartialState(), Path(arguments.output_dir)
    results = {"evaluated_on": public_text(sources["test"]), **evaluation.results}
    for name, judged in results.get("ood", {}).items():
        judged["evaluated_on"] = public_text(sources[name])
    results |= {
        "command": recorded_command("scripts/evaluate.py", argv),
        "environment": {
            **describe_environment(),
            "device": state.device.type,
            "processes": state.num_processes,
            "seconds": round(time.perf_counter() - started, 1),
        },
    }
    if state.is_main_process:
        write_json(folder / "results.json", results)
        print(f"\n{results['num_images']} images of {sources['test']}:\n\n{table(results)}\n\n{folder}/results.json")
        if not arguments.no_figures:
            dataset_name = os.path.basename(data_arguments.dataset_name.rstrip("/")) or data_arguments.dataset_name
            print("\n".join(map(str, draw(evaluation, folder / "figures", dataset_name))))
    state.wait_for_everyone()
    return results


if __name__ == "__main__":
    run(main)
    PartialState().destroy_process_group()
