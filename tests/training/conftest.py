"""Processes of their own for whole training runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import runs


@dataclass
class Job:
    """A running process; `log` is everything it prints."""

    server: "JobServer"
    pid: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def send(self, signal_number: int) -> None:
        os.kill(self.pid, signal_number)

    def wait(self) -> int:
        """Exit status; minus the number of the signal that killed it."""
        return int(self.server.ask({"wait": self.pid}))


class JobServer:
    """Starts jobs of runs.py, each in a fresh process; see `runs.serve`."""

    def __init__(self, folder: Path) -> None:
        # Another hash seed than this process has: nothing may depend on it.
        environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, runs.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def start(self, job: str, **arguments: Any) -> Job:
        self._count += 1
        log = self._folder / f"{self._count}.log"
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        return Job(self, int(self.ask({"job": job, "arguments": arguments, "log": str(log)})), log)

    def run(self, job: str, **arguments: Any) -> Job:
        """Start and wait; a failure fails the test with the log."""
        process = self.start(job, **arguments)
        status = process.wait()
        assert status == 0, f"{job} ended with {status}:\n{process.log}"
        return process

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()
