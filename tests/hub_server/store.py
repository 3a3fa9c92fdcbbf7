"""What the Hub remembers: users, repositories, commits, references and uploaded blobs."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any


class Refused(Exception):
    """A request that is answered with an error: status, message, and the Hub's own error code."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Entry:
    """One file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's name for the blob; of an LFS file, for the pointer that stands in for it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def describe(self, path: str) -> dict[str, Any]:
        """As `tree` and `paths-info` answer."""
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.is_lfs:
            found["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return found


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    oid: str
    title: str
    parent: str | None
    files: dict[str, Entry]


@dataclass
class Repo:
    """Commits and the references that name them: branches, tags, pull requests."""

    repo_id: str
    kind: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "refs/heads/main" -> commit

    def resolve(self, revision: str) -> str:
        """The commit a branch, tag, pull request or commit id names."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """From the newest commit to the first."""
        found, oid = [], self.resolve(revision)
        while oid is not None:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found

    def new_pull_request(self) -> str:
        number = 1 + sum(name.startswith("refs/pr/") for name in self.refs)
        return f"refs/pr/{number}"


class Store:
    """Everything; callers hold the handler's lock."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[str, tuple[str, ...]]] = {}  # token -> (name, namespaces it may write to)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # by SHA-256, not visible until a commit names them
        self._count = itertools.count()

    def create(self, repo_id: str, kind: str, private: bool) -> Repo:
        repo = self.repos[repo_id] = Repo(repo_id, kind, private)
        first = {".gitattributes": Entry(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)}
        self.commit(repo, "refs/heads/main", None, "initial commit", first)
        return repo

    def commit(self, repo: Repo, ref: str, parent: str | None, title: str, files: dict[str, Entry]) -> Commit:
        """Add a commit and move the reference to it, at once."""
        oid = hashlib.sha1(f"{repo.repo_id} {next(self._count)}".encode()).hexdigest()
        repo.commits[oid] = Commit(oid, title, parent, files)
        repo.refs[ref] = oid
        return repo.commits[oid]
