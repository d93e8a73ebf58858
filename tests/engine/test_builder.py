"""The build loop with steps that take no time: what runs when, what a failure stops, and that no
step of it decides otherwise than a plan.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.event import Event
from olivebuild.api.executor import Requirements
from olivebuild.api.result import Result
from olivebuild.core import hashing
from olivebuild.core.errors import RecipeError, StepError
from olivebuild.core.fs.files import filesystem_time, wait_for_tick
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.engine.scheduler import ResourcePool, limits_of
from olivebuild.planner import incremental
from olivebuild.planner.plan import FrozenNodeChanged, Plan, Planner
from olivebuild.planner.states import State, Verdict
from tests.support import sites


class Site(sites.Site):
    remembered = 0
    """Nodes that were not looked up again, in all builds ..."""
    strayed = 0
    """... and builds that had to begin anew."""


class Steps:
    """An executor whose actions end in the order in which they began; the content that one makes is
    a digit of its command and inputs.
    """

    def __init__(self, jobs: int = 1, fail: Iterable[str] = (), gpus: int | None = None) -> None:
        self.jobs, self.fail, self.gpus = jobs, set(fail), gpus
        self.began: list[str] = []
        self.together: list[set[str]] = []
        self._running: list[Action] = []

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        if self._running and (action.exclusive or any(a.exclusive for a in self._running)):
            return False
        return len(self._running) < self.jobs and (
            self.gpus is None or sum(a.gpus for a in self._running) + action.gpus <= self.gpus
        )

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self._running.append(action)
        self.began.append(action.node)
        self.together.append({a.node for a in self._running})

    def wait(self, seconds: float) -> Message | Outcome | None:
        action = self._running.pop(0)
        if action.target in self.fail:
            return Outcome(action.node, 1.0, error=StepError("it failed", hint="none"))
        given = [hashing.of_file(Path(i.path)) for i in action.inputs.values()] + [
            hashing.of_file(Path(p)) for ps in action.files.values() for p in ps
        ]
        outputs: Any = action.fields["outputs"]
        for path in outputs.values():
            (Path(action.out) / path).write_text(hashing.of_json([action.fields["run"], given])[0])
        return Outcome(action.node, 1.0, result=Result())

    def cancel(self) -> None:
        self._running.clear()


def assert_same(one: Plan, other: Plan) -> None:
    assert list(one.states) == list(other.states)
    for a, b in zip(one.states.values(), other.states.values(), strict=True):
        assert facts(a) == facts(b)
        if not (a.from_db or b.from_db):
            assert (a.parts, a.trace, a.manifest) == (b.parts, b.trace, b.manifest)


def facts(s: State) -> object:
    return (
        s.node.name,
        s.verdict,
        s.key,
        s.outputs,
        s.reasons,
        s.seconds,
        s.demand,
        s.publish_when_built,
        s.folder,
    )


@pytest.fixture(autouse=True)
def _compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time a build brings its plan up to date, a new plan must say the same."""
    real = Planner.update

    def update(self: Planner, plan: Plan, changed: Iterable[str]) -> None:
        real(self, plan, changed)
        whole = replace(self, frozen=frozenset())
        assert_same(plan, whole.plan(plan.goals, with_faults=True))

    monkeypatch.setattr(Planner, "update", update)


def run(
    site: Site,
    steps: Steps,
    *goals: str,
    pool: ResourcePool | None = None,
    keep_going: bool = False,
) -> tuple[BuildReport, list[Event]]:
    """As the command line does it: with what the last build of the same goals left."""
    state = site.folder / ".olivebuild"
    wait_for_tick(state, filesystem_time(state))
    started = filesystem_time(state)
    full = site.planner()
    events: list[Event] = []
    wanted, recipe = full.graph.goals(goals), full.graph.recipe
    planner = full
    try:
        if tried := incremental.recall(recipe, state, full.store.root, goals):
            site.remembered += len(full.graph.closure(wanted)) - len(tried.changed)
            planner = replace(full, graph=tried.graph, frozen=tried.frozen)
            try:
                planner.update(tried.plan, tried.changed)
                assert_part(tried.plan, site.planner().plan(wanted))
            except FrozenNodeChanged:
                site.strayed += 1
        before = incremental.recall(recipe, state, full.store.root, goals)
        try:
            report = Builder(planner, steps, events.append, pool, keep_going=keep_going).run(
                wanted, before
            )
        except FrozenNodeChanged:
            before, planner = None, site.planner()
            report = Builder(planner, steps, events.append, pool, keep_going=keep_going).run(wanted)
        if report.plan and not report.errors:
            incremental.remember(planner, report.plan, goals, before, started, report.touched)
        return report, events
    finally:
        full.traces.close()


def assert_part(part: Plan, whole: Plan) -> None:
    """What is in a part is as it is in the whole, and the rest is fresh."""
    assert {name: facts(s) for name, s in part.states.items()} == {
        name: facts(whole.states[name]) for name in part.states
    }
    assert {s.verdict for name, s in whole.states.items() if name not in part.states} <= {
        Verdict.FRESH
    }
    assert (part.fresh, part.seconds_elsewhere) == (
        whole.fresh,
        sum(s.seconds or 0 for n, s in whole.states.items() if n not in part.states),
    )


def target(name: str, *inputs: str, run: str = "", more: str = "") -> str:
    given = f"inputs: [{', '.join(f'{i}.o' for i in inputs)}]" if inputs else "files: [in.txt]"
    return (
        f"  {name}: {{kind: command, run: 'x {run or name}', {given}, outputs: {{o: "
        f"{name}.txt}}{more}}}\n"
    )


def recipe(*targets: str) -> str:
    return "targets:\n" + "".join(targets)


def test_inputs_come_first_and_a_second_build_runs_nothing(tmp_path: Path) -> None:
    site = Site(
        tmp_path, recipe(target("a"), target("b", "a"), target("c", "a"), target("d", "b", "c"))
    )
    steps = Steps()
    assert run(site, steps)[0].ran == ["a", "b", "c", "d"]
    report, _ = run(site, steps)
    assert (report.ran, report.restored, report.fresh) == ([], [], ["a", "b", "c", "d"])


def test_a_trace_that_lacks_an_output_is_made_anew(tmp_path: Path) -> None:
    site, steps = Site(tmp_path, recipe(target("a"), target("b", "a"))), Steps()
    run(site, steps)
    planner = site.planner()
    trace = planner.plan(["b"]).states["a"].trace
    assert trace
    planner.traces.put(replace(trace, outputs={"": trace.outputs[""]}))
    planner.traces.close()
    assert run(site, steps)[0].ran == ["a"]
    assert run(site, steps)[0].ran == []


def test_one_of_equal_keys_runs_and_the_others_are_restored(tmp_path: Path) -> None:
    site = Site(
        tmp_path,
        recipe(*(target(f"t{i}", run="same").replace(f"t{i}.txt", "o.txt") for i in range(5))),
    )
    report, events = run(site, Steps(jobs=4))
    assert (len(report.ran), len(report.restored)) == (1, 4)
    assert "waiting" not in {e.name for e in events}


@pytest.mark.parametrize("keep_going", [False, True])
def test_what_a_failure_stops(tmp_path: Path, keep_going: bool) -> None:
    site = Site(
        tmp_path,
        recipe(
            target("bad"),
            target("after", "bad"),
            target("good"),
            target("also", "good"),
            target("both", "also", "after"),
        ),
    )
    report, _ = run(site, Steps(fail=["bad"]), keep_going=keep_going)
    assert report.failed == ["bad"]
    assert report.ran == (["good", "also"] if keep_going else [])
    assert [e.exit_code for e in report.errors] == [1]
    report, _ = run(site, Steps())
    assert sorted([*report.ran, *report.fresh]) == ["after", "also", "bad", "both", "good"]


def test_what_runs_when_another_fails_may_end(tmp_path: Path) -> None:
    site = Site(tmp_path, recipe(target("bad"), target("good"), target("third")))
    report, _ = run(site, Steps(jobs=2, fail=["bad"]))
    assert (report.failed, report.ran) == (["bad"], ["good"])


def test_the_longest_chain_by_recorded_cost_goes_first(tmp_path: Path) -> None:
    names = ("short", "long", "middle")
    site = Site(tmp_path, recipe(*(target(n) for n in names), *(target(f"{n}2", n) for n in names)))
    for name, seconds in (("short", 1.0), ("long", 2.0), ("middle", 5.0)):
        site.made(name, seconds=seconds, o="1")
    for name, seconds in (("short2", 1.0), ("long2", 60.0), ("middle2", 5.0)):
        site.made(name, seconds=seconds, o="1")
    site.write("in.txt", "other")
    steps = Steps()
    run(site, steps)
    assert [n for n in steps.began if n in names] == ["long", "middle", "short"]
    assert steps.began.index("long2") == 1


def test_no_two_share_what_there_is_one_of(tmp_path: Path) -> None:
    more = ", resources: {gpu: 1, memory: 6GB}"
    site = Site(
        tmp_path,
        recipe(
            target("a", more=more),
            target("b", more=more),
            target("c", more=", resources: {memory: 2GB}"),
            target("d"),
        ),
    )
    steps = Steps(jobs=4)
    run(site, steps, pool=ResourcePool(limits_of(("gpu=2", "memory=8GB"), {})))
    assert {"a", "c", "d"} in steps.together
    assert not any({"a", "b"} <= names for names in steps.together)


def test_a_step_that_takes_a_gpu_counts_where_the_number_of_gpus_is_said(tmp_path: Path) -> None:
    site = Site(tmp_path, recipe(*(target(n, more=", gpu: true") for n in ("a", "b"))))
    steps = Steps(jobs=2)
    run(site, steps, pool=ResourcePool({"gpu": 1}))
    assert steps.together == [{"a"}, {"b"}]


def test_a_step_takes_as_many_gpus_as_its_resources_say(tmp_path: Path) -> None:
    given = {
        "a": ", gpu: true, resources: {gpu: 2}",
        "b": ", gpu: true",
        "c": ", resources: {gpu: 2}",
    }
    site = Site(tmp_path, recipe(*(target(n, more=more) for n, more in given.items())))
    steps = Steps(jobs=3, gpus=2)
    run(site, steps)
    assert not any({"a", "b"} <= names for names in steps.together)
    assert any("c" in names and len(names) > 1 for names in steps.together)


def test_what_nobody_set_a_limit_to_is_not_shared_unawares(tmp_path: Path) -> None:
    site = Site(
        tmp_path, recipe(*(target(n, more=", resources: {licence: 1}") for n in ("a", "b")))
    )
    steps = Steps(jobs=2)
    run(site, steps)
    assert steps.together == [{"a"}, {"b"}]


def test_more_than_there_is_is_told_with_its_place(tmp_path: Path) -> None:
    site = Site(tmp_path, recipe(target("a", more=", resources: {memory: 64GB}")))
    with pytest.raises(RecipeError) as caught:
        run(site, Steps(), pool=ResourcePool(limits_of(("memory=8GB",), {})))
    assert (str(caught.value.where), caught.value.fact) == (
        "olivebuild.yaml:2:84",
        "a takes more memory than there is: 8 GB",
    )


@pytest.mark.parametrize("amount", [".inf", ".nan", "-1", "many", "true", "[1]"])
def test_an_amount_that_is_none_is_told_with_its_place(tmp_path: Path, amount: str) -> None:
    site = Site(tmp_path, recipe(target("a", more=f", gpu: true, resources: {{gpu: {amount}}}")))
    with pytest.raises(RecipeError, match="not an amount") as caught:
        run(site, Steps())
    assert str(caught.value.where).startswith("olivebuild.yaml:2:")


class TimedSite(Site):
    """A site of which the step `timed` runs alone."""

    def planner(self) -> Planner:
        planner = super().planner()
        nodes = planner.graph.nodes
        nodes["timed"] = replace(nodes["timed"], exclusive=True)
        return planner


@pytest.mark.parametrize("seed", range(4))
def test_nothing_runs_or_is_restored_beside_what_is_timed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    names = [f"t{i}" for i in range(8)]
    names.insert(seed, "timed")
    targets = [
        target(name, *chance.sample(names[:i], min(i, chance.randrange(2))))
        for i, name in enumerate(names)
    ]
    site, timed = TimedSite(tmp_path, recipe(*targets)), 0
    for _ in range(4):
        site.write("in.txt", str(chance.random()) if chance.random() < 0.5 else "input")
        for name in names:
            if chance.random() < 0.5:
                shutil.rmtree(site.folder / "build" / name, ignore_errors=True)
        steps = Steps(jobs=3)
        _, events = run(site, steps)
        assert all(nodes == {"timed"} for nodes in steps.together if "timed" in nodes)
        told = [
            (event.name, event.data["node"])
            for event in events
            if event.name in ("started", "finished", "restored")
        ]
        if ("started", "timed") in told:
            at = told.index(("started", "timed"))
            assert told[at + 1] == ("finished", "timed")
            timed += 1
    assert timed


class Uploading:
    """A remote cache whose uploads go on until they are waited for."""

    def __init__(self) -> None:
        self.uploads = 0
        self.waited = 0

    def bring(self, planner: Planner, plan: Plan) -> None:
        """Nothing is there."""

    def waits(self, key: str) -> bool:
        return False

    def lease(self, keys: Iterable[str]) -> set[str]:
        return set(keys)

    def release(self, key: str) -> None:
        """Others may make it."""

    def use(self, plan: Plan) -> None:
        """Keep it."""

    def upload(self, planner: Planner, plan: Plan, names: Collection[str]) -> None:
        self.uploads += len(names)

    def settle(self) -> None:
        self.waited += self.uploads
        self.uploads = 0


class Alone(Steps):
    """Steps that look at uploads when one begins that is timed."""

    def __init__(self, remote: Uploading) -> None:
        super().__init__()
        self.remote = remote

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        assert not (action.exclusive and self.remote.uploads)
        super().start(action, log, inherit)


def test_nothing_is_uploaded_beside_what_is_timed(tmp_path: Path) -> None:
    site = TimedSite(tmp_path, recipe(target("a"), target("timed", "a"), target("c", "timed")))
    remote = Uploading()
    planner = site.planner()
    builder = Builder(planner, Alone(remote), lambda event: None, remote=cast("Any", remote))
    assert builder.run(["c"]).ran == ["a", "timed", "c"]
    assert (remote.waited, remote.uploads) == (1, 2)
    planner.traces.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_build_decides_as_plans_do_whatever_happened(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lazy = [
        target(f"t{i}", *chance.sample([f"t{j}" for j in range(i)], min(i, chance.randrange(3))))
        for i in range(9)
    ]
    site = Site(tmp_path, recipe(*lazy))
    for _ in range(8):
        steps = Steps(
            jobs=chance.choice([1, 3]),
            fail=[f"t{chance.randrange(9)}"] if chance.random() < 0.3 else [],
        )
        run(site, steps, *chance.choice([(), ("t3", "t7")]), keep_going=chance.random() < 0.5)
        report, _ = run(site, Steps())
        assert not report.errors
        known = site.remembered
        report, _ = run(site, Steps())
        assert (report.ran, report.restored, site.remembered - known) == ([], [], 9)
        for _ in range(chance.randrange(3)):
            name = f"t{chance.randrange(9)}"
            what = chance.choice(["input", "folder", "blobs", "traces", "flip"])
            if what == "input":
                site.write("in.txt", chance.choice("abc"))
            elif what == "folder":
                shutil.rmtree(site.folder / "build" / name)
            elif what == "flip" and (site.folder / "build" / name).is_dir():
                site.write(f"build/{name}/{name}.txt", "?")
            elif what == "blobs":
                for p in site.cache.glob("blobs/??/*"):
                    if not p.suffix and chance.random() < 0.3:
                        p.unlink()
            else:
                shutil.rmtree(site.cache / "traces", ignore_errors=True)
                for p in site.cache.glob("blobs/??/*.trace"):
                    if chance.random() < 0.3:
                        p.unlink()
