"""The near end of an exchange: files that grow as the node's do, whatever ends meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.processes import python
from olivebuild.ml.transfer.exchange.mirror import RECORD, Mirror
from olivebuild.ml.transfer.exchange.place import Exchange
from olivebuild.ml.transfer.exchange.records import Attempt, Segment
from tests.support.exchange_job import action

KEY = "a" * 32


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(Exchange((tmp_path / "bucket").as_uri(), Store(tmp_path / "near")))


def begin(mirror: Mirror) -> tuple[Attempt, Path]:
    folder = action(mirror.store, KEY)
    attempt = mirror.submit(KEY)
    assert attempt
    return attempt, folder


def say(mirror: Mirror, attempt: Attempt, number: int, **fields: Any) -> None:
    name = attempt.segment(number)
    mirror.exchange.replace(name, attempt.sealed(name, Segment(**fields).body()))


def test_what_was_appended_and_not_counted_is_written_once(mirror: Mirror) -> None:
    attempt, folder = begin(mirror)
    say(mirror, attempt, 0, events=b"1\n", log=b"a")
    say(mirror, attempt, 1, events=b"2\n", log=b"b")
    assert mirror.take(KEY) is False
    before = (folder / RECORD).read_bytes()
    assert mirror.take(KEY) is False
    assert mirror.take(KEY) is None
    # As if the process had ended before it counted.
    (folder / RECORD).write_bytes(before)
    assert not mirror.settle(KEY)["outcome"]
    assert (folder / "events").read_bytes() == b"1\n2\n"
    assert (folder / "log").read_bytes() == b"ab"


def test_the_secret_is_for_nobody_else(mirror: Mirror, tmp_path: Path) -> None:
    attempt, folder = begin(mirror)
    assert (folder / RECORD).stat().st_mode & 0o077 == 0
    there = [p.read_bytes() for p in (tmp_path / "bucket").rglob("*") if p.is_file()]
    assert there
    assert not any(attempt.secret.encode() in text for text in there)


def test_a_segment_of_somebody_else_is_an_error_and_leaves_nothing(mirror: Mirror) -> None:
    attempt, folder = begin(mirror)
    other = Attempt(key=KEY, name=attempt.name, secret="f" * 64)
    say(mirror, other, 0, outcome=b"{}")
    with pytest.raises(ValueError, match="is not what the other end has written"):
        mirror.settle(KEY)
    assert not (folder / "outcome.json").exists()
    # The next attempt is not held up by it.
    assert mirror.submit(KEY)


def test_an_outcome_that_came_after_all(mirror: Mirror) -> None:
    attempt, folder = begin(mirror)
    say(mirror, attempt, 0, outcome=b'{"blobs": []}')
    assert mirror.submit(KEY) is None
    assert (folder / "outcome.json").read_bytes() == b'{"blobs": []}'


def test_a_training_that_began_here_goes_on_there(mirror: Mirror) -> None:
    action(mirror.store, KEY)
    state = mirror.store.checkpoint(KEY)
    state.parent.mkdir()
    state.write_bytes(b"step 7")
    attempt = mirror.submit(KEY)
    assert attempt
    assert b'"size": 6' in (mirror.exchange.text(attempt.task) or b"")


class Talk:
    """The process, with which a launcher speaks."""

    def __init__(self, url: str, root: Path) -> None:
        self.process = subprocess.Popen(
            python("-m", "olivebuild.ml.transfer.exchange.mirror", url, str(root)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))

    def ask(self, op: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": 1, "op": op, "key": KEY}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        code = self.process.wait(10)
        self.process.stdout.close()
        return code


def test_the_process_follows_a_job(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_EXCHANGE_SECONDS", "0.02")
    folder = action(mirror.store, KEY)
    talk = Talk((tmp_path / "bucket").as_uri(), mirror.store.root)
    assert talk.read() == {"ready": True}
    answer = talk.ask("submit")
    attempt = Attempt(key=KEY, name=answer["attempt"], secret=answer["secret"])
    say(mirror, attempt, 0, log=b"hello")
    log = folder / "log"
    for _ in range(3000):
        if log.exists() and log.read_bytes() == b"hello":
            break
        time.sleep(0.02)
    assert log.read_bytes() == b"hello"
    mirror.exchange.replace(attempt.segment(1), b"by somebody else")
    assert "is not what the other end" in talk.read()["fault"]
    say(mirror, attempt, 1, outcome=b"{}")
    while "outcome" not in (answer := talk.ask("settle")):
        assert "fault" in answer
    assert answer["outcome"] is True
    assert talk.end() == 0


def test_a_place_that_is_none(tmp_path: Path) -> None:
    talk = Talk("https://127.0.0.1:1/x/", tmp_path / "near")
    assert "can only be read" in talk.read()["error"]
    assert talk.end() == 0
