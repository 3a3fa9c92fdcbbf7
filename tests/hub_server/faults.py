"""What can go wrong on purpose: statuses and cut connections, for matching requests or for the n-th one."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A status to answer with, or (status None) the direction in which the connection is cut."""

    status: int | None
    cut: str = ""
    code: str = ""  # the Hub's own name for what is wrong


class Faults:
    """The faults still to come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._matching: list[list] = []  # [fault, path_contains, method, times left]
        self._scheduled: tuple[int, Fault, int] | None = None
        self._seen: list[tuple[str, str]] = []  # (method, path) of requests since `schedule`, without repetitions
        self._victim: tuple[str, str] | None = None

    def add(self, fault: Fault, path_contains: str, method: str | None, times: int) -> None:
        with self._lock:
            self._matching.append([fault, path_contains, method, times])

    def schedule(self, n: int, fault: Fault, times: int) -> None:
        with self._lock:
            self._scheduled, self._seen, self._victim = (n, fault, times), [], None

    def clear(self) -> None:
        with self._lock:
            self._matching, self._scheduled, self._victim = [], None, None

    def next(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, if any."""
        with self._lock:
            for entry in self._matching:
                fault, contains, only, left = entry
                if left and contains in path and only in (None, method):
                    entry[3] -= 1
                    return fault
            if self._scheduled is None:
                return None
            n, fault, left = self._scheduled
            self._seen.append((method, path))
            is_turn = len(self._seen) == n if self._victim is None else self._victim == (method, path)
            if not is_turn or not left:
                return None
            self._victim = (method, path)
            self._scheduled = (n, fault, left - 1)
            return fault
