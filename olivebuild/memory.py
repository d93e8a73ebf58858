"""What the last build of the same goals knew of each node, and the stats that made it so: what has not changed is not looked up again.

A node is remembered as fresh only together with every file and folder on which that depends. Anything else (a changed recipe, other
goals, other versions, a file that changed in the tick in which it was looked at) is looked at anew. Deleting it costs time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from olivebuild import digest, snapshot
from olivebuild.node import Record
from olivebuild.plan import Plan, Planner, State, Verdict

FILE_NAME = "memory.json"
ABSENT = (-1, -1, -1, -1, -1)


class Seen(Record, frozen=True):
    """Paths and their stats, five numbers each. Without any, nothing is known."""

    paths: tuple[str, ...] = ()
    stats: tuple[int, ...] = ()

    def same(self) -> bool:
        try:
            found = [n for stat in map(snapshot.FIELDS, map(os.stat, self.paths)) for n in stat]
        except OSError:
            found = [n for path in self.paths for n in snapshot.stat_of(path) or ABSENT]
        return bool(self.paths) and found == list(self.stats)


class Known(Record, frozen=True):
    """A node that was fresh."""

    name: str
    key: str
    outputs: dict[str, str]
    seconds: float | None
    folder: str
    needed: bool
    publish: bool
    seen: Seen


class Memory(Record, frozen=True):
    surroundings: str
    everywhere: Seen
    nodes: tuple[Known, ...]


@dataclass
class Recalled:
    """`plan` is the last one of these goals, in which all was fresh; `changed` are the nodes of which that must be found out anew."""

    plan: Plan
    changed: set[str]
    known: dict[str, Known]


def recall(planner: Planner, goals: Iterable[str]) -> Recalled | None:
    try:
        check, _, text = (planner.workspace.state / FILE_NAME).read_bytes().partition(b"\n")
        if check.decode() != digest.of_bytes(text):
            return None
        memory = msgspec.json.decode(text, type=Memory)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    plan, nodes = Plan(list(goals)), planner.graph.nodes
    if memory.surroundings != _surroundings(planner, plan.goals) or not memory.everywhere.same():
        return None
    changed = {known.name for known in memory.nodes if not known.seen.same()}
    for known in memory.nodes:
        found = State(nodes[known.name], Verdict.FRESH, known.key, outputs=known.outputs, seconds=known.seconds, thin=True)
        folder = Path(known.folder) if known.folder else None
        plan.found[known.name] = found
        plan.states[known.name] = replace(found, folder=folder, needed=known.needed, publish=known.publish)
    return Recalled(plan, changed, {known.name: known for known in memory.nodes})


def _surroundings(planner: Planner, goals: list[str]) -> str:
    """All but files on which a plan depends. The graph stands for the recipe's text, and our sources are among the files."""
    recipe = planner.graph.recipe
    return digest.of_json([recipe.text, recipe.settings, goals, str(planner.store.root), snapshot.surroundings()])


def remember(planner: Planner, plan: Plan, before: Recalled | None, started: int, touched: set[str]) -> None:
    """Keep what a build knows at its end, when all is fresh. `touched`: what it made or put into build/ itself.

    `started`: the file system's time before the first look. What was changed at that time or later may have changed after we looked.
    """
    state = planner.workspace.state
    if touched:
        # What was made meanwhile is looked at once more, when its times are past.
        now = digest.filesystem_time(state)
        digest.wait_for_tick(state, now)
        later = digest.filesystem_time(state)
        planner.workspace.memo.start_scan()
        planner.update(plan, touched)
    if any(s.verdict is not Verdict.FRESH for s in plan.states.values()):
        return
    nodes = []
    for name, one in plan.states.items():
        seen = before.known[name].seen if before and one.thin else _seen(planner, one, later if name in touched else started, started)
        folder = str(one.folder or "")
        nodes.append(Known(name, one.key or "", dict(one.outputs or {}), one.seconds, folder, one.needed, one.publish, seen))
    paths = everywhere(planner, plan)
    stats = {path: snapshot.stat_of(path) or ABSENT for path in sorted(map(str, paths))}
    if not all(digest.is_past(stat, started) for stat in stats.values()):
        return
    memory = Memory(_surroundings(planner, plan.goals), Seen(tuple(stats), tuple(n for s in stats.values() for n in s)), tuple(nodes))
    # Losing it costs time only.
    with contextlib.suppress(OSError, UnicodeEncodeError):
        text = msgspec.json.encode(memory)
        digest.write_atomically(state / FILE_NAME, digest.of_bytes(text).encode() + b"\n" + text)


def _seen(planner: Planner, state: State, looked: int, scanned: int) -> Seen:
    """What a node depends on, as it was when it was looked at: the files it reads at `scanned`, the results at `looked`."""
    if state.trace and (state.trace.metrics or state.node.machine):
        # Somebody may ask for its figures, or the machine may have changed: these few are looked up each time.
        return Seen()
    stats: dict[str, tuple[int, ...]] = {}
    for path in results(planner, state):
        stats[str(path)] = snapshot.stat_of(str(path)) or ABSENT
    racy = not all(digest.is_past(stat, looked) for stat in stats.values())
    for path, stat in planner.scan.seen_for(state.node).items():
        stats[str(path)] = stat or ABSENT
        racy |= stat is not None and not digest.is_past(stat, scanned)
    return Seen() if racy else Seen(tuple(stats), tuple(n for stat in stats.values() for n in stat))


def results(planner: Planner, state: State) -> set[Path]:
    """Where a node's trace, manifest and files in build/ lie."""
    paths: set[Path] = set()
    if state.trace:
        paths.add(planner.store.path(state.trace.key).with_suffix(".trace"))
        if state.trace.manifest:
            paths.add(planner.store.path(state.trace.manifest))
    if state.node.name == state.node.target:
        place = planner.workspace.place(state.node.target)
        paths |= {place, *place.rglob("*")}
    return {path.absolute() for path in paths}


def everywhere(planner: Planner, plan: Plan) -> set[Path]:
    """What all nodes depend on: recipe, lock file, libraries, our own sources and those of other packages' kinds."""
    recipe = planner.graph.recipe
    paths = {recipe.folder / recipe.file.name, planner.scan.lock.file}
    for library in {library for state in plan.states.values() for library in state.node.libraries}:
        paths |= _distribution(library)
    ours = Path(__file__).parent
    paths |= {ours, *(p for p in ours.rglob("*") if p.suffix in (".py", "") and "__pycache__" not in p.parts)}
    paths |= {Path(p) for p in sys.path if p and os.path.isdir(p)}
    if any(not (ours / "steps" / f"{state.node.kind.replace('-', '_')}.py").exists() for state in plan.states.values()):
        # A kind of another package says what its code says, and that was imported to make the graph.
        paths |= {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    return {path.absolute() for path in paths}


def _distribution(name: str) -> set[Path]:
    from importlib.metadata import PackageNotFoundError, distribution

    from olivebuild.scan import VARIANTS

    found: set[Path] = set()
    for candidate in (name, *VARIANTS.get(name, ())):
        try:
            found.add(Path(str(distribution(candidate).locate_file(""))))
            path = getattr(distribution(candidate), "_path", None)
            if path:
                found |= {Path(path), Path(path) / "METADATA"}
        except PackageNotFoundError:
            continue
    return found
