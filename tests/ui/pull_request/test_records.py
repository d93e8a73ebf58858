"""Reports of pull requests as a stranger writes them."""

from __future__ import annotations

import json

import pytest

from olivebuild.ui.pull_request.records import MOST_BYTES, PullRequestReport

RIGHT = {"version": 1, "name": "tone"}


def test_what_is_right_is_read() -> None:
    assert PullRequestReport.from_json(json.dumps(RIGHT).encode()).name == "tone"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (MOST_BYTES + 1),
        json.dumps({**RIGHT, "version": 2}).encode(),
        json.dumps({**RIGHT, "pull_request": 7}).encode(),
        json.dumps({**RIGHT, "name": "x" * 301}).encode(),
        json.dumps({**RIGHT, "left_out": -1}).encode(),
        json.dumps({**RIGHT, "problems": ["x"] * 51}).encode(),
        json.dumps({**RIGHT, "gates": [{"target": "t", "gate": "g", "state": "passed"}]}).encode(),
        b'{"version": 1, "name": "x", "targets": [{"target": "t", "kind": "k", '
        b'"verdict": "stale", "seconds": NaN}]}',
    ],
)
def test_what_is_not_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        PullRequestReport.from_json(data)
