"""Any sequence of edits, undos, damage, losses and kills, with builds between them: after a build
everything is as a clean build makes it, nothing ran that need not, and a second build runs nothing.

Steps run inside the build's own process here, so that a sequence takes milliseconds; test_kills.py
has real workers.
OLIVEBUILD_EXAMPLES says how many sequences.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from olivebuild import snapshot
from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import Requirements
from olivebuild.api.job import Job
from olivebuild.cache import gc
from olivebuild.cache.store import Store
from olivebuild.core import numerics
from olivebuild.core.errors import BuildError
from olivebuild.core.fs.files import filesystem_time
from olivebuild.engine import noop
from olivebuild.engine.builder import Builder
from olivebuild.planner import incremental, node_db
from olivebuild.planner.plan import FrozenNodeChanged
from olivebuild.planner.project import cache_folder, open_changed, open_project
from tests.conftest import Place
from tests.support.faults import (
    INPUTS,
    VARIABLES,
    Pipeline,
    amount,
    check_blobs,
    check_swept,
    let_a_day_pass,
    quick_folder,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
TARGETS = st.sampled_from(list(INPUTS))
FILES = st.sampled_from(["one.txt", "sub/two.txt"])
MODE, SETTING = VARIABLES


class Inline:
    """An executor that runs each action at once, here."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[Outcome] = SimpleQueue()

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return True

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        job = Job(action, io.StringIO())
        try:
            importlib.import_module(action.runner).run(job)
            self._ended.put(Outcome(action.node, 0.1, 0, job.result, numerics=numerics.here()))
        except BuildError as e:
            self._ended.put(Outcome(action.node, 0.1, 0, None, e))

    def wait(self, seconds: float) -> Message | Outcome | None:
        return None if self._ended.empty() else self._ended.get()

    def cancel(self) -> None:
        pass


def build(folder: Path) -> dict[str, Any]:
    """As the command does it: with what the last build remembered, and remembering for the next."""
    state = folder / ".olivebuild"
    started = filesystem_time(state) if state.is_dir() else 0
    project = open_changed(folder, None, (), (), None)
    try:
        report = Builder(project.planner, Inline(), lambda _: None).run(
            project.goals([]), project.before
        )
    except FrozenNodeChanged:
        project = open_project(folder, None)
        report = Builder(project.planner, Inline(), lambda _: None).run(project.goals([]))
    if report.plan and not report.errors:
        db = incremental.remember(
            project.planner, report.plan, (), project.before, started, report.touched
        )
        if not (report.ran or report.restored):
            noop.save(project, report.plan, db, started, "nothing to do\n", "", 0)
    traces = (
        {name: state.trace for name, state in report.plan.states.items() if state.trace}
        if report.plan
        else {}
    )
    under = {name: trace.provenance["numerics"].get(SETTING, "") for name, trace in traces.items()}
    return {
        "ran": report.ran,
        "restored": report.restored,
        "failed": [e.fact for e in report.errors],
        "under": under,
    }


def plan(folder: Path) -> dict[str, Any]:
    project = open_project(folder, None)
    made = project.planner.plan(project.graph.goals([]))
    project.workspace.memo.save()
    return {name: made.target(name)[0].value for name in made.targets}


def collect(folder: Path) -> dict[str, Any]:
    gc.collect(Store(cache_folder()), gc.Limits(age=0), delete=True)
    return {}


def build_twice(folder: Path) -> dict[str, Any]:
    """All that a build is held to: what was planned before it and after, and what it and the next
    one did.
    """
    answered = snapshot.answer([])[0] == 0
    said = {
        "answered": answered,
        "planned": plan(folder),
        **build(folder),
        "after": plan(folder),
        "again": build(folder),
    }
    return said | {"remembered": snapshot.answer([])[0] == 0}


class Child:
    """A process that does one thing in a folder and tells what came of it."""

    def __init__(self, work: Callable[[Path], dict[str, Any]], place: Place) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                os.close(reader)
                os.environ.update(place.environment, OLIVEBUILD_CACHE=str(place.cache))
                os.chdir(place.folder)
                sys.argv = ["olivebuild"]
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                try:
                    said = work(place.folder)
                except BuildError as e:
                    said = {"error": e.fact}
                except BaseException:  # noqa: BLE001
                    # A forked child reports every error to its parent.
                    said = {"traceback": traceback.format_exc()}
                os.write(writer, json.dumps(said).encode())
            finally:
                os._exit(0)
        os.close(writer)
        self._reader = reader

    def kill(self) -> None:
        for number in (self.pid, -self.pid):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.waitpid(self.pid, 0)
        os.close(self._reader)

    def said(self) -> dict[str, Any]:
        with os.fdopen(self._reader, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        said: dict[str, Any] = json.loads(text)
        assert "traceback" not in said, said["traceback"]
        return said


def flip(file: Path, keep_time: bool) -> None:
    before, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


class Faults(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.share = node_db.PATCH_SHARE
        self.quick = quick_folder()
        self.root = self.quick.__enter__()
        self.place = Place(self.root / "work", self.root / "cache")
        self.pipeline = Pipeline(self.place)
        self.current: set[str] = set()
        """What the last build made."""
        self.known: set[str] = set()
        """Results that the cache must be able to give back."""
        self.missing: set[str] = set()
        """Sources that are not there."""
        self.damaged = False

    def teardown(self) -> None:
        node_db.PATCH_SHARE = self.share
        self.quick.__exit__(None, None, None)

    @initialize(share=st.sampled_from([node_db.PATCH_SHARE, 1]), strict=st.booleans())
    def remember(self, share: int, strict: bool) -> None:
        """So few targets are remembered anew each time, or after some edits."""
        node_db.PATCH_SHARE = share
        if strict:
            self.pipeline.be_strict()

    # What people and machines do

    @rule(
        which=TARGETS,
        text=st.sampled_from("01234"),
        keep_time=st.booleans(),
        by_rename=st.booleans(),
    )
    def edit(self, which: str, text: str, keep_time: bool, by_rename: bool) -> None:
        file = self.place.folder / f"data/{which}.txt"
        before = file.stat() if file.exists() else None
        if by_rename and before:
            shutil.copy2(file, file.with_suffix(".old"))
            os.replace(file.with_suffix(".old"), file)
        self.pipeline.edit(which, text)
        self.missing.discard(which)
        if keep_time and before:
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(which=TARGETS, seconds=st.sampled_from([-1e9, -1, 0, 1, 1e9]))
    def touch(self, which: str, seconds: float) -> None:
        file = self.place.folder / f"data/{which}.txt"
        if file.exists():
            os.utime(file, (time.time() + seconds,) * 2)

    @rule(name=st.sampled_from(VARIABLES), value=st.sampled_from(["", "default", "avx2"]))
    def surround(self, name: str, value: str) -> None:
        """Another shell, or another machine."""
        self.place.environment[name] = value
        self.pipeline.valid = {
            target: {*self.pipeline.valid[target], self.pipeline.content(target)}
            for target in INPUTS
        }

    @rule(which=TARGETS)
    def lose_a_source(self, which: str) -> None:
        (self.place.folder / f"data/{which}.txt").unlink(missing_ok=True)
        self.missing.add(which)

    @rule(words=st.sampled_from(["# a comment\n", "\n\n", "version: 1\n"]))
    def say_the_same_otherwise(self, words: str) -> None:
        text = self.place.recipe.read_text()
        self.place.recipe.write_text(text if words in text else words + text)

    @rule(which=TARGETS, file=FILES, keep_time=st.booleans())
    def flip_a_result(self, which: str, file: str, keep_time: bool) -> None:
        path = self.place.folder / "build" / which / file
        if path.exists():
            flip(path, keep_time)

    @rule(which=TARGETS, file=st.sampled_from(["one.txt", "sub/two.txt", "sub", "."]))
    def lose_a_result(self, which: str, file: str) -> None:
        path = self.place.folder / "build" / which / file
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @rule(which=TARGETS)
    def add_to_a_result(self, which: str) -> None:
        folder = self.place.folder / "build" / which
        if folder.exists():
            (folder / "odd.txt").write_text("odd")

    @rule(
        name=st.sampled_from(
            ["stats.jsonl", "last.jsonl", "seen.bin", "nodes.bin", "graph.json", "."]
        ),
        text=st.sampled_from(["", "{", "[]", '{"a": 1}', None]),
    )
    def spoil_what_is_remembered(self, name: str, text: str | None) -> None:
        path = self.place.folder / ".olivebuild" / name
        if path.is_file() and text is not None:
            path.write_text(text)
        elif path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @rule(count=st.integers(1, 2000), left=st.sampled_from([b"", b"\0\0", b"0 5\nabcde"]))
    def tear_what_is_remembered(self, count: int, left: bytes) -> None:
        path = self.place.folder / ".olivebuild/seen.bin"
        if path.exists():
            path.write_bytes(path.read_bytes()[:-count] + left)

    @rule(
        which=st.integers(0, 1000), how=st.sampled_from(["flip", "flip, time kept", "cut", "lose"])
    )
    def spoil_the_cache(self, which: int, how: str) -> None:
        there = sorted(self.place.cache.glob("blobs/??/*"))
        if not there:
            return
        file = there[which % len(there)]
        if how.startswith("flip"):
            flip(file, keep_time="kept" in how)
        elif how == "cut":
            file.write_bytes(file.read_bytes()[:-1])
        else:
            file.unlink()
        self.known.clear()
        self.damaged = True

    @rule(what=st.sampled_from(["traces", "derived", "locks", "tmp", "blobs", "."]))
    def lose_a_part_of_the_cache(self, what: str) -> None:
        shutil.rmtree(self.place.cache / what, ignore_errors=True)
        if what in ("blobs", "."):
            self.known.clear()

    @rule(milliseconds=st.integers(0, 300))
    def kill(self, milliseconds: int) -> None:
        child = Child(build, self.place)
        time.sleep(milliseconds / 1000)
        child.kill()
        self.pipeline.valid = {
            name: {*self.pipeline.valid[name], self.pipeline.content(name)} for name in INPUTS
        }

    @rule()
    def sweep_the_cache(self) -> None:
        """What the last build made stays, however old."""
        assert Child(collect, self.place).said() == {}
        self.known &= self.current

    # What must hold

    @rule()
    def build(self) -> None:
        known, damaged = {*self.known}, self.damaged
        before = self.place.everything()
        let_a_day_pass(self.place)
        said = Child(build_twice, self.place).said()
        if self.missing:
            assert said["error"] in {f"data/{name}.txt does not exist" for name in self.missing}
            assert self.place.everything() == before
            return
        assert said["failed"] == [], said
        if said["answered"]:
            assert said["planned"] == dict.fromkeys(INPUTS, "fresh")
        assert self.place.everything() == self.pipeline.expected()
        check_swept(self.place)
        if not damaged:
            assert not {self.pipeline.content(name) for name in said["ran"]} & known
            self.check_plan(said["planned"], said)
        assert said["after"] == dict.fromkeys(INPUTS, "fresh")
        assert {word: said["again"][word] for word in ("ran", "restored", "failed")} == {
            "ran": [],
            "restored": [],
            "failed": [],
        }
        # Traces name the numerics under which a clean build would have given this; strict ones are
        # those of now.
        now = self.place.environment.get(SETTING, "")
        under = said["again"]["under"]
        assert {name for name, setting in said["under"].items() if name in said["ran"]} <= {
            name for name, setting in under.items() if setting == now
        }
        assert not self.pipeline.strict or set(under.values()) <= {now}
        check_blobs(self.place.cache) if not damaged else None
        self.current = {self.pipeline.content(name) for name in INPUTS}
        self.known |= self.current

    def check_plan(self, verdicts: dict[str, str], said: dict[str, Any]) -> None:
        """The build did what was planned. What waited may have been found in the cache."""
        by_verdict = {
            v: {name for name, verdict in verdicts.items() if verdict == v}
            for v in ("fresh", "cached", "stale", "waiting")
        }
        ran, restored = {*said["ran"]}, {*said["restored"]}
        assert by_verdict["stale"] <= ran <= by_verdict["stale"] | by_verdict["waiting"]
        assert by_verdict["cached"] <= restored <= by_verdict["cached"] | by_verdict["waiting"]


def test_any_sequence() -> None:
    examples = amount("EXAMPLES", 20)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    # The same ones each time, so that a change of something else never fails here; a long run draws
    # new ones.
    fixed = "OLIVEBUILD_EXAMPLES" not in os.environ
    chosen = settings(
        max_examples=examples,
        stateful_step_count=25,
        database=None,
        derandomize=fixed,
        phases=[Phase.generate],
        suppress_health_check=checks,
    )
    run_state_machine_as_test(Faults, settings=chosen)
