"""Which builds are compared: of one folder, of all after a move, and those that measured."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.engine.history import Entry, GateResult, TargetMetrics
from olivebuild.engine.lineage import (
    last_shipped,
    last_two_measured,
    measuring,
    of_folder,
    previous,
)


def build(number: int, key: str = "", folder: str = "/a", states: str = "", **more: Any) -> Entry:
    """Return a build that measured `bench` with the key, and judged a gate for each state."""
    gates = tuple(
        GateResult(target="bench", gate="g", value=1.0, passed=state == "met", state=state)
        for state in states.split()
    )
    measured = {"bench": TargetMetrics("benchmark", key, {})} if key else {}
    fields: dict[str, Any] = {"goals": (), "time": "", "seconds": 1.0, "seconds_saved": 0.0}
    return Entry(
        **fields, fresh=0, number=number, measured=measured, gates=gates, folder=folder, **more
    )


def test_a_build_is_compared_with_one_of_its_own_folder() -> None:
    entries = [build(1, "x"), build(2, "y", "/b"), build(3, "z"), build(4, "w", "/c")]
    assert previous(entries, entries[2], "bench") == entries[0]
    # The first in a folder, as after a move, is compared with the last of all.
    assert previous(entries, entries[3], "bench") == entries[2]
    assert previous(entries, entries[0], "bench") is None
    assert of_folder(entries, "/b") == [entries[1]]
    assert of_folder(entries, "/nowhere") == entries


def test_the_same_result_is_compared_with_nothing() -> None:
    entries = [build(1, "x"), build(2, "x")]
    assert previous(entries, entries[1], "bench") is None


def test_the_last_that_shipped_met_all_its_gates() -> None:
    entries = [
        build(1, "u", states="met met"),
        build(2, "v", states="met undecided"),
        build(3, "w", states="met missed"),
        build(4, "x"),
        build(5, "y", states="met met", failed=("other",)),
        build(6, "z", states="met met"),
    ]
    assert last_shipped(entries, entries[5], ["bench"]) == entries[0]
    assert last_shipped(entries, entries[0], ["bench"]) is None
    assert last_shipped(entries, entries[5], ["bench", "second"]) is None


def test_the_last_two_that_measured() -> None:
    entries = [build(1, "x"), build(2), build(3, "y"), build(4, "y"), build(5)]
    assert [e.number for e in measuring(entries)] == [1, 3]
    assert last_two_measured(entries, "/a") == (entries[0], entries[2])
    # The same result as two builds before is another than that of the build before.
    back = [*entries, build(6, "x")]
    assert last_two_measured(back, "/a") == (back[2], back[5])


def test_one_that_measured_here_is_compared_with_one_elsewhere() -> None:
    entries = [build(1, "x"), build(2, "y", "/b")]
    assert last_two_measured(entries, "/b") == (entries[0], entries[1])
    with pytest.raises(RecipeError, match="only build 1 of 1 recorded has measured a benchmark"):
        last_two_measured(entries[:1], "/a")
