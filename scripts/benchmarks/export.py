"""What an exported graph costs and loses: bytes, deviation from the model, milliseconds an image in onnxruntime.

    python scripts/benchmarks/export.py --models MODEL ... --image_sizes 224 ... --output docs/results/export.json

Every classifier is warm-started as a BNDL model and exported twice, with float32 and with half-precision weights, both
checked against `predict`, `explain` and `class_maps` on random images. Times are of one image on one thread, graph
and model (`predict`, `explain` and `class_maps`, or `predict` alone) in turns; medians.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from bndl_hf import BNDLForImageClassification
from bndl_hf.export import export_onnx
from bndl_hf.interpretability import class_maps
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import seconds_taken
from common import Arguments, parse, table, write_result


@dataclass(kw_only=True)
class ExportArguments(Arguments):
    """Which classifiers, how often."""

    models: list[str] = field(metadata={"help": "Hub ids or folders of image classifiers."})
    image_sizes: list[int] = field(metadata={"help": "Side of the images of each, in pixels."})
    repeats: int = field(default=30, metadata={"help": "Timed images of each."})
    output: str = field(default="outputs/bench/export.json", metadata={"help": "JSON file to write."})


def measure(name: str, image_size: int, repeats: int) -> dict[str, Any]:
    """Size, largest deviation and time of both files of one classifier."""
    model = BNDLForImageClassification.from_backbone_pretrained(name, warm_start=True).eval()
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found: dict[str, Any] = {"model": Path(name).name, "image_size": image_size}
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for half in (False, True):
            kind = "half" if half else "full"
            export = export_onnx(model, Path(folder) / f"{kind}.onnx", half=half, image_size=image_size)
            sessions[kind] = onnxruntime.InferenceSession(
                export.path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            found[kind] = {"bytes": export.size, "deviations": export.deviations}

    def everything() -> None:
        model.predict(image), model.explain(image)
        if "class_map" in export.outputs:
            class_maps(model, image)

    calls: dict[str, Callable[[], Any]] = {
        "full": lambda: sessions["full"].run(None, {"pixel_values": image.numpy()}),
        "half": lambda: sessions["half"].run(None, {"pixel_values": image.numpy()}),
        "predict": lambda: model.predict(image),
        "everything": everything,
    }
    for call in calls.values():
        call()  # not counted: first calls allocate
    seconds: dict[str, list[float]] = {kind: [] for kind in calls}
    for _ in range(repeats):
        for kind, call in calls.items():
            seconds[kind].append(seconds_taken(call))
    found["milliseconds"] = {kind: 1000 * statistics.median(values) for kind, values in seconds.items()}
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    arguments = parse(ExportArguments, __doc__, argv)
    if len(arguments.models) != len(arguments.image_sizes):
        raise ValueError(
            f"--models names {len(arguments.models)} classifiers and --image_sizes {len(arguments.image_sizes)} sizes; "
            "give one size for each."
        )
    torch.set_num_threads(1)
    runs = [
        measure(name, size, arguments.repeats)
        for name, size in zip(arguments.models, arguments.image_sizes, strict=True)
    ]
    settings = {"repeats": arguments.repeats, "onnxruntime": onnxruntime.__version__}
    write_result(arguments, {"settings": settings, "runs": runs})
    print(table([row for found in runs for row in _rows(found)]))
    print(f"\nWritten to {arguments.output}")


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each file of a classifier."""
    times = found["milliseconds"]
    return [
        {
            "model": found["model"],
            "weights": kind,
            "megabytes": round(found[kind]["bytes"] / 1e6, 2),
            "deviation_of_probs": f"{found[kind]['deviations']['probs']:.0e}",
            "largest_deviation": f"{max(found[kind]['deviations'].values()):.0e}",
            "graph_ms": round(times[kind], 2),
            "predict_ms": round(times["predict"], 2),
            "everything_ms": round(times["everything"], 2),
        }
        for kind in ("full", "half")
    ]


if __name__ == "__main__":
    run(main)
