"""The router: each action to the executor of its target, the rest to this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import (
    NO_REQUIREMENTS,
    Executor,
    Expecting,
    Requirements,
    free_slots,
)
from olivebuild.api.site import SiteRequirements
from olivebuild.core.errors import BuildError

SLICE_SECONDS = 0.02
"""How long one of several executors is waited for."""


class Site(Executor, Protocol):
    """An executor of other machines."""

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        """Return the nodes that can't be made there, and why."""

    @property
    def is_moving(self) -> bool:
        """Return whether blobs are on their way."""

    def hold(self, *, held: bool) -> None:
        """Bring no results while something is timed on this machine."""


class Router:
    """Several executors as one."""

    def __init__(
        self, local: Executor, routes: Mapping[str, str], open_site: Callable[[str], Site]
    ) -> None:
        """`routes`: node -> name of the executor that is to make it.

        `open_site` is called when one is needed first; it raises BuildError.
        """
        self._local = local
        self._routes = routes
        self._open = open_site
        self._sites: dict[str, Site] = {}
        self._where: dict[str, Executor] = {}
        """Node that runs -> where."""
        self._timed = ""
        """The node that is timed on this machine now."""

    def place_of(self, node: str) -> str:
        """Return the name of the executor that makes a node, "" for this machine."""
        return self._routes.get(node, "")

    def missing(self, libraries: Sequence[str]) -> list[str]:
        """Return the libraries that are not installed here."""
        lacks = getattr(self._local, "missing", None)
        return list(lacks(libraries)) if lacks else []

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        """Return the nodes that can't be made where they are to be, and why."""
        refused: dict[str, BuildError] = {}
        by_name: dict[str, dict[str, SiteRequirements]] = {}
        for node, each in wanted.items():
            if name := self.place_of(node):
                by_name.setdefault(name, {})[node] = each
        for name, nodes in by_name.items():
            try:
                refused |= self._site(name).refusals(nodes)
            except BuildError as e:
                refused |= dict.fromkeys(nodes, e)
        return refused

    def prepare(self, modules: Sequence[str]) -> None:
        self._local.prepare(modules)

    def expect(self, kinds: Collection[str], modules: Sequence[str], *, gpus: int) -> None:
        if isinstance(self._local, Expecting):
            self._local.expect(kinds, modules, gpus=gpus)

    def can_start(self, action: Requirements) -> bool:
        """Return whether the executor of a node has room; of what has no name, whether any has."""
        if place := self.place_of(getattr(action, "name", "")):
            return self._site(place).can_start(action)
        if action.exclusive and any(site.is_moving for site in self._sites.values()):
            return False
        return self._local.can_start(action)

    def free_slots(self, action: Requirements) -> int:
        """Return how many such actions could start now where they run."""
        if place := self.place_of(getattr(action, "name", "")):
            return free_slots(self._site(place), action)
        return free_slots(self._local, action)

    def has_room(self, promised: int) -> bool:
        """Return whether there is any use in asking for nodes beside those that are promised."""
        sites = self._sites.values()
        is_unasked = len(sites) < len({*self._routes.values()})
        slots = (free_slots(each, NO_REQUIREMENTS) for each in (self._local, *sites))
        return is_unasked or sum(slots) > promised

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        place = self.place_of(action.node) if action.task == "run" else ""
        executor = self._site(place) if place else self._local
        self._where[action.node] = executor
        if action.exclusive:
            self._timed = action.node
            self._hold(held=True)
        executor.start(action, log, inherit)

    def wait(self, seconds: float) -> Message | Outcome | None:
        deadline = time.monotonic() + seconds
        while True:
            active = list({id(each): each for each in self._where.values()}.values())
            pause = max(0.0, deadline - time.monotonic())
            if len(active) > 1:
                pause = min(pause, SLICE_SECONDS)
            for executor in active or [self._local]:
                if message := executor.wait(pause):
                    if isinstance(message, Outcome):
                        self._ended(message.node)
                    return message
            if time.monotonic() >= deadline:
                return None

    def _ended(self, node: str) -> None:
        self._where.pop(node, None)
        if node == self._timed:
            self._timed = ""
            self._hold(held=False)

    def _hold(self, *, held: bool) -> None:
        for site in self._sites.values():
            site.hold(held=held)

    def cancel(self) -> None:
        for executor in (*self._sites.values(), self._local):
            executor.cancel()
        self._where.clear()

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            self._sites[name] = self._open(name)
        return self._sites[name]
