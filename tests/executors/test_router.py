"""Several executors as one: each action where its node is to be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import NO_REQUIREMENTS, Requirements, Resources
from olivebuild.api.node import Node
from olivebuild.api.site import SiteRequirements
from olivebuild.core.errors import BuildError, StepError
from olivebuild.executors.router import Router


class Machine:
    """An executor whose actions end when they are waited for."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.running: list[str] = []
        self.held: list[bool] = []
        self.is_moving = False
        self.cancelled = False

    def prepare(self, modules: Sequence[str]) -> None: ...

    def can_start(self, action: Requirements) -> bool:
        return len(self.running) < self.slots

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        return {name: StepError("too large", hint="") for name in wanted if name == "large"}

    def hold(self, *, held: bool) -> None:
        self.held.append(held)

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self.running.append(action.node)

    def wait(self, seconds: float) -> Message | Outcome | None:
        return Outcome(self.running.pop(0), 1.0) if self.running else None

    def cancel(self) -> None:
        self.cancelled = True


class Machines:
    def __init__(self, **routes: str) -> None:
        self.local = Machine()
        self.opened: dict[str, Machine] = {}
        self.router = Router(self.local, routes, self.open)

    def open(self, name: str) -> Machine:
        if name == "down":
            raise StepError("no such host", hint="")
        return self.opened.setdefault(name, Machine(2))


def node(name: str, *, exclusive: bool = False) -> Node:
    return Node(name, name, "command", 1, {}, exclusive=exclusive)


@pytest.fixture
def action(tmp_path: Path) -> Callable[..., Action]:
    def make(name: str, **changes: object) -> Action:
        out = str(tmp_path)
        return Action(name, name, "command", "", {}, {}, {}, out, out)._replace(**changes)  # type: ignore[arg-type]

    return make


def test_each_action_goes_where_its_node_is_made(action: Callable[..., Action]) -> None:
    machines = Machines(a="box", b="box", c="cluster")
    router = machines.router
    assert (router.place_of("a"), router.place_of("d")) == ("box", "")
    assert machines.opened == {}
    for name in "abcd":
        assert router.can_start(node(name))
        router.start(action(name), Path())
    assert machines.local.running == ["d"]
    assert {name: machine.running for name, machine in machines.opened.items()} == {
        "box": ["a", "b"],
        "cluster": ["c"],
    }
    # Each has room of its own.
    assert router.has_room(0)
    assert not router.has_room(1)
    machines.opened["cluster"].slots = 1
    assert not router.has_room(0)
    machines.opened["cluster"].slots = 2
    assert not router.can_start(node("e"))
    assert not router.can_start(NO_REQUIREMENTS)
    assert not router.can_start(node("a"))
    assert router.can_start(node("c"))
    ended = {message.node for _ in range(4) if (message := router.wait(1.0))}
    assert ended == set("abcd")
    assert router.wait(0.01) is None
    router.cancel()
    assert all(machine.cancelled for machine in (machines.local, *machines.opened.values()))


def test_what_is_pinned_is_pinned_here(action: Callable[..., Action]) -> None:
    machines = Machines(a="box")
    machines.router.start(action("a", task="pin"), Path())
    assert (machines.local.running, machines.opened) == (["a"], {})


def test_a_site_is_asked_only_where_it_is_to_make_something() -> None:
    machines = Machines(a="box", large="box", b="down", c="cluster")
    wanted = dict.fromkeys(("a", "large", "b", "local"), SiteRequirements())
    refused = machines.router.refusals(wanted)
    assert {name: error.fact for name, error in refused.items()} == {
        "large": "too large",
        "b": "no such host",
    }
    assert [*machines.opened] == ["box"]


def test_nothing_moves_beside_what_is_timed(action: Callable[..., Action]) -> None:
    machines = Machines(a="box")
    router, timed = machines.router, Resources(exclusive=True)
    router.start(action("a"), Path())
    box = machines.opened["box"]
    box.is_moving = True
    assert not router.can_start(timed)
    assert router.can_start(node("b"))
    box.is_moving = False
    assert router.can_start(timed)
    router.start(action("timed", exclusive=True), Path())
    assert box.held == [True]
    while message := router.wait(0.1):
        if message.node == "timed":
            break
    assert box.held == [True, False]
