"""One run at a time in an output folder: two would overwrite each other's checkpoints.

The lock is the operating system's (POSIX record locks), so it ends with its process, however that ends; the file only
says whose it is. Where the system has no such locks (Windows) nothing is locked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".training.lock"


@contextmanager
def run_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `folder` while the block runs.

    Raises:
        ValueError: another process trains in it; the sentence says which.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder) / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise ValueError(
                f"{owner} is training in {folder}; two runs there would overwrite each other's checkpoints. Pass "
                "another output_dir, or wait until it has ended."
            ) from error
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its owner removed the file between our opening and locking it
    try:
        file.truncate(0)
        file.write(f"Process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
