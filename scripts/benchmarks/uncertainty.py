r"""What PAvPU does as its settings change, which score finds outsiders, and what judging a large test set costs.

    python scripts/benchmarks/uncertainty.py pavpu --features FILE --output docs/results/pavpu.json
    python scripts/benchmarks/uncertainty.py ood --features FILE --output docs/results/ood_scores.json
    python scripts/benchmarks/uncertainty.py streaming --output docs/results/streaming_metrics.json

`pavpu` trains our default and the released head on a features file (see heads.py) and judges the same test images
by PAvPU with S = 5, 20, 100 and 1000 draws, by the exact test, and by its other tests. `ood` judges every score of
`bndl_hf.uncertainty.OOD_SCORES` on the same images and on the file's out-of-distribution sets. `streaming` feeds the
predictions of a decision layer with 1,000 classes on 1,000,000 images to `StreamingMetrics` and reports seconds and
peak memory.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bndl_hf import BNDLConfig
from bndl_hf.baselines import HEADS, FeatureTask, train_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.uncertainty import (
    PAvPUCounts,
    StreamingMetrics,
    error_detection_auroc,
    gap_test,
    ood_aupr,
    ood_auroc,
    ood_fpr95,
    ood_scores,
    pavpu,
    pavpu_from_p_value,
)
from bndl_hf.utils.command_line import HelpFormatter, recorded_command, run
from bndl_hf.utils.results import describe_environment, write_json

# ---- PAvPU against S, test and values ----


def pavpu_table(arguments: argparse.Namespace) -> dict[str, Any]:
    """PAvPU of every head and seed at every setting, and the means over seeds."""
    task = FeatureTask.read(arguments.features)
    (features, labels), report_from = task.reporting, len(task.choosing[1])
    rows: list[dict[str, Any]] = []
    runs = [(head, seed) for head in arguments.heads for seed in arguments.seeds]
    for head, seed in tqdm(runs, desc="Heads x seeds", disable=arguments.quiet):
        layer = train_head(head, task, seed, disable_tqdm=arguments.quiet, **arguments.training)
        rows += [{"head": head, "seed": seed, **row} for row in judge(layer, features, labels, seed, arguments.samples)]
    return {
        "command": command(arguments),
        "features": Path(arguments.features).name,
        "reported_rows": [report_from, report_from + len(labels)],
        "threshold": 0.05,
        "environment": describe_environment(),
        "summary": means(rows),
        "runs": rows,
    }


def judge(
    layer: PosteriorHead, features: Tensor, labels: Tensor, seed: int, samples: list[int]
) -> list[dict[str, Any]]:
    """PAvPU by the first S of one set of draws, by the exact moments for the same S, and by the other tests at S = 20.

    Accurate is the exact prediction's answer throughout, so that only "certain" changes from row to row.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = layer.predict(features, "monte_carlo", num_samples=max(samples), generator=generator).logits_samples
    assert draws is not None
    predicted = layer.predict(features).predicted_labels
    correct = predicted == labels
    rows = []
    for num_samples in samples:
        p_value = gap_test(draws[:num_samples]).p_value
        counts = pavpu(draws[:num_samples], labels, predicted=predicted)
        rows.append(row_of(counts, p_value, correct))
        p_value = layer.predict(features, num_samples=num_samples).p_value
        rows.append(row_of(pavpu_from_p_value(p_value, correct, num_samples=num_samples), p_value, correct))
    for test, values in (("paired", "probabilities"), ("welch", "logits"), ("welch", "probabilities")):
        some = draws[: min(20, max(samples))]
        p_value = gap_test(some, test, values).p_value
        rows.append(row_of(pavpu(some, labels, test=test, values=values, predicted=predicted), p_value, correct))
    return rows


def row_of(counts: PAvPUCounts, p_value: Tensor, correct: Tensor) -> dict[str, Any]:
    """The settings and figures of one line of the table."""
    certain = counts.accurate_certain + counts.inaccurate_certain
    return {
        "test": counts.test,
        "values": counts.values,
        "num_samples": counts.num_samples,
        "pavpu": counts.pavpu,
        "accuracy": correct.double().mean().item(),
        "certain": certain / counts.num_images,
        "errors_uncertain": counts.inaccurate_uncertain / max(1, int((~correct).sum())),
        "error_detection_auroc": error_detection_auroc(-p_value, correct),
        "accurate_certain": counts.accurate_certain,
        "accurate_uncertain": counts.accurate_uncertain,
        "inaccurate_certain": counts.inaccurate_certain,
        "inaccurate_uncertain": counts.inaccurate_uncertain,
        "num_zero_spread": counts.num_zero_spread,
    }


FIGURES = ("pavpu", "accuracy", "certain", "errors_uncertain", "error_detection_auroc")


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds of every head and setting, in the order they came."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["head"], row["test"], row["values"], row["num_samples"]), []).append(row)
    return [
        dict(zip(("head", "test", "values", "num_samples"), key, strict=True))
        | {name: statistics.mean(row[name] for row in group) for name in FIGURES}
        for key, group in groups.items()
    ]


def table(summary: list[dict[str, Any]]) -> str:
    """The means as a Markdown table."""
    lines = [
        "| head | test | of | S | PAvPU | accuracy | certain | errors found uncertain | error AUROC of p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        figures = " | ".join(f"{row[name]:.4f}" for name in FIGURES)
        lines.append(f"| {row['head']} | {row['test']} | {row['values']} | {row['num_samples']} | {figures} |")
    return "\n".join(lines)


# ---- out-of-distribution scores ----


def ood_table(arguments: argparse.Namespace) -> dict[str, Any]:
    """AUROC, FPR95 and AUPR of every score, head, seed and out-of-distribution set."""
    task = FeatureTask.read(arguments.features)
    (features, _), first = (task.choosing, 0) if arguments.choose else (task.reporting, len(task.choosing[1]))
    runs = []
    pairs = [(head, seed) for head in arguments.heads for seed in arguments.seeds]
    for head, seed in tqdm(pairs, desc="Heads x seeds", disable=arguments.quiet):
        layer = train_head(head, task, seed, disable_tqdm=arguments.quiet, **arguments.training)
        inside = ood_scores(layer.predict(features))
        for name, outside in task.outside.items():
            for score, values in ood_scores(layer.predict(outside)).items():
                figures = {
                    metric.__name__: metric(inside[score], values) for metric in (ood_auroc, ood_fpr95, ood_aupr)
                }
                runs.append({"head": head, "seed": seed, "outside": name, "score": score, **figures})
    return {
        "command": command(arguments),
        "features": Path(arguments.features).name,
        "reported_rows": [first, first + len(features)],
        "environment": describe_environment(),
        "summary": ood_means(runs),
        "runs": runs,
    }


def ood_means(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean AUROC over seeds: head -> score -> out-of-distribution set."""
    means: dict[str, dict[str, dict[str, float]]] = {}
    for row in runs:
        same = [r for r in runs if all(r[key] == row[key] for key in ("head", "score", "outside"))]
        by_set = means.setdefault(row["head"], {}).setdefault(row["score"], {})
        by_set[row["outside"]] = statistics.mean(r["ood_auroc"] for r in same)
    return means


def ood_markdown(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """The means as a Markdown table: a row for each score, a column for each head."""
    scores = next(iter(summary.values()))
    sets = " / ".join(next(iter(scores.values())))
    lines = [f"AUROC, {sets}", "", "| score | " + " | ".join(summary) + " |", "|---" * (len(summary) + 1) + "|"]
    for score in scores:
        cells = [" / ".join(f"{value:.4f}" for value in by_score[score].values()) for by_score in summary.values()]
        lines.append(f"| {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- metrics of a stream ----


def stream(arguments: argparse.Namespace) -> dict[str, Any]:
    """Predict and judge batch after batch; what was measured and what it came to."""
    torch.manual_seed(0)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=64, num_labels=arguments.classes)).eval()
    with torch.no_grad():  # an untrained layer is unsure of everything; these are as sure as a trained one, about .7
        layer.raw_loadings.copy_(40 * (layer.raw_loadings / layer.raw_loadings.amax()) ** 3 / 10**0.5)
        for raw in (layer.score_concentration.bias, layer.loading_concentration):
            assert isinstance(raw, Tensor)
            raw.fill_(60.0)
    generator = torch.Generator().manual_seed(1)
    metrics, seconds = StreamingMetrics(), {"predict": 0.0, "update": 0.0}
    starts = range(0, arguments.rows, arguments.batch_size)
    before, started = None, time.perf_counter()
    for start in tqdm(starts, desc="Batches", disable=arguments.quiet):
        count = min(arguments.batch_size, arguments.rows - start)
        began = time.process_time()
        prediction = layer.predict(torch.rand(count, 64, generator=generator) ** 4)
        # Labels drawn from the probabilities: a calibrated model, so that the figures can be checked by eye.
        labels = torch.multinomial(prediction.probs, 1, generator=generator).squeeze(1)
        predicted = time.process_time()
        correct = prediction.predicted_labels == labels
        counts = pavpu_from_p_value(prediction.p_value, correct, num_samples=layer.config.num_samples)
        metrics.update(prediction.probs, labels, counts=counts, scores=ood_scores(prediction))
        seconds["predict"] += predicted - began
        seconds["update"] += time.process_time() - predicted
        before = peak_mib() if before is None else before
    began = time.process_time()
    figures = metrics.compute()
    seconds["compute"] = time.process_time() - began
    return {
        "command": command(arguments),
        "rows": arguments.rows,
        "classes": arguments.classes,
        "batch_size": arguments.batch_size,
        "cpu_seconds": seconds,  # of this process: a busy machine does not change them much
        "wall_seconds": time.perf_counter() - started,
        "rows_per_cpu_second_judged": arguments.rows / (seconds["update"] + seconds["compute"]),
        "peak_mib_after_first_batch": before,
        "peak_mib": peak_mib(),
        "accumulator_mib": len(pickle.dumps(metrics)) / 2**20,
        "probabilities_would_take_mib": arguments.rows * arguments.classes * 4 / 2**20,
        "figures": figures,
        "environment": describe_environment(),
    }


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# ---- the command line ----


def command(arguments: argparse.Namespace) -> str:
    """How this was run, for the result file."""
    return f"python {recorded_command('scripts/benchmarks/uncertainty.py', arguments.argv)}"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; every flag explained by --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    settings = commands.add_parser("pavpu", help="PAvPU against S, test and values", formatter_class=HelpFormatter)
    settings.add_argument("--samples", nargs="+", type=int, default=[5, 20, 100, 1000], help="S, numbers of draws")
    outsiders = commands.add_parser("ood", help="out-of-distribution scores", formatter_class=HelpFormatter)
    outsiders.add_argument("--choose", action="store_true", help="judge on the choosing rows: for trying things out")
    for subparser, heads in ((settings, ["bndl", "released"]), (outsiders, ["bndl", "released", "dense"])):
        subparser.add_argument(
            "--features", required=True, help="features file, see benchmarks/heads.py features --help"
        )
        subparser.add_argument("--heads", nargs="+", choices=list(HEADS), default=heads)
        subparser.add_argument("--seeds", nargs="+", type=int, default=[0])
        subparser.add_argument("--epochs", type=float, help="passes over the images, instead of each head's own")

    streaming = commands.add_parser("streaming", help="metrics of a stream", formatter_class=HelpFormatter)
    streaming.add_argument("--rows", type=int, default=1_000_000, help="images")
    streaming.add_argument("--classes", type=int, default=1000)
    streaming.add_argument("--batch_size", type=int, default=1000, help="images at a time")

    for subparser in (settings, outsiders, streaming):
        subparser.add_argument("--output", required=True, help="JSON file to write")
        subparser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    if getattr(arguments, "epochs", None) is None:
        arguments.training = {}
    else:
        arguments.training = {"num_train_epochs": arguments.epochs}
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for and write its result file."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    results = {"pavpu": pavpu_table, "ood": ood_table, "streaming": stream}[arguments.command](arguments)
    write_json(arguments.output, results)
    if arguments.command == "pavpu":
        print(table(results["summary"]))
    elif arguments.command == "ood":
        print(ood_markdown(results["summary"]))
    else:
        size, seconds = f"{results['rows']:,} x {results['classes']:,}", results["cpu_seconds"]["update"]
        first, peak = results["peak_mib_after_first_batch"], results["peak_mib"]
        print(f"{size} judged in {seconds:.0f} CPU seconds; peak {peak:.0f} MiB, {first:.0f} MiB after the first batch")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
