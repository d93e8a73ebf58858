"""The process of a remote cache, without a process: requests, answers, and bytes moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.key import Part, key_of
from olivebuild.cache.remote_records import blob_name
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.ml.transfer.process import Process
from olivebuild.ml.transfer.remote import Remote

PARTS = (Part("step", "kind", "command"),)
KEY = key_of(PARTS)


class Machine:
    def __init__(self, root: Path, name: str) -> None:
        self.store = Store(root / name)
        self.said: list[dict[str, Any]] = []
        self._remote = Remote((root / "remote").as_uri())

    def make(self, root: Path, text: str) -> Trace:
        folder = root / "out"
        folder.mkdir()
        (folder / "a.txt").write_text(text)
        manifest, blob = self.store.put_folder(folder)
        trace = Trace(KEY, "command", PARTS, {"": manifest.digest}, manifest=blob)
        traces = Traces(self.store)
        traces.put(trace)
        traces.close()
        return trace

    def ask(self, op: str, *keys: str) -> list[dict[str, Any]]:
        process = Process(self._remote, self.store, self.said.append)
        process.take({"id": 7, "op": op, "keys": list(keys)})
        process.finish()
        return [message for message in self.said if message.get("op") == op]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine]:
    monkeypatch.setenv("OLIVEBUILD_CONFIG", str(tmp_path / "config"))
    return Machine(tmp_path, "one"), Machine(tmp_path, "other")


def test_a_result_is_put_looked_for_and_fetched(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    one, other = machines
    trace = one.make(tmp_path, "some text")
    (answer,) = one.ask("put", KEY)
    assert (answer["put"], answer["key"], answer["id"]) == (True, KEY, 7)
    assert one.ask("put", KEY)[-1]["put"] is False
    hits = {answer["key"]: answer["hit"] for answer in other.ask("has", KEY, "0" * 32)}
    assert hits == {KEY: True, "0" * 32: False}
    assert other.ask("look", KEY)[0]["hit"]
    assert Traces(other.store).read(KEY) == trace
    # The trace is here, its blobs are not.
    assert not other.store.path(trace.manifest).exists()
    assert other.ask("get", KEY)[0]["bytes"] > len("some text")
    assert other.store.missing(other.store.manifest(trace.manifest)) is None


def test_what_can_not_be_done_is_an_answer(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    one, other = machines
    assert "not in the cache any more" in one.ask("put", KEY)[0]["error"]
    trace = one.make(tmp_path, "some text")
    one.ask("put", KEY)
    file = tmp_path / "remote" / blob_name(trace.manifest)
    file.write_bytes(file.read_bytes().replace(b"a.txt", b"../a."))
    assert "is not what was put there" in other.ask("get", KEY)[0]["error"]
    assert not other.store.path(trace.manifest).exists()
    assert "not there any more" in other.ask("get", "0" * 32)[-1]["error"]


def test_a_blob_that_was_damaged_there_is_put_right(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    """By the machine that found it, when it has made the result itself."""
    one, other = machines
    trace = one.make(tmp_path, "some text")
    one.ask("put", KEY)
    objects = (tmp_path / "remote/v1/blobs").glob("??/*")
    blob = next(path for path in objects if path.name != trace.manifest)
    blob.write_bytes(b"some harm")
    process = Process(Remote((tmp_path / "remote").as_uri()), other.store, other.said.append)
    process.take({"id": 1, "op": "look", "keys": [KEY]})
    process.finish()
    process.take({"id": 1, "op": "get", "keys": [KEY]})
    process.finish()
    assert "is not what was put there" in other.said[-1]["error"]
    other.store.put_folder(tmp_path / "out")
    process.take({"id": 2, "op": "put", "keys": [KEY]})
    process.finish()
    assert blob.read_bytes() == b"some text"
