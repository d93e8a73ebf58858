"""A build's events as the runs of a training tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olivebuild.api.tracker import End
from olivebuild.ui.tracker_process import write


class Run:
    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._lines.append((step, dict(figures)))

    def end(self, how: End) -> None:
        self._lines.append(how)


class Runs:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: dict[str, list[Any]] = {}

    def begin(self, target: str, why: str) -> Run:
        return Run(self.lines.setdefault(target, [why]))


def event(name: str, node: str, **data: Any) -> dict[str, Any]:
    return {"event": name, "node": node, "target": node, **data}


def test_a_run_has_the_figures_of_its_training_and_ends_as_it_did() -> None:
    runs = Runs()
    reason = {"cause": "parameter", "what": "r", "old": "8", "new": "16"}
    write(
        runs,
        iter(
            [
                event("started", "a", reasons=[reason]),
                event("started", "b"),
                event("started", "c"),
                event("metric", "a", step=1, steps=9, loss=2, note="x", done=True),
                event("metric", "b", step=1, loss=0.5),
                event("finished", "a"),
                event("failed", "b"),
            ]
        ),
    )
    assert runs.lines == {
        "a": ["parameter r: 8 -> 16", (1, {"loss": 2.0}), End.FINISHED],
        "b": ["", (1, {"loss": 0.5}), End.FAILED],
        # The stream ended before it did.
        "c": ["", End.KILLED],
    }
