"""What a page that answers in the browser costs its reader: bytes, seconds until it is ready, seconds to an answer.

    python scripts/benchmarks/page.py --models MODEL ... --output docs/results/page.json

Each model is exported twice, as a folder served on this machine and as one file, and opened in headless Chromium in a
new profile each time. "Ready" counts from the start of the navigation until the model has been loaded and warmed up,
"first answer" from the first image given to its answer, decoding and resizing included. Medians. A download at the
speed of a network is not part of it: sizes are. A model is a BNDL checkpoint, or a classifier that is warm-started.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor

from bndl_hf import BNDLForImageClassification
from bndl_hf.export import export_page
from bndl_hf.utils.command_line import run
from common import Arguments, parse, table, write_result

_PATIENCE = 60  # seconds for a page


@dataclass(kw_only=True)
class PageArguments(Arguments):
    """Which models, how often."""

    models: list[str] = field(metadata={"help": "Folders or Hub ids of BNDL models, or of image classifiers."})
    half: bool = field(default=False, metadata={"help": "Store weights as float16."})
    repeats: int = field(default=5, metadata={"help": "Visits to each page."})
    output: str = field(default="outputs/bench/page.json", metadata={"help": "JSON file to write."})


def load(name: str) -> tuple[BNDLForImageClassification, Any]:
    """A model in evaluation mode, and its image processor."""
    if AutoConfig.from_pretrained(name).model_type == "bndl":
        model = BNDLForImageClassification.from_pretrained(name)
    else:
        model = BNDLForImageClassification.from_backbone_pretrained(name, warm_start=True)
    return model.eval(), AutoImageProcessor.from_pretrained(name)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server of `folder`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def visit(browser: Any, address: str, image: Path) -> dict[str, float]:
    """Seconds of one visit in a new profile."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)

    def said(name: str) -> float:
        end = time.monotonic() + _PATIENCE
        while (value := page.evaluate(f"document.documentElement.dataset.{name} ?? null")) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{address} has no {name} after {_PATIENCE} s: {page.inner_text('#status')}")
            time.sleep(0.05)
        return float(value) / 1000

    ready = said("ready")
    page.set_input_files("#file", str(image))
    answer = said("firstAnswer")
    context.close()
    return {"ready": ready, "first_answer": answer}


def measure(browser: Any, name: str, image: Path, arguments: PageArguments) -> dict[str, Any]:
    """Bytes and medians of both kinds of page of one model."""
    model, processor = load(name)
    found: dict[str, Any] = {"model": Path(name).name}
    with tempfile.TemporaryDirectory() as folder:
        for kind, is_single in (("folder", False), ("file", True)):
            path = Path(folder) / ("page.html" if is_single else "page")
            page = export_page(model, processor, [], path, single_file=is_single, half=arguments.half)
            if not page.is_runtime_embedded:
                raise ValueError(
                    "The page would load its runtime from a CDN, which is not what is measured; see above."
                )
            with served(path if not is_single else path.parent) as address:
                target = path.as_uri() if is_single else address
                visits = [visit(browser, target, image) for _ in range(arguments.repeats)]
            found["image_size"] = list(page.onnx.image_size)
            seconds = {key: statistics.median(one[key] for one in visits) for key in visits[0]}
            found[kind] = {"bytes": page.size, "model_bytes": page.onnx.size, "seconds": seconds}
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    arguments = parse(PageArguments, __doc__, argv)
    from playwright.sync_api import sync_playwright

    torch.set_num_threads(1)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise ValueError("There is no chromium on this machine; install it.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tools:
        image = Path(folder) / "photograph.jpg"
        rough = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((1200, 900), Image.Resampling.BICUBIC).save(image, quality=90)
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        version = browser.version
        runs = [measure(browser, name, image, arguments) for name in arguments.models]
        browser.close()
    settings = {"repeats": arguments.repeats, "half": arguments.half, "chromium": version, "image": [900, 1200]}
    write_result(arguments, {"settings": settings, "runs": runs})
    print(table([row for found in runs for row in _rows(found)]))
    print(f"\nWritten to {arguments.output}")


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each kind of page of a model."""
    return [
        {
            "model": found["model"],
            "page": kind,
            "megabytes": round(found[kind]["bytes"] / 1e6, 1),
            "ready_s": round(found[kind]["seconds"]["ready"], 2),
            "first_answer_s": round(found[kind]["seconds"]["first_answer"], 2),
        }
        for kind in ("folder", "file")
    ]


if __name__ == "__main__":
    run(main)
