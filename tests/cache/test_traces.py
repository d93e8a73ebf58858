"""Traces: written beside the blobs, found through the index or without it, and never anything but
JSON.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from olivebuild.cache.key import Part
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.hashing import of_bytes
from tests.cache.test_store import flip, json_values

KEY = "0123456789abcdef0123456789abcdef"
TRACE = Trace(
    key=KEY,
    kind="command",
    parts=(Part("parameter", "run", '"cp a b"'), Part("file", "source.0[0]", "abc", "data/é.csv")),
    outputs={"": "1" * 32, "b": "2" * 32},
    manifest="3" * 32,
    size=17,
    seconds=1.25,
    peak_rss=4096,
    metrics={"loss": 0.5},
    provenance={"device": "cpu"},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def file_of(store: Store) -> Path:
    return store.root / "blobs" / "01" / f"{KEY}.trace"


def index(store: Store) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(store.root / "traces" / "cache.db", isolation_level=None))


def put(store: Store, trace: Trace = TRACE) -> None:
    with closing(Traces(store)) as traces:
        traces.put(trace)


def get(store: Store, key: str = KEY) -> Trace | None:
    with closing(Traces(store)) as traces:
        return traces.get(key)


def delete_index(store: Store) -> None:
    for file in (store.root / "traces").iterdir():
        file.unlink()


def test_a_trace_survives_json() -> None:
    assert Trace.from_json(TRACE.to_json()) == TRACE


def test_models_stay_in_the_order_in_which_they_are_listed(store: Store) -> None:
    traces = Traces(store)
    traces.put(replace(TRACE, metrics={"models": {"merged": 1, "int4-32": 2, "int4-16": 3}}))
    for index in (traces, Traces(store)):
        found = index.get(KEY)
        assert found
        assert list(found.metrics["models"]) == ["merged", "int4-32", "int4-16"]


def test_a_trace_is_found_by_its_key(store: Store) -> None:
    put(store)
    assert get(store) == TRACE
    assert get(store, "f" * 32) is None


def test_a_later_trace_replaces_the_earlier(store: Store) -> None:
    put(store)
    later = Trace.from_json(json.dumps(to_builtins(TRACE) | {"seconds": 9.0}))
    put(store, later)
    assert get(store) == later
    delete_index(store)
    assert get(store) == later


def test_without_its_index_a_trace_is_found_by_its_file(store: Store) -> None:
    put(store)
    delete_index(store)
    assert get(store) == TRACE


def test_what_was_found_by_its_file_is_noted_in_the_index(store: Store) -> None:
    put(store)
    delete_index(store)
    get(store)
    file_of(store).unlink()
    assert get(store) == TRACE


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, but long enough to look at" * 50]
)
def test_an_index_that_is_no_database_is_made_anew(store: Store, content: bytes) -> None:
    put(store)
    delete_index(store)
    (store.root / "traces" / "cache.db").write_bytes(content)
    assert get(store) == TRACE
    put(store)


@pytest.mark.parametrize("at", [0, 5, 33, 60, -2])
def test_a_flipped_bit_in_the_file_is_no_answer(store: Store, at: int) -> None:
    put(store)
    delete_index(store)
    flip(file_of(store), at)
    assert get(store) is None


def test_a_truncated_file_is_no_answer(store: Store) -> None:
    put(store)
    delete_index(store)
    file_of(store).write_bytes(file_of(store).read_bytes()[:100])
    assert get(store) is None


def test_a_file_that_is_not_text_is_no_answer(store: Store) -> None:
    put(store)
    delete_index(store)
    file_of(store).write_bytes(b"\xff\xfe" * 100)
    assert get(store) is None


def test_the_trace_of_another_key_is_no_answer(store: Store) -> None:
    text = Trace("f" * 32, "command", (), {"": "1" * 32}).to_json()
    file_of(store).parent.mkdir()
    file_of(store).write_text(f"{of_bytes(text)}\n{text}")
    assert get(store) is None


def test_a_damaged_row_of_the_index_falls_back_to_the_file(store: Store) -> None:
    put(store)
    with index(store) as db:
        db.execute("UPDATE Cache SET value = ?", ('{"key": "broken"',))
    assert get(store) == TRACE


def test_a_flipped_row_of_the_index_falls_back_to_the_file(store: Store) -> None:
    put(store)
    with index(store) as db:
        db.execute("UPDATE Cache SET value = replace(value, ?, ?)", (TRACE.kind, "kommand"))
    assert get(store) == TRACE


def test_a_row_of_another_trace_falls_back_to_the_file(store: Store) -> None:
    put(store)
    with index(store) as db:
        db.execute("UPDATE Cache SET value = ?", (Trace("f" * 32, "command", (), {}).to_json(),))
    assert get(store) == TRACE


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.file)!r}, 'w').close()",)


def test_the_bomb_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "bang")))
    assert (tmp_path / "bang").exists()


def test_a_pickled_row_is_refused_and_runs_nothing(store: Store, tmp_path: Path) -> None:
    put(store)
    with index(store) as db:
        changed = db.execute(
            "UPDATE Cache SET mode = 4, value = ?",
            (sqlite3.Binary(pickle.dumps(Bomb(tmp_path / "bang"))),),
        )
        assert changed.rowcount == 1
    assert get(store) == TRACE
    assert not (tmp_path / "bang").exists()


def test_a_pickled_row_without_a_file_is_no_answer(store: Store, tmp_path: Path) -> None:
    put(store)
    with index(store) as db:
        db.execute(
            "UPDATE Cache SET mode = 4, value = ?",
            (sqlite3.Binary(pickle.dumps(Bomb(tmp_path / "bang"))),),
        )
    file_of(store).unlink()
    assert get(store) is None
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
def test_a_row_that_names_a_file_is_refused(store: Store, tmp_path: Path, mode: int) -> None:
    put(store)
    (store.root / "traces" / "row.val").write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    with index(store) as db:
        db.execute("UPDATE Cache SET mode = ?, filename = 'row.val', value = NULL", (mode,))
    assert get(store) == TRACE
    assert not (tmp_path / "bang").exists()


def test_a_pickled_key_is_never_read(store: Store, tmp_path: Path) -> None:
    put(store)
    with index(store) as db:
        db.execute(
            "UPDATE Cache SET raw = 0, key = ?",
            (sqlite3.Binary(pickle.dumps(Bomb(tmp_path / "bang"))),),
        )
    assert get(store) == TRACE
    assert not (tmp_path / "bang").exists()


def test_settings_of_the_index_run_nothing(store: Store, tmp_path: Path) -> None:
    put(store)
    with index(store) as db:
        db.execute(
            "UPDATE Settings SET value = ?",
            (sqlite3.Binary(pickle.dumps(Bomb(tmp_path / "bang"))),),
        )
    get(store)
    assert not (tmp_path / "bang").exists()


def test_the_index_never_evicts(store: Store) -> None:
    put(store)
    with index(store) as db:
        assert db.execute(
            "SELECT value FROM Settings WHERE key = 'eviction_policy'"
        ).fetchone() == ("none",)


@pytest.mark.parametrize(
    "change",
    [
        {"key": 1}, {"key": None}, {"kind": 5}, {"parts": 1}, {"parts": [1]}, {"parts": [{}]},
        {"parts": None}, {"outputs": []}, {"outputs": {"": 1}},
        {"manifest": None}, {"reference": 3}, {"size": "big"}, {"size": None}, {"seconds": "long"},
        {"seconds": None}, {"seconds": 10**400},
        {"peak_rss": []}, {"metrics": []}, {"provenance": None}, {"accepted_from": 3},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_values_of_other_types_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        Trace.from_json(json.dumps(to_builtins(TRACE) | change))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", '"x"', "{}", "[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_trace_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Trace.from_json(text)


@settings(database=None, max_examples=200)
@given(json_values)
def test_any_json_is_a_value_error_unless_it_is_a_trace(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Trace.from_json(json.dumps(value))


@settings(database=None, max_examples=400)
@given(st.sampled_from(sorted(to_builtins(TRACE))), json_values)
def test_any_value_in_a_trace_is_a_trace_or_a_value_error(field: str, value: object) -> None:
    try:
        trace = Trace.from_json(json.dumps(to_builtins(TRACE) | {field: value}))
    except ValueError:
        return
    assert {
        type(v)
        for v in (trace.key, trace.kind, trace.manifest, trace.reference, trace.accepted_from)
    } == {str}
    assert {type(trace.size), type(trace.peak_rss)} == {int}
