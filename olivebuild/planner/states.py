"""The records of a plan: what keys and traces say of a node, and what is to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from pathlib import Path

from msgspec import Struct

from olivebuild.api.node import Node
from olivebuild.cache.key import Part, Reason
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.traces import Trace
from olivebuild.core.errors import BuildError


class Verdict(Enum):
    """FRESH: right and in place.

    CACHED: will be restored. STALE: will run. WAITING: an input is not known yet. BROKEN: an input
    can't be read.
    """

    FRESH = "fresh"
    CACHED = "cached"
    STALE = "stale"
    WAITING = "waiting"
    BROKEN = "broken"


WORST_FIRST = (
    Verdict.BROKEN,
    Verdict.STALE,
    Verdict.WAITING,
    Verdict.CACHED,
    Verdict.FRESH,
)


class Demand(IntEnum):
    """The most that the user and the steps that will run want of a node's result."""

    NOTHING = 0
    """Its trace is enough."""
    BYTES = 1
    """A step that will run reads its blobs, which may be in the store alone."""
    FOLDER = 2
    """The user, or a step that will run, wants its folder."""


class Lookup(Struct, frozen=True, kw_only=True):
    """A node by its key and trace alone, whoever needs it and whatever lies in build/."""

    node: Node
    verdict: Verdict
    """FRESH where there is a trace: whether its result is in place is for the `State` to say."""
    key: str | None = None
    """None while an input has no digest."""
    parts: tuple[Part, ...] = ()
    trace: Trace | None = None
    outputs: Mapping[str, str] | None = None
    """output name -> the content digest that the keys of its users hold."""
    folder: Path | None = None
    reasons: tuple[Reason, ...] = ()
    seconds: float | None = None
    """Wall time of the last run."""
    from_db: bool = False
    """FRESH in the last build, of which this is known: trace and parts were not read again."""
    fault: BuildError | None = None
    """The reason for which it, or a file that it reads, has no digest."""

    @property
    def has_result(self) -> bool:
        """Return whether there is a trace under its key, or was one when it was last FRESH."""
        return self.trace is not None or (self.from_db and self.node.referenced_folder is None)


class State(Lookup, frozen=True, kw_only=True):
    """A lookup in the light of the node's users and of what lies in build/."""

    manifest: Manifest | None = None
    demand: Demand = Demand.NOTHING
    publish_when_built: bool = False
    """A result that is made now goes into build/: it is, or may come to be, wanted there."""

    @staticmethod
    def of(
        lookup: Lookup, *, demand: Demand = Demand.NOTHING, publish_when_built: bool = False
    ) -> State:
        """Return a state with the verdict of the lookup."""
        fields = {name: getattr(lookup, name) for name in Lookup.__struct_fields__}
        return State(**fields, demand=demand, publish_when_built=publish_when_built)
