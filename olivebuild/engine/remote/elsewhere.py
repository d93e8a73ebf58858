"""Nodes that another machine makes: which they are, what they ask of it, and what it refuses.

An executor that has other machines says so by `place_of` and `refusals`; see executors/router.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import ceil

from msgspec.structs import replace

from olivebuild.api.action import Action
from olivebuild.api.node import Node
from olivebuild.api.site import Needs, SiteRequirements
from olivebuild.core.errors import BuildError
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict

OF_A_MACHINE = ("gpu", "cores", "memory", "time", "nodes")
"""Resources that the site gives, and this machine does not."""
Refusals = Callable[[Mapping[str, SiteRequirements]], dict[str, BuildError]]


class Elsewhere:
    """The nodes of a build that another machine makes; none where the executor has none."""

    def __init__(self, planner: Planner, executor: object) -> None:
        self._planner = planner
        self._place_of: Callable[[str], str] | None = getattr(executor, "place_of", None)
        self._refusals: Refusals | None = getattr(executor, "refusals", None)
        self._has_room: Callable[[int], bool] = getattr(executor, "has_room", lambda _: True)

    def __bool__(self) -> bool:
        return self._place_of is not None

    def __contains__(self, node: Node) -> bool:
        return bool(self._place_of and self._place_of(node.name))

    def place_of(self, node: Node) -> str:
        """Return the name of the executor that makes a node, "" for this machine."""
        return self._place_of(node.name) if self._place_of else ""

    def has_room(self, promised: int) -> bool:
        """Return whether any machine has room for one more node than those that are promised."""
        return self._has_room(promised)

    def told_of(self, node: Node) -> dict[str, str]:
        """Return what events say of where a node is made; nothing for this machine."""
        place = self.place_of(node)
        return {"executor": place} if place else {}

    def asking(self, action: Action, node: Node) -> Action:
        """Return an action with what it asks of the machine that it goes to."""
        if node not in self:
            return action
        return action._replace(elsewhere=requirements(self._planner, node))

    def names(self, plan: Plan) -> frozenset[str]:
        """Return the nodes of a plan that are made elsewhere."""
        if not self:
            return frozenset()
        return frozenset(name for name, state in plan.states.items() if state.node in self)

    def refused(self, plan: Plan) -> Iterator[tuple[Node, BuildError]]:
        """Yield the nodes that would run and can't be made where they are to be, and why.

        It connects to the sites that are to make something, and to no others.
        """
        wanted = {
            name: requirements(self._planner, state.node)
            for name, state in plan.states.items()
            if state.node in self and self._will_run(state)
        }
        if not wanted or not self._refusals:
            return
        for name, error in self._refusals(wanted).items():
            node = plan.states[name].node
            recipe = self._planner.scan.recipe
            error.where = error.where or recipe.where(node.target, ("executor",))
            yield node, error

    def _will_run(self, state: State) -> bool:
        if state.verdict is Verdict.WAITING:
            # One that was made before may turn out to be the same.
            return state.node.name not in self._planner.workspace.last
        return state.verdict is Verdict.STALE


def requirements(planner: Planner, node: Node) -> SiteRequirements:
    """Return what a machine has to have on which a node is made."""
    scan = planner.scan
    machine = scan.machine(node)
    prefix = "numerics."
    return SiteRequirements(
        needs=needs_of(node),
        libraries=scan.libraries(node),
        variables=scan.variables(node),
        numerics={
            name.removeprefix(prefix): value
            for name, value in machine.items()
            if name.startswith(prefix)
        },
        scripts=[str(path) for path in scan.program(node).modules] if node.program else [],
    )


def needs_of(node: Node) -> Needs:
    """Return what a node's resources say that it takes of a site."""
    amount = node.resources.get
    return Needs(
        gpus=ceil(amount("gpu", 0)),
        cores=ceil(amount("cores", 0)),
        memory=ceil(amount("memory", 0)),
        seconds=ceil(amount("time", 0)),
        nodes=max(1, ceil(amount("nodes", 1))),
    )


def without_machine(node: Node) -> Node:
    """Return a node as it takes of what this build shares out, where another machine makes it."""
    resources = {name: n for name, n in node.resources.items() if name not in OF_A_MACHINE}
    return replace(node, gpu=False, resources=resources)
