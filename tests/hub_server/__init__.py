"""A small Hugging Face Hub on this machine, so that tests talk with the real client over real HTTP.

    with HubServer() as hub:
        hub.add_user("alice", token="hf_alice")
        api = HfApi(endpoint=hub.url, token="hf_alice")

Repositories, branches, tags, pull requests, LFS uploads and downloads with ranges; who may do what; and on request
every failure a network has (faults.py). `snapshot` is what a test compares to say that the remote is as it was.
"""

from __future__ import annotations

import copy
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hub_server.faults import Fault, Faults
from hub_server.handler import Handler
from hub_server.store import Repo, Store


class HubServer:
    """A Hub that lives in memory, on a free port, until the block ends."""

    def __init__(self) -> None:
        self.store = Store()
        self.faults = Faults()
        self.requests: list[dict[str, Any]] = []
        self.is_closed = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # the handler finds its Hub here
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}"  # large files are served by another host
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering: new connections are refused from now on, and those kept alive are hung up."""
        self.is_closed = True
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def add_user(self, name: str, token: str, organisations: tuple[str, ...] = ()) -> None:
        """Somebody with a write token for their own namespace and for their organisations'."""
        self.store.users[token] = (name, (name, *organisations))

    def environment(self, token: str | None, home: Path) -> dict[str, str]:
        """Environment variables that make a process talk to this Hub and keep everything below `home`."""
        login = {} if token is None else {"HF_TOKEN": token}
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **login,
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Contents of every file at a revision."""
        repo = self.store.repos[repo_id]
        return {path: entry.content for path, entry in repo.commits[repo.resolve(revision)].files.items()}

    def snapshot(self, repo_id: str) -> Any:
        """All that can be seen of a repository, to be compared; None where there is none."""
        repo = self.store.repos.get(repo_id)
        if repo is None:
            return None
        commits = {
            c.oid: (c.title, c.parent, {p: e.content for p, e in c.files.items()}) for c in repo.commits.values()
        }
        return {"private": repo.private, "refs": dict(repo.refs), "commits": commits}

    def keep(self, repo_id: str) -> Repo | None:
        """A repository as it is now, for `put_back`; None where there is none."""
        return copy.deepcopy(self.store.repos.get(repo_id))

    def put_back(self, repo_id: str, kept: Repo | None) -> None:
        """Make a repository what it was, or not be there, and forget the large files uploaded since."""
        self.store.repos.pop(repo_id, None)
        if kept is not None:
            self.store.repos[repo_id] = copy.deepcopy(kept)
        self.forget_blobs()

    def forget_blobs(self) -> None:
        """Large files uploaded so far have to be uploaded again."""
        self.store.blobs.clear()

    def fail(self, status: int, path_contains: str = "", method: str | None = None, times: int = 1) -> None:
        """Answer the next `times` matching requests with `status` instead of doing anything."""
        self.faults.add(Fault(status), path_contains, method, times)

    def hide(self, path_contains: str, code: str) -> None:
        """Answer the next matching request with 404 and one of the Hub's own error codes."""
        self.faults.add(Fault(404, code=code), path_contains, None, 1)

    def cut(self, direction: str, path_contains: str = "", method: str | None = None, times: int = 1) -> None:
        """Close the connection on the next `times` matching requests.

        Args:
            direction: "request" closes before the request is read to its end, "response" in the middle of the answer,
                after the request has done its work.
            path_contains, method, times: which requests, and how many of them.
        """
        self.faults.add(Fault(None, direction), path_contains, method, times)

    def fault_at(self, n: int, fault: int | str, times: int = 1) -> None:
        """Let the n-th request from now (the first is 1), and its repetitions up to `times`, meet a fault.

        Args:
            n: which request, not counting repetitions of one that failed.
            fault: a status, "cut request" or "cut response".
            times: how often it fails before it works.
        """
        made = Fault(None, fault.split()[1]) if isinstance(fault, str) else Fault(fault)
        self.faults.schedule(n, made, times)

    def clear_faults(self) -> None:
        """From now on everything works again."""
        self.faults.clear()
