"""The record of a problem at plan time."""

from __future__ import annotations

from typing import NamedTuple

from olivebuild.core.errors import BuildError, InputError, Where


class PlanFinding(NamedTuple):
    """A finding with its place in the recipe, and the nodes that can't run for it."""

    target: str
    where: Where
    fact: str
    hint: str
    nodes: tuple[str, ...]
    fails: bool
    stops: tuple[str, ...] = ()
    """The other targets that can't be made then."""

    def to_json(self) -> dict[str, object]:
        stops = {"stops": list(self.stops)} if self.stops else {}
        return {
            "target": self.target,
            "where": str(self.where),
            "fact": self.fact,
            "hint": self.hint,
            **stops,
        }

    def error(self) -> BuildError:
        return InputError(self.fact, where=self.where, hint=self.hint, target=self.target)
