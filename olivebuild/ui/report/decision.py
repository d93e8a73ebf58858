"""Records of the decision that a report leads with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olivebuild.engine.build_comparison import Change
from olivebuild.metrics.decision import Outcome


@dataclass(frozen=True)
class Artefact:
    """What would be shipped. `chosen`: the model that a choice stands for, else ""."""

    target: str
    kind: str
    path: str
    """From the recipe's folder, where it lies below it."""
    digest: str
    size: int | None
    is_there: bool
    chosen: str = ""


@dataclass(frozen=True)
class Shipped:
    """The last build before that met all its gates, and what has changed since.

    `folder`: the name of the one it was built in, "" for the recipe's own. `changes` are those of
    the model that gates judge, by benchmark; `causes` the edits since.
    """

    build: int
    time: str
    folder: str
    changes: tuple[Change, ...]
    causes: tuple[str, ...]
    same_machine: bool = True


@dataclass(frozen=True)
class Decision:
    """Ship or not, why, what, and what changed since the last build that shipped."""

    outcome: Outcome
    headline: str
    reasons: tuple[str, ...]
    """What stands against it, or what is not decided; empty where all is met."""
    artefacts: tuple[Artefact, ...]
    shipped: Shipped | None
    others: Mapping[str, str]
    """Benchmark -> what changed since the build before, in a line."""
