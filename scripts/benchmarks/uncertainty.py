r"""What PAvPU does as its settings change, and what a large test set costs.

    python scripts/benchmarks/uncertainty.py pavpu --features FILE --output docs/results/pavpu.json
    python scripts/benchmarks/uncertainty.py streaming --output docs/results/streaming_metrics.json

`pavpu` trains our default and the released head on a features file (see heads.py) and judges the same test images
by PAvPU with S = 5, 20, 100 and 1000 draws, by the exact test, and by its other tests. `streaming` feeds the
predictions of a decision layer with 1,000 classes on 1,000,000 images to `StreamingMetrics` and reports seconds and
peak memory. Read ood.py for scores of out-of-distribution images.
"""

from __future__ import annotations

import pickle
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bndl_hf import BNDLConfig
from bndl_hf.baselines import HEADS, train_head
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.uncertainty import (
    PAvPUCounts,
    StreamingMetrics,
    error_detection_auroc,
    gap_test,
    ood_scores,
    pavpu,
    pavpu_from_p_value,
)
from bndl_hf.utils.command_line import run
from common import Arguments, HeadsArguments, mean_over_seeds, parse_command, table, write_result

HEADS_HELP = {"help": f"Decision layers, of: {', '.join(HEADS)}."}


@dataclass
class PAvPUArguments(HeadsArguments):
    """PAvPU against the number of draws, the test and what is tested."""

    heads: list[str] = field(default_factory=lambda: ["bndl", "released"], metadata=HEADS_HELP)
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of the trainings."})
    samples: list[int] = field(
        default_factory=lambda: [5, 20, 100, 1000], metadata={"help": "Numbers of draws S, from one set of draws."}
    )
    output: str = field(default="outputs/bench/pavpu.json", metadata={"help": "JSON file to write."})


@dataclass
class StreamingArguments(Arguments):
    """Seconds and peak memory of judging a test set batch by batch."""

    rows: int = field(default=1_000_000, metadata={"help": "Images."})
    classes: int = field(default=1000, metadata={"help": "Classes."})
    batch_size: int = field(default=1000, metadata={"help": "Images at a time."})
    output: str = field(default="outputs/bench/streaming_metrics.json", metadata={"help": "JSON file to write."})


# ---- PAvPU against S, test and values ----

SETTINGS = ("head", "test", "values", "num_samples")
FIGURES = ("pavpu", "accuracy", "share_certain", "errors_uncertain", "error_detection_auroc")


def compare_settings(arguments: PAvPUArguments) -> list[dict[str, Any]]:
    """PAvPU of every head and seed at every setting; returns the means over seeds."""
    task = arguments.task()
    rows: list[dict[str, Any]] = []
    for one in tqdm(arguments.head_and_seed(), desc="Runs", disable=arguments.quiet):
        layer = train_head(one["head"], task, one["seed"], **arguments.training())
        rows += [{**one, **row} for row in judge(layer, *task.reporting, one["seed"], arguments.samples)]
    summary = mean_over_seeds(rows, by=SETTINGS, of=FIGURES)
    write_result(arguments, {"settings": arguments.settings(task), "threshold": 0.05, "summary": summary, "runs": rows})
    return summary


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
        "share_certain": certain / counts.num_images,
        "errors_uncertain": counts.inaccurate_uncertain / max(1, int((~correct).sum())),
        "error_detection_auroc": error_detection_auroc(-p_value, correct),
        "accurate_certain": counts.accurate_certain,
        "accurate_uncertain": counts.accurate_uncertain,
        "inaccurate_certain": counts.inaccurate_certain,
        "inaccurate_uncertain": counts.inaccurate_uncertain,
        "num_zero_spread": counts.num_zero_spread,
    }


# ---- metrics of a stream ----


def stream(arguments: StreamingArguments) -> dict[str, Any]:
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
    result = {
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
    }
    write_result(arguments, result)
    return result


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for and write its result file."""
    kinds = {"pavpu": PAvPUArguments, "streaming": StreamingArguments}
    arguments = parse_command(kinds, __doc__, argv)
    if isinstance(arguments, PAvPUArguments):
        print(table(compare_settings(arguments)))
    else:
        found = stream(arguments)
        shown = ("rows", "classes", "peak_mib_after_first_batch", "peak_mib", "accumulator_mib")
        print(table([{"cpu_seconds": found["cpu_seconds"]["update"], **{name: found[name] for name in shown}}]))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
