"""Processes of their own for training runs and scripts, forked from one that has imported everything already."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
SERVER = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from training import runs; runs.serve()"


@dataclass
class Job:
    """A running process; `log` is everything it prints."""

    server: "JobServer"
    pid: int
    log_file: Path
    _status: int | None = None

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def send(self, signal_number: int) -> None:
        os.kill(self.pid, signal_number)

    def wait(self) -> int:
        """Exit status; minus the number of the signal that killed it."""
        if self._status is None:
            self._status = int(self.server.ask({"wait": self.pid}))
        return self._status

    def has_ended(self) -> bool:
        """Whether `wait` would answer at once."""
        if self._status is None and (answer := self.server.ask({"wait": self.pid, "now": True})) != "running":
            self._status = int(answer)
        return self._status is not None


class JobServer:
    """Starts jobs of runs.py, each in a fresh process; see `training.runs.serve`."""

    def __init__(self, folder: Path) -> None:
        # Another hash seed than this process has: nothing may depend on it.
        environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def start(self, job: str, environment: Mapping[str, str] | None = None, **arguments: Any) -> Job:
        """Start a job of runs.py; `environment` comes on top of the server's, after the imports."""
        self._count += 1
        log = self._folder / f"{self._count}.log"
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        streams = {"stdout": str(log), "stderr": str(log)}
        request = {"job": job, "arguments": arguments, "environment": dict(environment or {}), **streams}
        return Job(self, int(self.ask(request)), log)

    def start_script(
        self, script: Path, *argv: Any, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Job:
        """`python script argv`, its two streams in one log."""
        where = str(cwd or Path.cwd())
        return self.start("script", environment, path=script, argv=[str(word) for word in argv], cwd=where)

    def start_two(self, job: str, **arguments: Any) -> list[Job]:
        """The job as both processes of a group, with the variables that torchrun sets."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = ({**group, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1"))
        return [self.start(job, environment, **arguments) for environment in ranks]

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


def wait_for_both(ranks: list[Job]) -> None:
    """Until both processes of a group have ended well; where one fails the other would wait for it in vain."""
    while not all([rank.has_ended() for rank in ranks]):
        if any(rank.has_ended() and rank.wait() for rank in ranks):
            for rank in ranks:
                if not rank.has_ended():
                    rank.send(signal.SIGKILL)
        time.sleep(0.01)
    assert [rank.wait() for rank in ranks] == [0, 0], "\n".join(rank.log for rank in ranks)


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()
