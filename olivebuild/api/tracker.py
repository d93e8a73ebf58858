"""The protocol of a tracker, which logs trainings elsewhere.

A tracker lives in a process of its own, which reads the events of a build. It knows no recipes and
no builds, is in no key, and fails none.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

TRACKERS = "olivebuild.trackers"
"""The group of entry points of trackers that are not built in."""


class End(Enum):
    """Final status of a run, by MLflow's names."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class Run(Protocol):
    """Log of one training."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step, `loss` and `lr` for example."""

    def end(self, status: End) -> None:
        """Close the log."""


class Tracker(Protocol):
    """Place where runs are logged."""

    def begin(self, target: str, description: str) -> Run:
        """Begin the log of a training of `target`; the description has its reasons, one a line."""


class TrackerFactory(Protocol):
    """The object that an entry point of the group `olivebuild.trackers` names."""

    def __call__(self, where: str, name: str, /) -> Tracker:
        """Return the tracker of a place.

        `where` is what follows the colon of `--log-to KIND:PLACE`, `name` the recipe's folder.
        """
