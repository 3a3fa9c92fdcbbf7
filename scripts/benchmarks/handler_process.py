"""A process that serves one checkpoint by the handler that lies in it, as an Inference Endpoint does; see serving.py.

    python handler_process.py FOLDER REQUESTS.json ROUNDS THREADS

REQUESTS.json maps names to requests. Each is sent once alone, then those that were answered are sent by THREADS threads
in rounds of 200. Prints one JSON object. It does not import this package: the checkpoint brings all it needs.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

A_ROUND = 200  # requests


def mebibytes(what: str) -> float:
    """Memory of this process by one line of /proc/self/status: VmRSS now, VmHWM the most since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {what}; this measurement needs Linux.")


def load_handler(folder: Path) -> Any:
    """The handler of a checkpoint, imported from its folder."""
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def main() -> None:
    """Serve, measure, print."""
    torch.set_num_threads(1)
    folder, requests, rounds, threads = sys.argv[1:]
    handler = load_handler(Path(folder))

    def ask(data: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            result: dict[str, Any] = {"answer": handler(data)}
        except ValueError as error:  # becomes status 400 and its text
            result = {"error": str(error)}
        return {**result, "seconds": time.perf_counter() - started}

    sent = json.loads(Path(requests).read_text())
    alone = {}
    for name, data in sent.items():
        before = mebibytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        alone[name] = {**ask(data), "extra_mib": mebibytes("VmHWM") - before}
    good = [sent[name] for name, result in alone.items() if "answer" in result]
    found = []
    with ThreadPoolExecutor(int(threads)) as pool:
        for _ in range(int(rounds)):
            Path("/proc/self/clear_refs").write_text("5")
            started = time.perf_counter()
            results = list(pool.map(ask, [good[i % len(good)] for i in range(A_ROUND)]))
            found.append(
                {
                    "seconds": time.perf_counter() - started,
                    "answered": sum("answer" in result for result in results),
                    "labels": [result["answer"]["label"] for result in results if "answer" in result],
                    "mib_after": mebibytes("VmRSS"),
                    "peak_mib": mebibytes("VmHWM"),
                }
            )
    modules = sorted(name for name in sys.modules if name.split(".")[0] == "bndl_hf")
    json.dump({"alone": alone, "rounds": found, "package_modules": modules}, sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
