"""A server that speaks the hub's protocol, for a folder of its own, and tells what it was asked
for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def etag(data: bytes) -> str:
    """As the hub has it: weights by SHA-256, small files as Git names them."""
    return (
        hashlib.sha256(data).hexdigest()
        if len(data) > 100_000
        else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of huggingface.co that a download makes: repository information, the file tree, and
    files by commit.
    """

    def __init__(self, folder: Path, asked: list[str], token: str, *arguments: object) -> None:
        self.folder = folder
        self.asked = asked
        self.token = token
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (
            {"Content-Type": kind, "Content-Length": str(len(data))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def is_signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.token}"

    def refuse(self, status: int, code: str) -> None:
        """As huggingface.co does it."""
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        # A data set of the same name has the same files.
        path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        if self.token and "/resolve/" in path and not self.is_signed_in():
            # A gated repository's description is public, its files are not.
            self.refuse(401 if self.headers.get("Authorization") is None else 403, "GatedRepo")
        elif path.startswith("/api/models/own/tiny/tree/"):
            tree = [
                {
                    "type": "file",
                    "path": p.relative_to(self.folder).as_posix(),
                    "size": p.stat().st_size,
                    "oid": "0" * 40,
                }
                for p in files
            ]
            self.answer(json.dumps(tree).encode(), "application/json", {})
        elif path.startswith("/api/models/own/tiny"):
            information = {
                "id": "own/tiny",
                "modelId": "own/tiny",
                "sha": COMMIT,
                "siblings": [{"rfilename": p.relative_to(self.folder).as_posix()} for p in files],
            }
            self.answer(json.dumps(information).encode(), "application/json", {})
        elif (
            path.startswith(f"/own/tiny/resolve/{COMMIT}/")
            and (file := self.folder / path.partition(f"{COMMIT}/")[2]).is_file()
        ):
            data = file.read_bytes()
            self.answer(
                data,
                "application/octet-stream",
                {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT},
            )
        elif path.startswith("/api/models/"):
            # One that is not there looks like a private one.
            self.refuse(401, "RepoNotFound")
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815


@contextlib.contextmanager
def serving(folder: Path, token: str = "") -> Iterator[tuple[str, list[str]]]:
    """The repository own/tiny is what lies in `folder`: (address, paths asked for).

    With a `token` it is gated: its files are for who shows that token.
    """
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Hub, folder, asked, token)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
