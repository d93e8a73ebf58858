"""Starts: leases of what has space are asked for at once, and of nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from olivebuild.api.executor import Requirements
from olivebuild.core.fs.locks import try_lock
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.planner.plan import Plan, Planner
from tests.engine.test_builder import Steps, recipe, target
from tests.support.sites import Site

NAMES = [f"t{number}" for number in range(8)]


class Counted(Steps):
    """Steps that know how many of them may start."""

    def free_slots(self, action: Requirements) -> int:
        return self.jobs - len(self._running)


class Machines:
    """A remote cache whose other machines make some nodes, for so many questions."""

    def __init__(self, **makes: int) -> None:
        self.makes = makes
        self.asked: list[list[str]] = []
        self._names: dict[str, str] = {}

    def bring(self, planner: Planner, plan: Plan) -> None:
        self._names = {str(state.key): name for name, state in plan.states.items()}

    def waits(self, key: str) -> bool:
        name = self._names[key]
        self.makes[name] = self.makes.get(name, 0) - 1
        return 0 < self.makes[name] < 3

    def lease(self, keys: Iterable[str]) -> set[str]:
        keys = list(keys)
        self.asked.append([self._names[key] for key in keys])
        return {key for key in keys if self.makes[self._names[key]] < 1}

    def release(self, key: str) -> None: ...
    def use(self, plan: Plan) -> None: ...
    def settle(self) -> None: ...
    def upload(self, planner: Planner, plan: Plan, names: Collection[str]) -> None: ...


def build(root: Path, steps: Steps, machines: Machines, text: str = "") -> BuildReport:
    planner = Site(root, text or recipe(*map(target, NAMES))).planner()
    builder = Builder(planner, steps, lambda event: None, remote=cast("Any", machines))
    try:
        return builder.run(planner.graph.goals(()))
    finally:
        planner.traces.close()


def test_leases_of_all_that_has_space_are_asked_for_at_once(tmp_path: Path) -> None:
    machines, steps = Machines(), Counted(jobs=3)
    assert sorted(build(tmp_path, steps, machines).ran) == NAMES
    assert machines.asked[0] == NAMES[:3]
    # Nobody is kept waiting by a lease of a node that has no slot.
    assert max(map(len, machines.asked)) == 3
    assert sorted(name for names in machines.asked for name in names) == NAMES


def test_an_executor_that_does_not_count_is_given_one_after_the_other(tmp_path: Path) -> None:
    machines, steps = Machines(), Steps(jobs=3)
    assert sorted(build(tmp_path, steps, machines).ran) == NAMES
    assert [len(names) for names in machines.asked] == [1] * len(NAMES)
    assert max(map(len, steps.together)) == 3


def test_the_space_of_what_another_machine_makes_is_others_at_once(tmp_path: Path) -> None:
    machines, steps = Machines(t0=4, t2=4), Counted(jobs=3)
    report = build(tmp_path, steps, machines)
    assert sorted(report.ran) == NAMES
    assert machines.asked[:2] == [["t0", "t1", "t2"], ["t3", "t4"]]
    assert steps.began[:3] == ["t1", "t3", "t4"]


def test_named_resources_of_what_waits_are_taken(tmp_path: Path) -> None:
    more = ", resources: {licence: 1}"
    text = recipe(target("a", more=more), target("b", more=more), target("c"))
    machines, steps = Machines(a=4), Counted(jobs=3)
    assert sorted(build(tmp_path, steps, machines, text).ran) == ["a", "b", "c"]
    # `b` has the licence as soon as it is known that `a` is made elsewhere.
    assert machines.asked[0] == ["a"]
    assert all({"a", "b"} - names for names in steps.together)
    assert steps.began[:2] == ["b", "c"]


def test_locks_of_what_was_interrupted_are_given_back(tmp_path: Path) -> None:
    class Interrupted(Machines):
        def lease(self, keys: Iterable[str]) -> set[str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Counted(jobs=3), Interrupted())
    locks = list((tmp_path / "cache").rglob("*.lock"))
    assert locks
    for file in locks:
        lock = try_lock(file)
        assert lock, file
        lock.close()
