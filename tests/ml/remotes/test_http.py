"""Files of web servers: one on loopback, asked as a worker asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from olivebuild.ml.models.remotes import http
from tests.ml.remotes.asking import Asking
from tests.support.server_faults import broken_off, slow, status
from tests.support.web import Web, certificate, web

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(100_000))
SHA256 = hashlib.sha256(ROWS).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(http, "WAITS", (0.01, 0.01))
    with web() as running:
        running.files["/data/rows.jsonl"] = ROWS
        yield running


@pytest.fixture
def rows(server: Web, tmp_path: Path) -> Asking:
    return Asking(tmp_path / "site", f"{server.address}/data/rows.jsonl?download=1")


def test_a_file_is_pinned_to_its_digest_and_fetched_once(server: Web, rows: Asking) -> None:
    assert rows.pin().startswith(f"sha256 {SHA256}, size {len(ROWS)}, etag ")
    path = rows.fetch()
    assert (path.name, path.read_bytes()) == ("rows.jsonl", ROWS)
    assert server.asked == ["GET /data/rows.jsonl?download=1"]
    # An update asks for the tag alone.
    before = rows.pinned
    assert rows.pin() == before
    assert server.asked[1:] == ["HEAD /data/rows.jsonl?download=1"]


def test_what_has_changed_is_one_error_until_it_is_pinned_anew(
    server: Web, rows: Asking, tmp_path: Path
) -> None:
    rows.pin()
    elsewhere = Asking(tmp_path / "elsewhere", rows.source.text)
    elsewhere.pinned = rows.pinned
    server.files["/data/rows.jsonl"] = ROWS[::-1]
    # What is here is what was pinned.
    assert rows.fetch().read_bytes() == ROWS
    error = elsewhere.error(elsewhere.fetch)
    assert f"olivebuild.lock says {SHA256[:16]}..." in error.fact
    assert error.hint == "if the change is expected: `olivebuild update rows`"
    assert not list(elsewhere.folder.glob("cache/downloads/*/*/rows.jsonl"))
    elsewhere.pin()
    assert elsewhere.fetch().read_bytes() == ROWS[::-1]


@pytest.mark.parametrize("tagged", [True, False])
def test_a_download_that_broke_off_goes_on_where_it_ended(
    server: Web, rows: Asking, tagged: bool
) -> None:
    server.tagged = tagged
    server.faults.append(broken_off(2))
    rows.pin()
    assert rows.fetch().read_bytes() == ROWS
    starts = [headers.get("Range") for headers in server.headers]
    first = len(ROWS) // 2
    second = first + (len(ROWS) - first) // 2
    expected = [None, f"bytes={first}-", f"bytes={second}-"] if tagged else [None] * 3
    assert starts == expected


def test_a_file_that_changes_between_two_attempts_is_fetched_from_its_beginning(
    server: Web, rows: Asking
) -> None:
    def change(handler: Any) -> bool:
        if len(server.asked) == 2:
            server.files["/data/rows.jsonl"] = ROWS[::-1]
        return False

    server.faults += [change, broken_off(1)]
    rows.pin()
    assert rows.fetch().read_bytes() == ROWS[::-1]


def test_a_server_that_fails_and_recovers_costs_time_alone(server: Web, rows: Asking) -> None:
    server.faults += [status(500, 1), status(503, 1), slow(0.05)]
    rows.pin()
    assert rows.fetch().read_bytes() == ROWS


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        (404, "the server answers 404 Not Found"),
        (403, "the server answers 403 Forbidden"),
        (500, "the server answers 500 Internal Server Error"),
    ],
)
def test_a_refusal_is_one_error_without_the_servers_words(
    server: Web, rows: Asking, code: int, fact: str
) -> None:
    server.faults.append(status(code, 99))
    error = rows.error(rows.pin)
    assert error.fact == f"{rows.source.text}: {fact}"
    assert "secret-in-an-answer" not in error.fact + error.hint
    assert len(server.asked) == (3 if code == 500 else 1)


def test_a_server_that_stalls_or_is_not_there_is_one_error(
    server: Web, rows: Asking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    server.faults.append(slow(0.5))
    assert rows.error(rows.pin).fact.endswith(": it takes too long")
    nobody = Asking(tmp_path, "http://127.0.0.1:9/rows.jsonl")
    assert nobody.error(nobody.pin).fact.endswith(": connection refused")


def test_a_redirect_is_followed_unless_it_is_not_encrypted(server: Web, tmp_path: Path) -> None:
    def redirect(handler: Any) -> bool:
        places = {"/a.jsonl": "/data/rows.jsonl", "/b.jsonl": "http://example.org/rows.jsonl"}
        if place := places.get(handler.path):
            handler.send(302, [("Location", place)], b"")
        return bool(place)

    server.faults.append(redirect)
    inside = Asking(tmp_path, f"{server.address}/a.jsonl")
    inside.pin()
    assert inside.fetch().read_bytes() == ROWS
    outside = Asking(tmp_path, f"{server.address}/b.jsonl")
    assert "to an address that is not encrypted" in outside.error(outside.pin).fact


def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = certificate(tmp_path)
    with web(file) as server:
        server.files["/rows.jsonl"] = ROWS
        rows = Asking(tmp_path / "site", f"{server.address}/rows.jsonl")
        error = rows.error(rows.pin)
        assert error.fact.endswith(": the server's certificate is not trusted")
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        rows.pin()
        assert rows.fetch().read_bytes() == ROWS
