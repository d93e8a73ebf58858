"""Comments on GitHub and GitLab: a server on loopback that answers as their references say."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from olivebuild.cli.ci.posting import Service, on_github, on_gitlab
from olivebuild.core.errors import InputError, StoreError
from olivebuild.ui.pull_request.comment import MARKER

TEXT = MARKER + "\nsome text\n"


class Forge(http.server.ThreadingHTTPServer):
    """Pull requests, and the comments on them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pulls: list[dict[str, Any]] = []
        self.comments: dict[int, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str, str]] = []
        """(method, path, token)"""
        self.moved_to = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Forge

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        token = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN") or ""
        self.server.asked.append((self.command, parts.path, token))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.moved_to:
            self.send_response(302)
            self.send_header("Location", self.server.moved_to)
            self.end_headers()
            return
        result = self._result(parts.path, parse_qs(parts.query), json.loads(body or "null"))
        data = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815

    def _result(self, path: str, query: dict[str, list[str]], body: Any) -> Any:
        if path == "/user":
            return {"id": 5}
        if path.endswith("/pulls"):
            (head,) = query["head"]
            return [p for p in self.server.pulls if p["head"]["label"] == head]
        numbers = [int(word) for word in path.split("/") if word.isdigit()]
        if self.command in ("PATCH", "PUT"):
            every = [c for comments in self.server.comments.values() for c in comments]
            comment = next(c for c in every if c["id"] == numbers[-1])
            comment["body"] = body["body"]
            return comment
        comments = self.server.comments.setdefault(numbers[-1], [])
        if self.command == "POST":
            comments.append(
                {
                    "id": 100 + len(comments),
                    "body": body["body"],
                    "user": {"type": "Bot"},
                    "author": {"id": 5},
                }
            )
            return comments[-1]
        page, count = int(query["page"][0]), int(query["per_page"][0])
        return comments[(page - 1) * count : page * count]


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Forge]:
    event = {
        "workflow_run": {
            "head_sha": "c0ffee",
            "head_branch": "patch",
            "head_repository": {"owner": {"login": "stranger"}},
        }
    }
    (tmp_path / "event.json").write_text(json.dumps(event))
    with Forge() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_REPOSITORY": "team/models",
            "GITHUB_TOKEN": "planted-token",
            "GITHUB_API_URL": server.address,
            "CI_API_V4_URL": server.address,
            "CI_PROJECT_ID": "17",
            "CI_MERGE_REQUEST_IID": "3",
            "OLIVEBUILD_GITLAB_TOKEN": "planted-token",
        }.items():
            monkeypatch.setenv(name, value)
        yield server
        server.shutdown()


def pull(number: int, label: str, commit: str) -> dict[str, Any]:
    return {"number": number, "head": {"label": label, "sha": commit}}


def test_the_pull_request_is_the_one_that_stands_at_the_commit(forge: Forge) -> None:
    forge.pulls = [
        pull(1, "stranger:patch", "0ther"),
        pull(2, "team:patch", "c0ffee"),
        pull(7, "stranger:patch", "c0ffee"),
    ]
    assert on_github(TEXT) == "commented on #7"
    assert [c["body"] for c in forge.comments[7]] == [TEXT]
    assert forge.comments.keys() == {7}
    # The next one replaces it.
    on_github(TEXT + "more")
    assert [c["body"] for c in forge.comments[7]] == [TEXT + "more"]


def test_a_comment_of_another_is_not_touched(forge: Forge) -> None:
    forge.pulls = [pull(7, "stranger:patch", "c0ffee")]
    # Over a page of them, and one that looks like ours.
    theirs = [{"id": n, "body": MARKER, "user": {"type": "User"}} for n in range(1, 121)]
    forge.comments[7] = theirs.copy()
    on_github(TEXT)
    assert forge.comments[7][:120] == theirs
    assert forge.comments[7][120]["body"] == TEXT
    on_github(TEXT + "again")
    assert len(forge.comments[7]) == 121


def test_nothing_is_said_on_one_that_has_gone_on(forge: Forge) -> None:
    forge.pulls = [pull(7, "stranger:patch", "later")]
    assert "nothing is said" in on_github(TEXT)
    assert forge.comments == {}


def test_gitlab(forge: Forge) -> None:
    forge.comments[3] = [{"id": 1, "body": MARKER, "author": {"id": 6}}]
    assert on_gitlab(TEXT) == "commented on !3"
    on_gitlab(TEXT + "more")
    assert [c["body"] for c in forge.comments[3]] == [MARKER, TEXT + "more"]


@pytest.mark.parametrize("comment", [on_github, on_gitlab])
def test_a_token_does_not_follow_a_redirect(forge: Forge, comment: Callable[[str], str]) -> None:
    with Forge() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        forge.moved_to = elsewhere.address + "/user"
        with pytest.raises(StoreError, match="302"):
            comment(TEXT)
        assert forge.asked
        assert elsewhere.asked == []
        elsewhere.shutdown()


@pytest.mark.parametrize("url", ["http://api.example.org", "ftp://127.0.0.1/", "file:///etc"])
def test_a_token_is_not_sent_in_clear(url: str) -> None:
    with pytest.raises(InputError, match="not sent"):
        Service(url, {})


def test_what_is_not_set_is_named(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(InputError, match="GITHUB_TOKEN is not set"):
        on_github(TEXT)
    assert forge.asked == []
