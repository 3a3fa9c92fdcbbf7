r"""What a server of a published model takes: hostile files, 200 requests at once, and memory after them.

    python scripts/benchmarks/serving.py --model_name_or_path outputs/mine --output docs/results/serving.json

The folder is that of a model and its processor; it is published to a temporary folder as `push_to_hub` would. The
handler runs in a process without this package's code on the way (handler_process.py), the Space as `app.py` of
`space_files`. Memory is that of the process, in MiB: resident now, and the most there was during a request. It needs
Linux, and the Space the extra `space`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from bndl_hf import BNDLForImageClassification
from bndl_hf.hub.contents import write_contents
from bndl_hf.hub.space import space_files
from bndl_hf.utils.command_line import run
from common import Arguments, parse, table, write_result
from hostile_images import Sent, hostile_images, odd_images


@dataclass(kw_only=True)
class ServingArguments(Arguments):
    """Of which model, with how many requests."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a BNDL model with its processor."})
    rounds: int = field(default=5, metadata={"help": "Rounds of 200 requests at once."})
    threads: int = field(default=200, metadata={"help": "Requests under way at a time, at the handler."})
    space: bool = field(default=True, metadata={"help": "Measure the Gradio Space too."})
    output: str = field(default="outputs/bench/serving.json", metadata={"help": "JSON file to write."})


def outcome(sent: Sent, answered: bool, message: str) -> str:
    """ "answered", "refused", or what went wrong."""
    if sent.says is None:
        return "answered" if answered else f"wrongly refused: {message}"
    if answered:
        return "wrongly answered"
    return "refused" if re.search(sent.says, message) else f"refused otherwise: {message}"


def of_handler(arguments: ServingArguments, folder: Path, sent: dict[str, Sent]) -> dict[str, Any]:
    """The handler alone: every file once, then rounds of 200."""
    requests = folder.parent / "requests.json"
    requests.write_text(
        json.dumps({name: {"inputs": base64.b64encode(one.data).decode()} for name, one in sent.items()})
    )
    script = Path(__file__).with_name("handler_process.py")
    command = [sys.executable, script, folder, requests, arguments.rounds, arguments.threads]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"The handler's process ended: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    files = [
        {
            "file": name,
            "outcome": outcome(one, "answer" in found["alone"][name], found["alone"][name].get("error", "")),
            "ms": round(1000 * found["alone"][name]["seconds"], 1),
            "extra_mib": round(found["alone"][name]["extra_mib"], 1),
        }
        for name, one in sent.items()
    ]
    rounds = [{name: round(value, 1) for name, value in one.items() if name != "labels"} for one in found["rounds"]]
    same = all(one["labels"] == found["rounds"][0]["labels"] for one in found["rounds"])
    return {"files": files, "rounds": rounds, "same_labels_in_every_round": same}


@contextmanager
def running_space(folder: Path, model: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of a Space."""
    for name, content in space_files("alice/model").items():
        (folder / name).write_bytes(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "BNDL_MODEL": str(model), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise OSError(f"The Space ended: {(folder / 'log.txt').read_text().strip().splitlines()[-1]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """MiB of a process now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def of_space(arguments: ServingArguments, folder: Path, sent: dict[str, Sent]) -> dict[str, Any]:
    """The Space through its API: every file once, then rounds of 200 with 50 under way."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    place = folder.parent / "space"
    place.mkdir()
    paths = {}
    for number, (name, one) in enumerate(sent.items()):
        paths[name] = place / f"{number}-{one.name}"
        paths[name].write_bytes(one.data)
    with running_space(place, folder) as (address, pid):
        client = Client(address, verbose=False)

        def ask(name: str) -> tuple[bool, str]:
            try:
                return True, client.predict(handle_file(str(paths[name])), api_name="/answer")["label"]
            except AppError as error:
                return False, str(error)

        names = [name for name, one in sent.items() if len(one.data) < 20 * 2**20]  # Gradio refuses larger uploads
        files = []
        for name in names:
            before = resident(pid)
            outcome_of = outcome(sent[name], *ask(name))
            files.append({"file": name, "outcome": outcome_of, "kept_mib": round(resident(pid) - before, 1)})
        good = [name for name in names if sent[name].says is None]
        rounds = []
        with ThreadPoolExecutor(50) as pool:
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                results = list(pool.map(ask, [good[i % len(good)] for i in range(200)]))
                seconds = round(time.perf_counter() - started, 1)
                rounds.append(
                    {"seconds": seconds, "answered": sum(ok for ok, _ in results), "mib_after": resident(pid)}
                )
    return {"files": files, "rounds": rounds}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, serve, print."""
    arguments = parse(ServingArguments, __doc__, argv)
    sent = {**odd_images(), **hostile_images()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        model = BNDLForImageClassification.from_pretrained(arguments.model_name_or_path)
        processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
        write_contents(folder, model, processor, repo_id="alice/model")
        results = {"handler": of_handler(arguments, folder, sent)}
        if arguments.space:
            results["space"] = of_space(arguments, folder, sent)
    backbone = str(model.config.backbone_config.model_type)
    write_result(arguments, {"backbone": backbone, "num_labels": model.config.num_labels, **results})
    for name, result in results.items():
        print(f"\n{name}")
        print(table(result["files"]))
        print(table(result["rounds"]))


if __name__ == "__main__":
    run(main)
