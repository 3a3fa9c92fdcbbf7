"""How fast a decision layer is fitted on frozen features, beside the plain dense head: images a second on one thread.

    python scripts/benchmarks/fit_speed.py --output docs/results/fit_speed.json

Features are random: what they hold does not matter for the time. Both heads are trained in turns by
`fit_decision_layer`, once for two epochs and once for a few more; the difference of the two times is that of the epochs
between, without what a training costs once. Processor time leaves out what other programs took of the core.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from bndl_hf import fit_decision_layer
from bndl_hf.baselines import make_head
from bndl_hf.utils.command_line import run
from common import Arguments, parse, table, write_result

HEADS = ("bndl", "dense")
_FEW_EPOCHS = 2  # of the shorter training


@dataclass
class FitSpeedArguments(Arguments):
    """How large, how often."""

    feature_dim: int = field(default=64, metadata={"help": "D."})
    num_labels: int = field(default=10, metadata={"help": "C."})
    num_images: int = field(default=50_000, metadata={"help": "N, the images of an epoch."})
    batch_size: int = field(default=256, metadata={"help": "B, images of a step."})
    epochs: int = field(default=6, metadata={"help": f"Epochs of the longer training, above {_FEW_EPOCHS}."})
    repeats: int = field(default=5, metadata={"help": "Trainings of each length and head."})
    threads: int = field(default=1, metadata={"help": "Threads of torch."})
    output: str = field(default="outputs/bench/fit_speed.json", metadata={"help": "JSON file to write."})

    def __post_init__(self) -> None:
        if self.epochs <= _FEW_EPOCHS or self.repeats < 1:
            raise ValueError(
                f"--epochs {self.epochs} --repeats {self.repeats}: speed is the difference of a training of "
                f"{_FEW_EPOCHS} epochs and a longer one; pass {_FEW_EPOCHS + 1} epochs or more and 1 repeat or more."
            )


def fitting_time(
    head: str, features: torch.Tensor, labels: torch.Tensor, epochs: int, **arguments: Any
) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of one training from the start."""
    layer, training = make_head(head, features.shape[1], int(labels.max()) + 1)
    training.update(arguments, num_train_epochs=epochs)
    wall, processor = time.perf_counter(), time.process_time()
    fit_decision_layer(features, labels, layer.config, layer=layer, **training)
    return time.perf_counter() - wall, time.process_time() - processor


def measure(arguments: FitSpeedArguments) -> list[dict[str, Any]]:
    """Images a second of every repeat and head, by both clocks."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(arguments.num_images, arguments.feature_dim, generator=generator)
    labels = torch.arange(arguments.num_images) % arguments.num_labels
    training = {
        "per_device_train_batch_size": arguments.batch_size,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    between = (arguments.epochs - _FEW_EPOCHS) * arguments.num_images
    runs = []
    for repeat in tqdm(range(arguments.repeats + 1), desc="Trainings", disable=arguments.quiet):
        for head in HEADS:
            short = fitting_time(head, features, labels, _FEW_EPOCHS, **training)
            long = fitting_time(head, features, labels, arguments.epochs, **training)
            wall, processor = (between / (more - less) for more, less in zip(long, short, strict=True))
            figures = {"images_per_second": wall, "images_per_processor_second": processor}
            runs.append({"head": head, "repeat": repeat, **figures, "seconds_of_longer_training": long[0]})
    return [one for one in runs if one["repeat"]]  # the first of all warms up


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the repeats, a row a head."""
    rows = []
    for head in HEADS:
        of_head = [one for one in runs if one["head"] == head]
        figures = [name for name in of_head[0] if name not in ("head", "repeat")]
        rows.append({"head": head, **{name: statistics.median(one[name] for one in of_head) for name in figures}})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    arguments = parse(FitSpeedArguments, __doc__, argv)
    torch.set_num_threads(arguments.threads)
    runs = measure(arguments)
    names = ("feature_dim", "num_labels", "num_images", "batch_size", "epochs", "repeats")
    settings = {name: getattr(arguments, name) for name in names}
    rows = summarise(runs)
    write_result(arguments, {"settings": settings, "medians": rows, "runs": runs})
    print(table(rows))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
