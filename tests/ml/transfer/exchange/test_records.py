"""Texts of an exchange: read back by the other end, and by nobody else's secret."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from olivebuild.ml.transfer.exchange.records import (
    Attempt,
    Segment,
    State,
    Task,
    blobs_in,
    state_name,
)

ATTEMPT = Attempt(key="a" * 32, name="b" * 16, secret="c" * 64)
STATE = State(attempt="b" * 16, sha256="d" * 64, size=7)


def test_a_text_is_read_back_under_its_own_name_alone() -> None:
    text = ATTEMPT.sealed("x/task", b"what\nruns")
    assert ATTEMPT.opened("x/task", text) == b"what\nruns"
    for name, other, changed in (
        ("x/00000001", ATTEMPT, text),
        ("x/task", structs.replace(ATTEMPT, secret="e" * 64), text),
        ("x/task", ATTEMPT, text.replace(b"runs", b"ruin")),
        ("x/task", ATTEMPT, b"what\nruns"),
        ("x/task", ATTEMPT, b""),
    ):
        with pytest.raises(ValueError, match="is not what the other end has written"):
            other.opened(name, changed)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(),
        Segment(events=b'{"a": 1}\n', log=b"\n\n", state=STATE),
        Segment(log=b"x", outcome=b"{}"),
    ],
)
def test_a_segment_is_read_back(segment: Segment) -> None:
    assert Segment.from_body(segment.body()) == segment


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}\n",
        Segment(events=b"abc").body()[:-1],
        Segment(events=b"abc").body().replace(b":3", b":-3"),
        Segment(events=b"abc").body().replace(b'"log"', b'"lag"'),
    ],
)
def test_what_is_no_segment(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's own words
        Segment.from_body(text)


@pytest.mark.parametrize("task", [Task(action=b"{\n}"), Task(action=b"", state=STATE)])
def test_a_task_is_read_back(task: Task) -> None:
    assert Task.from_body(task.body()) == task


def test_the_blobs_of_an_action() -> None:
    blob = {"digest": "1" * 32, "size": 3, "sha256": "2" * 64}
    assert [b.size for b in blobs_in(json.dumps({"more": {}, "blobs": [blob]}).encode())] == [3]
    for bad in ({"digest": "../x"}, {"size": -1}, {"sha256": ""}):
        with pytest.raises(ValueError):  # noqa: PT011 - msgspec's own words
            blobs_in(json.dumps({"blobs": [blob | bad]}).encode())


def test_a_state_lies_in_the_folder_of_its_attempt() -> None:
    assert state_name(ATTEMPT.key, STATE).startswith(f"{ATTEMPT.folder}/states/")
