"""The table of invalidation.py is true: of each fact, the guards that it names differ, and no
guard differs of a cache to which the fact makes no difference.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from olivebuild import snapshot
from olivebuild.core import code_version, numerics, seal
from olivebuild.planner import invalidation
from olivebuild.recipe.file import FILE_NAME, read
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from tests.support.sites import Site

RECIPE = """\
targets:
  a: {kind: command, run: "cp {outputs.o}", files: [in.txt, "more/*.txt"], outputs: {o: a.txt}}
  k: {kind: command, run: "cp {outputs.o}", outputs: {o: k.txt}, env: {keyed: [GREETING]}}
  m: {kind: command, run: "cp {outputs.o}", outputs: {o: m.txt}}
"""
COLUMNS = {
    "node database": {"plan_seal", "global stats", "node_stats"},
    "graph cache": {"graph_stamp"},
    "no-op answer": {"key", "global stats", "node_stats", "answer_stats", "answer_variables"},
}
"""What is observed of each cache."""
NEVER = {"not kept", "always looked up", "seal"}
"""Words of the table for what is no guard that is observed here."""
ELSEWHERE = {
    "other packages' kinds": "test_another_package_s_kind_is_part_of_the_answer",
    "a change within the clock's tick": "test_what_changed_in_the_tick_of_the_look_is_not_kept",
}
"""fact -> the test that has it."""


def table() -> dict[str, dict[str, str]]:
    """The rows of the docstring: fact -> column -> guard."""
    assert invalidation.__doc__
    lines = [line.strip() for line in invalidation.__doc__.splitlines() if line[:4] == " " * 4]
    header, _, *rows = [re.split(r"\s{2,}", line) for line in lines]
    assert header[1:] == [*COLUMNS]
    return {fact: dict(zip(COLUMNS, guards, strict=True)) for fact, *guards in rows}


class Observer:
    """A site whose guards are observed, before and after something changes."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.site = Site(root, RECIPE)
        self.site.write("more/1.txt", "1")
        self.ours = root / "package"
        self.ours.mkdir()
        (self.ours / "step.py").write_text("")
        self.installed = root / "site" / "echoes-1.dist-info" / "METADATA"
        self.installed.parent.mkdir(parents=True)
        self.installed.write_text("Metadata-Version: 2.1\nName: echoes\nVersion: 1\n")
        monkeypatch.setattr(code_version, "ROOT", str(self.ours))
        monkeypatch.setattr(code_version, "_folders", [])
        monkeypatch.setattr(code_version, "_stamps", {})
        monkeypatch.setattr(seal, "key_file", lambda: root / "state" / "key")
        seal._key.cache_clear()
        monkeypatch.syspath_prepend(str(root / "site"))
        monkeypatch.setenv("GREETING", "hello")
        for name in "akm":
            self.site.made(name, o=name)
        self.words, self.settings, self.asked = ["build"], list[str](), list[str]()

    def observe(self) -> dict[str, object]:
        planner = self.site.planner()
        plan = planner.plan(["a", "k", "m"])
        planner.traces.close()
        for name, state in plan.states.items():
            special = name == "m"
            node = replace(state.node, libraries=("echoes",), machine_bound=special, strict=special)
            plan.states[name] = replace(state, node=node)
        recipe, later = read(self.site.folder / FILE_NAME, self.settings), 1 << 62
        paths = invalidation.global_paths(planner, plan)
        variables = invalidation.answer_variables(plan)
        blocks = {
            name: invalidation.node_stats(planner, state, later, later)
            for name, state in plan.states.items()
        }
        assert blocks["a"]
        # Once they have a result, they are always looked up.
        assert not any(blocks[name] for name in "km" if plan.states[name].trace)
        return {
            "plan_seal": invalidation.plan_seal(recipe, planner.store.root, self.asked),
            "graph_stamp": invalidation.graph_stamp(recipe),
            "global stats": {path: snapshot.stat_of(str(path)) for path in paths},
            "node_stats": blocks,
            "key": snapshot.command_key(self.words),
            "answer_stats": invalidation.answer_stats(planner, plan, None),
            "answer_variables": snapshot.values_of(" ".join(variables).encode()),
        }

    def edit(self, file: Path, text: str = "another text") -> None:
        assert not file.exists() or file.read_text() != text
        file.write_text(text)


def _change_settings(o: Observer) -> None:
    o.settings, o.words = ["a.run=true {outputs.o}"], [*o.words, "--set", "a.run=true {outputs.o}"]


def _change_targets(o: Observer) -> None:
    o.asked, o.words = ["a"], [*o.words, "a"]


def _change_words(o: Observer) -> None:
    o.words = [*o.words, "--json"]


def _change_user(o: Observer) -> None:
    o.monkeypatch.setattr(seal, "key_file", lambda: o.site.folder.parent / "another" / "key")
    seal._key.cache_clear()


def _touch_trace(o: Observer) -> None:
    planner = o.site.planner()
    key = planner.plan(["m"]).states["m"].key
    planner.traces.close()
    assert key
    file = planner.traces.file(key)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"\n")


CHANGES: dict[str, Callable[[Observer], object]] = {
    "text of the recipe": lambda o: o.site.edit("targets:\n", "targets:\n\n"),
    "--set": _change_settings,
    "targets that were asked for": _change_targets,
    "other words of the command": _change_words,
    "terminal, colours, locale": lambda o: o.monkeypatch.setenv("NO_COLOR", "x"),
    "working folder, PLAN_VARIABLES": lambda o: o.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7"),
    "interpreter, sys.path, boot, CPUs": lambda o: sys.path.append(str(o.site.folder / "lib")),
    "FORMAT of the files": lambda o: o.monkeypatch.setattr(snapshot, "FORMAT", 1 << 20),
    "the user who kept it": _change_user,
    "our own sources": lambda o: o.edit(o.ours / "other.py"),
    "lock file": lambda o: o.edit(
        o.site.folder / LOCK_NAME, '{"sources": {}, "libraries": {"echoes": "1"}}'
    ),
    "installed libraries": lambda o: o.edit(o.installed, "Metadata-Version: 2.1\nName: echoes\n"),
    "what a node reads": lambda o: o.edit(o.site.folder / "in.txt"),
    "where more files may match": lambda o: o.edit(o.site.folder / "more" / "2.txt"),
    "a node's trace, manifest, build/": lambda o: o.edit(o.site.folder / "build" / "a" / "b.txt"),
    "metrics, machine": _touch_trace,
    "numerics: strict": lambda o: o.monkeypatch.setenv(numerics.SETTINGS[0], "x"),
    "variables that a node is keyed on": lambda o: o.monkeypatch.setenv("GREETING", "bye"),
}


@pytest.fixture
def observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    observer = Observer(tmp_path, monkeypatch)
    yield observer
    seal._key.cache_clear()


def test_each_row_of_the_table_is_tested() -> None:
    assert {*CHANGES, *ELSEWHERE} == table().keys()


@pytest.mark.parametrize("fact", CHANGES)
def test_a_fact_is_guarded_where_the_table_says(fact: str, observer: Observer) -> None:
    before, again = observer.observe(), observer.observe()
    assert before == again
    CHANGES[fact](observer)
    after = observer.observe()
    differ = {name for name in before if before[name] != after[name]}
    for column, guard in table()[fact].items():
        if guard == "-":
            assert not differ & COLUMNS[column], column
        elif guard not in NEVER:
            assert guard in differ & COLUMNS[column], column


def test_what_changed_in_the_tick_of_the_look_is_not_kept(observer: Observer) -> None:
    planner = observer.site.planner()
    state = planner.plan(["a"]).states["a"]
    planner.traces.close()
    later = 1 << 62
    assert invalidation.node_stats(planner, state, later, later)
    assert not invalidation.node_stats(planner, state, 0, later)
    assert not invalidation.node_stats(planner, state, later, 0)
    stat = snapshot.stat_of(str(observer.installed))
    assert stat
    assert invalidation.all_past({"x": stat, "gone": None}, later)
    assert not invalidation.all_past({"x": stat, "gone": None}, max(stat[3:]))
