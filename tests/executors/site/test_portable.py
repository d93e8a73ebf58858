"""Portable actions: what comes from another machine names nothing beyond its folders."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import to_builtins

from olivebuild.api.site import Needs
from olivebuild.cache.manifest import Entry
from olivebuild.executors.site.portable import (
    PROTOCOL,
    PortableAction,
    PortableAsked,
    PortableInput,
    PortableOutcome,
)

KEY, BLOB = "0" * 32, "1" * 32


def action(**changes: Any) -> PortableAction:
    fields: dict[str, Any] = {
        "protocol": PROTOCOL,
        "code": "abc",
        "key": KEY,
        "node": "a",
        "target": "a",
        "kind": "command",
        "runner": "olivebuild.ml.kinds.command",
        "fields": {"run": "true"},
        "inputs": {"x": PortableInput(kind="model", target="m", manifest=BLOB)},
        "files": {"f": ["in.txt"]},
        "folder": (Entry("in.txt", False, 3, BLOB),),
    }
    return PortableAction(**(fields | changes))


def test_it_is_read_as_it_was_written() -> None:
    asked = PortableAsked(target="b", file=Entry("0.csv", False, 1, BLOB), new_tokens=8, whole=True)
    before = action(asked=(asked,), needs=Needs(gpus=2, memory=1 << 33))
    assert PortableAction.from_json(before.to_json()) == before
    named = action(fields={"models": ["b", "a"], "z": 1, "a": {"y": 1, "b": 2}})
    read = PortableAction.from_json(named.to_json()).fields
    # The order has a meaning.
    assert json.dumps(read) == json.dumps(named.fields)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a//b", "a\\b", "a\0b"])
def test_names_that_leave_the_folder(name: str) -> None:
    entry = Entry(name, False, 3, BLOB)
    asked = PortableAsked(target="b", file=entry, new_tokens=8, whole=True)
    for bad in (action(folder=(entry,)), action(asked=(asked,))):
        with pytest.raises(ValueError, match="name"):
            PortableAction.from_json(bad.to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": PROTOCOL + 1},
        {"key": "../../x"},
        {"later": 1},
        {"blobs": [{"digest": "x", "size": 1, "sha256": "0" * 64}]},
        {"blobs": [{"digest": KEY, "size": -1, "sha256": "0" * 64}]},
        {"inputs": {"x": {"kind": "model", "target": "m", "manifest": "/etc/passwd"}}},
        {"inputs": {"x": {"kind": "model", "target": "m", "path": "../../x"}}},
        {"inputs": {"x": {"kind": "model", "target": "m", "path": "/etc"}}},
        {"files": {"f": ["other.txt"]}},
    ],
)
def test_what_is_none(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        PortableAction.from_json(json.dumps(to_builtins(action()) | change))


def test_a_gpu_where_there_is_one() -> None:
    assert action(gpus=1).with_gpu().needs.gpus == 1
    assert action(gpus=4, needs=Needs(gpus=4)).with_gpu().needs.gpus == 4
    assert action().with_gpu().needs.gpus == 0


def test_an_outcome_is_read_strictly() -> None:
    outcome = PortableOutcome(key=KEY, metrics={"loss": 1.0}, manifest=BLOB)
    assert PortableOutcome.from_json(outcome.to_json()) == outcome
    with pytest.raises(ValueError, match="manifest"):
        PortableOutcome.from_json(json.dumps({"key": KEY, "manifest": "../x"}))
