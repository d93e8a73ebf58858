"""A hub on loopback that takes pushes: repositories, branches and commits in memory.

Paths and answers are those that huggingface_hub 2.4 asks for (hf_api.py, _commit_api.py, lfs.py).
Large files come by Git LFS (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), or by
Xet where `xet` says so (xet_storage.py).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.xet_storage import XetStorage

TOKEN = "hf_a-token-of-the-contract-server"
LARGE = 4000
"""Bytes from which a file is kept by its SHA-256, as weights are."""
Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[str, str], Answer | None]
"""Gives the answer to a method and a path in the place of the right one; may raise to cut off."""


@dataclass
class Commit:
    """A commit: its name, summary, and files."""

    oid: str
    summary: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A model's repository: its branches, each with its newest commit last."""

    private: bool
    branches: dict[str, list[Commit]]

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        every = [commit for commits in self.branches.values() for commit in commits]
        return next((commit for commit in every if commit.oid == revision), None)


@dataclass
class Hub:
    """The state of the server: what it holds, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content, as uploaded."""
    storage: XetStorage = field(default_factory=XetStorage)
    asked: list[str] = field(default_factory=list)
    """METHOD PATH of each request."""
    role: str = "write"
    scoped: list[dict[str, Any]] | None = None
    """What a fine-grained token is for, as the hub tells it."""
    fault: Fault | None = None
    received: int = 0
    """Bytes of files that were uploaded."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }

    def make(self, name: str, files: dict[str, bytes], *, private: bool = True) -> Repository:
        first = Commit(oid_of(name, "0"), "initial commit", {".gitattributes": b""} | files)
        self.repositories[name] = Repository(private, {"main": [first]})
        return self.repositories[name]

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[name].branches[branch][-1].files

    def requests(self, part: str) -> list[str]:
        return [line for line in self.asked if part in line]


def oid_of(*parts: str) -> str:
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self._body()
        try:
            fault = self.hub.fault and self.hub.fault(self.command, path)
            status, headers, text = fault or self.answer(path, body)
        except ConnectionError:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(text))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, path: str, body: bytes) -> Answer:
        hub = self.hub
        if path.startswith("/lfs/"):
            # Signed by itself, as a bucket's URL is.
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                return error(400, "another content")
            hub.objects[oid] = body
            hub.received += len(body)
            return 200, {}, b""
        if path.startswith(XetStorage.PATH):
            return hub.storage.answer(self.command, path.removeprefix(XetStorage.PATH), body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "Invalid credentials in Authorization header")
        data = json.loads(body) if body and path.endswith(("/create", "/batch", "-yaml")) else {}
        if path == "/api/whoami-v2":
            token: dict[str, Any] = {"displayName": "t", "role": hub.role}
            if hub.scoped is not None:
                token["fineGrained"] = {"global": ["post.write"], "scoped": hub.scoped}
            me = {"name": "me", "type": "user", "orgs": [{"name": "team"}]}
            return of_json(me | {"auth": {"type": "access_token", "accessToken": token}})
        if path == "/api/validate-yaml":
            return of_json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(data)
        if m := re.fullmatch(r"/(\w+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self.batch(data)
        if m := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/(\w+)/(.+)", path):
            return self.resolve(*m.groups())
        m = re.fullmatch(r"/api/models/(\w+/[\w.-]+)(?:/([\w-]+)/([\w./-]+))?", path)
        if m is None or m[1] not in hub.repositories:
            return error(404, "Repository not found", "RepoNotFound")
        return self.repository(hub.repositories[m[1]], m[1], m[2] or "revision", m[3], body)

    def create(self, data: dict[str, Any]) -> Answer:
        name = f"{data['organization']}/{data['name']}"
        if name in self.hub.repositories:
            return error(409, "You already created this model repo")
        self.hub.make(name, {}, private=data["visibility"] == "private")
        return of_json({"url": f"{self.hub.url}/{name}", "name": name})

    def repository(
        self, repository: Repository, name: str, word: str, revision: str | None, body: bytes
    ) -> Answer:
        revision = revision or "main"
        if word == "branch":
            if revision in repository.branches:
                return error(409, "Reference already exists")
            commits = repository.branches["main"]
            start = json.loads(body or b"{}").get("startingPoint", commits[-1].oid)
            oids = [commit.oid for commit in commits]
            repository.branches[revision] = commits[: oids.index(start) + 1]
            return of_json({})
        if word == "commits":
            return of_json([about_commit(one) for one in reversed(repository.branches[revision])])
        if word.startswith("xet-"):
            token = {"accessToken": "x", "exp": 4102444800, "casUrl": f"{self.hub.url}/xet"}
            return of_json(token)
        commit = repository.find(revision)
        if commit is None:
            return error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if word == "commit":
            return self.commit(repository, name, revision, body)
        if word == "preupload":
            return of_json({"files": [mode(file, commit) for file in json.loads(body)["files"]]})
        if word == "tree":
            return of_json([entry(path, data) for path, data in sorted(commit.files.items())])
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        about = {"id": name, "modelId": name, "sha": commit.oid, "private": repository.private}
        return of_json(about | {"siblings": siblings})

    def batch(self, data: dict[str, Any]) -> Answer:
        objects = []
        for one in data["objects"]:
            if one["oid"] in self.hub.objects:
                objects.append(one)
                continue
            upload = {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}
            objects.append(one | {"actions": {"upload": upload}})
        return of_json({"transfer": "basic", "objects": objects})

    def commit(self, repository: Repository, name: str, branch: str, body: bytes) -> Answer:
        """https://huggingface.co/docs/hub/api: lines of JSON, all or nothing."""
        lines = [json.loads(line) for line in body.splitlines()]
        head = lines[0]["value"]
        last = repository.branches[branch][-1]
        if head.get("parentCommit", last.oid) != last.oid:
            return error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(last.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                content = self.hub.objects.get(value["oid"]) or self.hub.storage.file(value["oid"])
                if content is None:
                    return error(400, f"no object {value['oid']}")
                files[value["path"]] = content
        commit = Commit(oid_of(last.oid, head["summary"]), head["summary"], files)
        repository.branches[branch].append(commit)
        url = f"{self.hub.url}/{name}/commit/{commit.oid}"
        return of_json({"success": True, "commitOid": commit.oid, "commitUrl": url})

    def resolve(self, name: str, revision: str, path: str) -> Answer:
        commit = self.hub.repositories[name].find(revision)
        if commit is None or path not in commit.files:
            return error(404, "Entry not found", "EntryNotFound")
        data = commit.files[path]
        tag = hashlib.sha256(data).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit.oid}, data


def mode(file: dict[str, Any], commit: Commit) -> dict[str, Any]:
    """Return how a file is to be uploaded, and its name in Git where it is there already."""
    told = {"path": file["path"], "uploadMode": "lfs" if file["size"] >= LARGE else "regular"}
    told |= {"shouldIgnore": False}
    if file["path"] in commit.files:
        data = commit.files[file["path"]]
        told["oid"] = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else git_name(data)
    return told


def entry(path: str, data: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if len(data) < LARGE:
        return about | {"oid": git_name(data)}
    oid = hashlib.sha256(data).hexdigest()
    return about | {"oid": "0" * 40, "lfs": {"oid": oid, "size": len(data), "pointerSize": 134}}


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def about_commit(commit: Commit) -> dict[str, Any]:
    about = {"id": commit.oid, "title": commit.summary, "message": ""}
    return about | {"date": "2026-01-01T00:00:00.000Z", "authors": [{"user": "me"}]}


def of_json(data: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()


def error(status: int, message: str, code: str = "") -> Answer:
    headers = {"Content-Type": "application/json", "X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return status, headers, json.dumps({"error": message}).encode()


def times(count: int, part: str, answer: Answer | None) -> Fault:
    """Return a fault of the first requests whose path holds `part`; None cuts them off."""
    left = [answer] * count

    def fault(method: str, path: str) -> Answer | None:
        if not left or part not in f"{method} {path}":
            return None
        answer = left.pop()
        if answer is None:
            raise ConnectionError
        return answer

    return fault


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(hub, *arguments)
    )
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
