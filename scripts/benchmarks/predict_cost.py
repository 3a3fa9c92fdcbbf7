"""What an exact prediction costs beside the plain classifier it replaces: ViT-B/16 with random weights, paired.

    python scripts/benchmarks/predict_cost.py --classes 1000 --threads 2

Plain and BNDL forwards alternate in one process, unpruned and pruned to a tenth; the table has medians of seconds of
wall clock and of processor time, and the median of the paired ratios. Read predict.py for many heads and devices.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import HfArgumentParser, ViTConfig, ViTForImageClassification

from bndl_hf import BNDLForImageClassification
from bndl_hf.utils.command_line import HelpFormatter, run


@dataclass
class Arguments:
    """How large, how often."""

    classes: int = field(default=1000, metadata={"help": "C."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8], metadata={"help": "Images a forward."})
    threads: int = field(default=2, metadata={"help": "Threads of torch."})
    repeats: int = field(default=15, metadata={"help": "Pairs a row."})


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall clock and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = ViTConfig()
    config.num_labels = arguments.classes
    plain = ViTForImageClassification(config).eval()
    model = BNDLForImageClassification.from_backbone_pretrained(ViTForImageClassification(config)).eval()
    print("| loadings | images | plain | predict | ratio | processor ratio |\n|---|---|---|---|---|---|")
    for density in (1.0, 0.1):
        model.decision_layer.prune_smallest(density)
        for B in arguments.batch_sizes:
            images = torch.randn(B, 3, 224, 224)
            pairs = [
                (seconds(partial(plain, images)), seconds(partial(model.predict, images)))
                for _ in range(arguments.repeats + 1)
            ][1:]  # the first pair warms up
            walls = [statistics.median(pair[i][0] for pair in pairs) for i in (0, 1)]
            ratios = [statistics.median(pair[1][j] / pair[0][j] for pair in pairs) for j in (0, 1)]
            print(f"| {density:.0%} | {B} | {walls[0]:.4f} | {walls[1]:.4f} | {ratios[0]:.4f} | {ratios[1]:.4f} |")


if __name__ == "__main__":
    run(main)
