"""What of a plan has changed since somebody looked: so that nobody looks at all of it each time.

Of a hundred thousand nodes, a step that ends changes a few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from olivebuild.api.node import Node
from olivebuild.planner.states import Lookup, State, Verdict


class Changing(Protocol):
    """A plan, as far as it is needed here."""

    @property
    def lookups(self) -> Mapping[str, Lookup]: ...
    @property
    def states(self) -> Mapping[str, State]: ...
    @property
    def changes(self) -> list[str]: ...


class Changes:
    """The nodes of a plan of which something changed; at first, all of them."""

    def __init__(self, plan: Changing) -> None:
        self.plan = plan
        self._at = -1

    def take(self) -> list[str]:
        """Return the names of those that were not returned since they changed."""
        at, self._at = self._at, len(self.plan.changes)
        if at < 0:
            return list(self.plan.states)
        return list(dict.fromkeys(self.plan.changes[at:]))


class KeyIndex:
    """The nodes of a plan by key."""

    def __init__(self, plan: Changing) -> None:
        self._plan = plan
        self._changes = Changes(plan)
        self._keys: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def names_of(self, keys: Iterable[str]) -> set[str]:
        """Return the nodes that have any of some keys."""
        self._refresh()
        return {name for key in keys for name in self._names.get(key, ())}

    def with_equal_keys(self, names: Iterable[str]) -> set[str]:
        """Return nodes, and those with the same keys."""
        self._refresh()
        names = set(names)
        return names | self.names_of({self._keys[n] for n in names if n in self._keys})

    def _refresh(self) -> None:
        for name in self._changes.take():
            if before := self._keys.pop(name, None):
                self._names[before].discard(name)
            if key := self._plan.lookups[name].key:
                self._keys[name] = key
                self._names.setdefault(key, set()).add(name)


class StaleKinds:
    """The nodes of a plan that would run now, by kind and by whether their worker goes on."""

    def __init__(self, plan: Changing) -> None:
        self._plan = plan
        self._changes = Changes(plan)
        self._groups: dict[tuple[str, bool], dict[str, None]] = {}

    def one_of_each(self, kinds: Collection[str], but: str) -> list[Node]:
        """Return one node of each group of some kinds, and not the node `but`."""
        for name in self._changes.take():
            state = self._plan.states[name]
            names = self._groups.setdefault((state.node.kind, state.node.reuses_worker), {})
            if state.verdict is Verdict.STALE:
                names[name] = None
            else:
                names.pop(name, None)
        groups = (names for (kind, _), names in self._groups.items() if kind in kinds)
        firsts = (next((name for name in names if name != but), "") for names in groups)
        return [self._plan.states[name].node for name in firsts if name]
