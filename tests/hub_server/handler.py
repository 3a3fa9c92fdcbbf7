"""The endpoints: what the client asks, and what the Hub answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_server.store import Entry, Refused, Repo

_LOCK = threading.RLock()
_LFS_THRESHOLD = 100_000  # bytes; the real Hub's is 10 MB
_KIND = "(?P<kind>models|datasets|spaces)"
_ID = r"(?P<id>[^/]+/[^/]+?)"
_API = rf"^/api/{_KIND}/{_ID}"
ROUTES: list[tuple[str, str, str]] = [  # method, pattern of the path, name of the answering method
    ("GET", r"^/api/whoami-v2$", "whoami"),
    ("POST", r"^/api/validate-yaml$", "validate_yaml"),
    ("POST", r"^/api/repos/create$", "create_repo"),
    ("DELETE", r"^/api/repos/delete$", "delete_repo"),
    ("POST", rf"{_API}/preupload/(?P<rev>.+)$", "preupload"),
    ("POST", rf"{_API}/commit/(?P<rev>.+)$", "commit"),
    ("POST", rf"{_API}/paths-info/(?P<rev>[^/]+)$", "paths_info"),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?$", "tree"),
    ("GET", rf"{_API}/revision/(?P<rev>.+)$", "info"),
    ("GET", rf"{_API}/refs$", "refs"),
    ("GET", rf"{_API}/commits/(?P<rev>.+)$", "commits"),
    ("POST", rf"{_API}/(?P<what>branch|tag)/(?P<rev>.+)$", "create_ref"),
    ("DELETE", rf"{_API}/(?P<what>branch|tag)/(?P<rev>.+)$", "delete_ref"),
    ("GET", rf"{_API}$", "info"),
    ("POST", rf"^/(?:(?P<kind>datasets|spaces)/)?{_ID}\.git/info/lfs/objects/batch$", "lfs_batch"),
    ("PUT", r"^/lfs/(?P<oid>\w+)$", "lfs_upload"),
    ("GET", r"^/lfs/(?P<oid>\w+)$", "lfs_download"),
    ("POST", r"^/lfs/(?P<oid>\w+)/verify$", "lfs_verify"),
    ("GET", rf"^/(?:(?P<kind>datasets|spaces)/)?{_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)$", "resolve"),
]


class Handler(BaseHTTPRequestHandler):
    """One request after another, kept alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; 40 ms a request otherwise

    def handle_any(self) -> None:
        """Answer a request, or let it meet its fault."""
        hub = self.server.hub
        if hub.is_closed:
            return self._hang_up()
        fault = hub.faults.next(self.command, self.path)
        if fault is not None and fault.cut == "request":
            self._log("cut request")
            return self._hang_up()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._read_chunks()
        if fault is not None and fault.status is not None:
            headers = {"Retry-After": "0", **({"X-Error-Code": fault.code} if fault.code else {})}
            return self._send(fault.status, {"error": f"status {fault.status} on purpose"}, headers)
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.body = body
        try:
            status, answer, headers = self._answer(unquote(url.path, errors="strict"), url.path)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **({"X-Error-Code": refused.code} if refused.code else {})}
            status, answer = refused.status, {"error": refused.message}
        self._send(status, answer, headers, cut=fault is not None and fault.cut == "response")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _answer(self, _path: str, raw_path: str) -> tuple[int, Any, dict[str, str]]:
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, name in ROUTES:
            if wanted == method and (match := re.match(pattern, raw_path)):
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                with _LOCK:
                    answer = getattr(self, name)(**parts)
                return answer if isinstance(answer, tuple) else (200, answer, {})
        raise Refused(404, f"no such endpoint: {self.command} {raw_path}")

    # ---- who may do what ----

    def user(self) -> tuple[str, tuple[str, ...]] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.server.hub.store.users:
            raise Refused(401, "Invalid username or password.")
        return self.server.hub.store.users[token]

    def readable(self, repo_id: str) -> Repo:
        """A repository this user may see; hidden ones look as if they were not there."""
        user, repo = self.user(), self.server.hub.store.repos.get(repo_id)
        namespaces = user[1] if user else ()
        if repo is None or (repo.private and repo_id.split("/")[0] not in namespaces):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, repo_id: str) -> Repo:
        repo = self.readable(repo_id)
        self.check_namespace(repo_id.split("/")[0])
        return repo

    def check_namespace(self, namespace: str) -> None:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if namespace not in user[1]:
            raise Refused(403, f"You don't have the rights to create or change a model under the namespace {namespace}")

    # ---- accounts and repositories ----

    def whoami(self) -> Any:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        return {"type": "user", "name": user[0], "orgs": [{"name": name} for name in user[1][1:]], "auth": {}}

    def validate_yaml(self) -> Any:
        return {"errors": [], "warnings": []}

    def create_repo(self) -> Any:
        wanted = json.loads(self.body)
        user = self.user()
        namespace = wanted.get("organization") or (user[0] if user else "")
        self.check_namespace(namespace)
        repo_id = f"{namespace}/{wanted['name']}"
        url = f"{self.server.hub.url}/{repo_id}"
        if repo_id in self.server.hub.store.repos:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        private = bool(wanted.get("private") or wanted.get("visibility") == "private")
        self.server.hub.store.create(repo_id, wanted.get("type") or "model", private)
        return {"url": url, "name": repo_id, "id": repo_id}

    def delete_repo(self) -> Any:
        wanted = json.loads(self.body)
        namespace = wanted.get("organization") or (self.user() or ("",))[0]
        self.writable(f"{namespace}/{wanted['name']}")
        del self.server.hub.store.repos[f"{namespace}/{wanted['name']}"]
        return {}

    def info(self, kind: str, id: str, rev: str = "main") -> Any:
        repo = self.readable(id)
        commit = repo.commits[repo.resolve(rev)]
        siblings = []
        for path, entry in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if self.query.get("blobs"):
                found = entry.describe(path)
                siblings[-1].update(size=found["size"], blobId=found["oid"])
                if entry.is_lfs:
                    siblings[-1]["lfs"] = {"sha256": entry.sha256, "size": found["size"], "pointerSize": 130}
        found = {"_id": "0", "id": id, "modelId": id, "sha": commit.oid, "private": repo.private, "gated": False}
        return {**found, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "disabled": False}

    def refs(self, kind: str, id: str) -> Any:
        repo = self.readable(id)

        def below(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                for ref, oid in repo.refs.items()
                if ref.startswith(prefix)
            ]

        found = {"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": []}
        return {**found, "pullRequests": below("refs/pr/")} if self.query.get("include_prs") else found

    def commits(self, kind: str, id: str, rev: str) -> Any:
        return [
            {"id": c.oid, "title": c.title, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            for c in self.readable(id).history(rev)
        ]

    def create_ref(self, kind: str, id: str, what: str, rev: str) -> Any:
        repo = self.writable(id)
        wanted = json.loads(self.body or b"{}")
        name = f"refs/heads/{rev}" if what == "branch" else f"refs/tags/{wanted['tag']}"
        start = wanted.get("startingPoint") or "main" if what == "branch" else rev
        if name in repo.refs:
            raise Refused(409, f"Reference {name} exists already")
        repo.refs[name] = repo.resolve(start)
        return {}

    def delete_ref(self, kind: str, id: str, what: str, rev: str) -> Any:
        repo = self.writable(id)
        name = f"refs/{'heads' if what == 'branch' else 'tags'}/{rev}"
        if name not in repo.refs:
            raise Refused(404, f"Reference {name} does not exist", "RevisionNotFound")
        del repo.refs[name]
        return {}

    # ---- uploads ----

    def preupload(self, kind: str, id: str, rev: str) -> Any:
        repo = self.readable(id) if self.query.get("create_pr") else self.writable(id)
        if self.user() is None:
            raise Refused(401, "Invalid username or password.")
        there = repo.commits[repo.resolve(rev)].files
        answer = []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["size"] > _LFS_THRESHOLD or file["path"].endswith(".safetensors")
            entry = {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            if file["path"] in there:
                entry["oid"] = there[file["path"]].etag
            answer.append(entry)
        return {"files": answer}

    def lfs_batch(self, id: str, kind: str = "models") -> Any:
        self.readable(id)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.hub.store.blobs:
                address = f"{self.server.hub.url}/lfs/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "what arrived is not what was announced")
        self.server.hub.store.blobs[oid] = self.body
        return {}

    def lfs_verify(self, oid: str) -> Any:
        if oid not in self.server.hub.store.blobs:
            raise Refused(404, "no such object")
        return {}

    def commit(self, kind: str, id: str, rev: str) -> Any:
        is_pr = bool(self.query.get("create_pr"))
        repo = self.readable(id) if is_pr else self.writable(id)
        if self.user() is None:
            raise Refused(401, "Invalid username or password.")
        parent = repo.resolve(rev)
        files, title = dict(repo.commits[parent].files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[value["path"]] = Entry(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.server.hub.store.blobs:
                    raise Refused(
                        400, "Your push was rejected because an LFS pointer points to a file that is not there"
                    )
                files[value["path"]] = Entry(self.server.hub.store.blobs[value["oid"]], True)
            elif operation["key"] == "deletedFile":
                if value["path"] not in files:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[value["path"]]
            else:
                raise Refused(400, f"unknown operation {operation['key']}")
        if is_pr:
            ref = repo.new_pull_request()
        elif rev.startswith("refs/"):
            ref = rev
        else:
            ref = f"refs/heads/{rev}"
            if ref not in repo.refs:
                raise Refused(400, f"{rev} is not a branch")
        made = self.server.hub.store.commit(repo, ref, parent, title, files)
        url = f"{self.server.hub.url}/{id}"
        answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}", "hookOutput": ""}
        if is_pr:
            answer["pullRequestUrl"] = f"{url}/discussions/{ref.split('/')[-1]}"
        return answer

    # ---- downloads ----

    def tree(self, kind: str, id: str, rev: str, path: str = "") -> Any:
        repo = self.readable(id)
        files = repo.commits[repo.resolve(rev)].files
        prefix = f"{path}/" if path else ""
        inside = {name: entry for name, entry in files.items() if name.startswith(prefix)}
        if path and not inside:
            raise Refused(404, f"{path} does not exist on {rev}", "EntryNotFound")
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        answer, folders = [], set()
        for name, entry in sorted(inside.items()):
            rest = name[len(prefix) :]
            for depth in range(1, rest.count("/") + 1 if recursive else min(1, rest.count("/")) + 1):
                folders.add(prefix + "/".join(rest.split("/")[:depth]))
            if recursive or "/" not in rest:
                answer.append(entry.describe(name))
        return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)] + answer

    def paths_info(self, kind: str, id: str, rev: str) -> Any:
        repo = self.readable(id)
        files = repo.commits[repo.resolve(rev)].files
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        wanted = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return [files[path].describe(path) for path in wanted if path in files]

    def resolve(self, id: str, rev: str, path: str, kind: str = "models") -> Any:
        repo = self.readable(id)
        commit = repo.commits[repo.resolve(rev)]
        entry = commit.files.get(path)
        if entry is None:
            raise Refused(404, f"{path} does not exist on {rev}", "EntryNotFound")
        headers = {"ETag": f'"{entry.etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if entry.is_lfs:
            headers.update({"X-Linked-Size": str(len(entry.content)), "X-Linked-ETag": f'"{entry.sha256}"'})
            return 302, b"", {**headers, "Location": f"{self.server.hub.cdn}/lfs/{entry.sha256}"}
        return self._range(entry.content, headers)

    def lfs_download(self, oid: str) -> Any:
        return self._range(self.server.hub.store.blobs[oid], {"Accept-Ranges": "bytes"})

    def _range(self, content: bytes, headers: dict[str, str]) -> Any:
        if match := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or ""):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return 206, content[first : last + 1], headers
        return 200, content, headers

    # ---- on the wire ----

    def _send(self, status: int, answer: Any, headers: dict[str, str], cut: bool = False) -> None:
        self._log("cut response" if cut else status)
        is_raw = isinstance(answer, bytes)
        content = answer if is_raw else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if is_raw else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            return self._hang_up()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _log(self, outcome: int | str) -> None:
        self.server.hub.requests.append({"method": self.command, "path": self.path, "outcome": outcome})

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
