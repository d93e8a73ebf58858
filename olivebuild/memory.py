"""What the last build of the same goals knew of each node, and the stats that made it so: what has not changed is neither looked up nor read.

Two files. One has paths and stats, node by node, as `snapshot.look` compares them; the other has the nodes, and is read where a stat differs:
a changed node, what it changes, and what all these are made from are a graph of their own (`Recalled`), and the rest of the recipe does not
exist for the build. Anything but a file of a node (a changed recipe, other goals, other versions) and everything is looked at anew. Neither
file is synced: they have checksums, and deleting them costs time.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from olivebuild import digest, snapshot
from olivebuild.graph import Graph
from olivebuild.node import Node, Outline, Record
from olivebuild.plan import Plan, Planner, State, Verdict
from olivebuild.recipe import Recipe
from olivebuild.snapshot import SEEN, Data, Look
from olivebuild.workspace import LAST

NODES = "nodes.bin"


class Head(Record, frozen=True):
    """What there is to say of all nodes, in their order: `of` is the target of each. `unseen` are looked up each time."""

    surroundings: str
    goals: tuple[str, ...]
    default: tuple[str, ...]
    matrices: dict[str, tuple[str, ...]]
    limits: dict[str, float]
    names: tuple[str, ...]
    of: tuple[str, ...]
    keys: tuple[str, ...]
    seconds: tuple[float | None, ...]
    unseen: tuple[int, ...]
    light: bool
    """No node needs its kind's own module in the worker."""


class Known(Record, frozen=True):
    """A node that was fresh. Other nodes are numbers here."""

    node: Node
    outline: Outline
    inputs: tuple[tuple[int, str], ...]
    users: tuple[int, ...]
    outputs: dict[str, str]
    folder: str
    needed: bool
    publish: bool


@dataclass
class Pages:
    """The files, as they are written: where each node's paths, stats and record begin and end. The paths before the first node's concern all."""

    head: Head
    paths: Data
    stats: Data
    records: Data
    starts: array[int]
    """of each node, and of the end: its first path, by number ..."""
    places: array[int]
    """... and in bytes;"""
    offsets: array[int]
    """its record."""

    def known(self, number: int) -> Known:
        return msgspec.json.decode(self.records[self.offsets[number] : self.offsets[number + 1]], type=Known)

    def seen(self, number: int) -> tuple[Data, Data]:
        size = snapshot.STAT_SIZE
        return self.paths[self.places[number] : self.places[number + 1]], self.stats[self.starts[number] * size : self.starts[number + 1] * size]

    def changed(self, differs: bytes) -> set[int] | None:
        """The nodes of which a stat differs; None when it is one that concerns all."""
        if differs.find(1, 0, self.starts[0]) >= 0:
            return None
        found, at = set(self.head.unseen), differs.find(1)
        while at >= 0:
            number = bisect_right(self.starts, at) - 1
            found.add(number)
            at = differs.find(1, self.starts[number + 1])
        return found

    def write(self, folder: Path) -> None:
        """Whoever is killed between the two files leaves what belongs together by no checksum."""
        tables = [a.tobytes() for a in (self.starts, self.places, self.offsets)]
        head = msgspec.json.encode(self.head)
        body = b"".join([*(b"%d " % len(part) for part in (head, *tables)), b"\n", head, *tables, self.records])
        check = digest.of_bytes(body)
        _replace(folder / NODES, body)
        _replace(folder / SEEN, snapshot.seen_bytes(check, self.head.light, self.paths, self.stats))

    @staticmethod
    def read(folder: Path, look: Look) -> Pages:
        """Raises OSError or ValueError."""
        body = (folder / NODES).read_bytes()
        if digest.of_bytes(body) != look.check:
            raise ValueError("these files do not belong together")
        at = body.index(b"\n") + 1
        parts, view = [], memoryview(body)
        for size in map(int, body[: at - 1].split()):
            parts.append(view[at : at + size])
            at += size
        head, *tables = parts
        try:
            return Pages(msgspec.json.decode(head, type=Head), look.paths, look.stats, view[at:], *(array("Q", bytes(table)) for table in tables))
        except (msgspec.MsgspecError, TypeError) as e:
            raise ValueError(str(e)) from None


def _replace(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass
class Recalled:
    """`plan` is of the nodes that `changed`, what may change with them, and what those are made from (`settled`), all as they were last."""

    graph: Graph
    plan: Plan
    changed: set[str]
    settled: frozenset[str]
    pages: Pages


def recall(recipe: Recipe, state: Path, store: Path, asked: Iterable[str], look: Look | None = None) -> Recalled | None:
    """`look`: the one that told that something has changed, if there was one."""
    look = look if look and look.file == str(state / SEEN) else snapshot.look(str(state / SEEN))
    try:
        # Without the last results, all nodes have to be remembered anew.
        pages = Pages.read(state, look) if look and (state / LAST).exists() else None
        if look is None or pages is None or pages.head.surroundings != _surroundings(recipe, store, asked):
            return None
        changed = pages.changed(look.differs)
        return None if changed is None else _recalled(recipe, pages, changed)
    except (OSError, ValueError, IndexError, KeyError, msgspec.MsgspecError, RecursionError):
        return None


def _recalled(recipe: Recipe, pages: Pages, changed: set[int]) -> Recalled:
    known: dict[int, Known] = {}

    def reach(some: Iterable[int], following: str) -> set[int]:
        found, left = set[int](), list(some)
        while left:
            number = left.pop()
            if number not in found:
                found.add(number)
                known[number] = known.get(number) or pages.known(number)
                left += known[number].users if following == "users" else (n for n, _ in known[number].inputs)
        return found

    affected = reach(changed, "users")
    numbers = sorted(reach(affected, "inputs"))
    head = pages.head
    graph = Graph(recipe, {known[n].outline.name: known[n].outline for n in numbers}, list(head.default), head.matrices, head.limits)
    graph.every = head.names
    plan = Plan(list(head.goals))
    for number in numbers:
        one = known[number]
        node, place = one.node, Path(one.folder) if one.folder else None
        graph.nodes[node.name] = node
        graph.inputs[node.name] = [(edge, known[n].node, output) for edge, (n, output) in zip(node.edges, one.inputs, strict=True)]
        found = State(node, Verdict.FRESH, head.keys[number] or None, outputs=one.outputs, seconds=head.seconds[number], thin=True)
        plan.found[node.name] = found
        plan.states[node.name] = replace(found, folder=place, needed=one.needed, publish=one.publish)
    here = set(numbers)
    plan.all_targets = tuple(dict.fromkeys(head.of))
    plan.keys_elsewhere = {name: key for number, (name, key) in enumerate(zip(head.names, head.keys, strict=True)) if key and number not in here}
    plan.seconds_elsewhere = sum(s or 0.0 for n, s in enumerate(head.seconds) if n not in here)
    return Recalled(graph, plan, {head.names[n] for n in changed}, frozenset(head.names[n] for n in here - affected), pages)


def _surroundings(recipe: Recipe, store: Path, asked: Iterable[str]) -> str:
    """All but files on which a plan depends. What is asked for stands for the goals, and our sources are among the files."""
    return digest.of_json([recipe.file.name, digest.of_bytes(recipe.text), recipe.settings, list(asked), str(store), snapshot.surroundings()])


def remember(planner: Planner, plan: Plan, asked: Iterable[str], before: Recalled | None, started: int, touched: set[str]) -> Pages | None:
    """Keep what a build knows at its end, when all is fresh, and give it. `touched`: what it made or put into build/ itself.

    `started`: the file system's time before the first look. What was changed at that time or later may have changed after we looked.
    """
    state, later = planner.workspace.state, started
    if touched:
        # What was made meanwhile is looked at once more, when its times are past.
        digest.wait_for_tick(state, digest.filesystem_time(state))
        later = digest.filesystem_time(state)
        planner.workspace.memo.start_scan()
        planner.update(plan, touched)
    if any(s.verdict is not Verdict.FRESH for s in plan.states.values()):
        return None
    blocks = {name: _seen(planner, s, later if name in touched else started, started) for name, s in plan.states.items() if not s.thin}
    if before and not blocks:
        return before.pages
    pages = _spliced(before.pages, plan, blocks) if before else _made(planner, plan, asked, blocks, started)
    if pages:
        # Losing it costs time only.
        try:
            pages.write(state)
        except (OSError, UnicodeEncodeError):
            return None
    return pages


Block = dict[str, snapshot.Stat | None]


def _made(planner: Planner, plan: Plan, asked: Iterable[str], blocks: dict[str, Block], started: int) -> Pages | None:
    graph = planner.graph
    everyone = {path: snapshot.stat_of(path) for path in sorted(map(str, everywhere(planner, plan)))}
    if not all(stat is None or digest.is_past(stat, started) for stat in everyone.values()):
        return None
    numbers = {name: number for number, name in enumerate(plan.states)}
    records = []
    for name, state in plan.states.items():
        inputs = tuple((numbers[source.name], output) for _, source, output in graph.inputs[name])
        users = tuple(numbers[user] for _, user in graph.users[name] if user in numbers)
        records.append(_record(state, graph.targets[state.node.target], inputs, users))
    states = plan.states.values()
    head = Head(
        _surroundings(graph.recipe, planner.store.root, asked),
        tuple(plan.goals),
        tuple(graph.default),
        graph.matrices,
        graph.limits,
        tuple(numbers),
        tuple(s.node.target for s in states),
        tuple(s.key or "" for s in states),
        tuple(s.seconds for s in states),
        tuple(numbers[name] for name, block in blocks.items() if not block),
        all(s.node.runner for s in states),
    )
    return _bound(head, [packed(everyone), *map(packed, blocks.values())], records)


def _spliced(old: Pages, plan: Plan, blocks: dict[str, Block]) -> Pages:
    """The pages with some nodes as they are now, the others as they were."""
    head, numbers = old.head, {name: number for number, name in enumerate(old.head.names)}
    size = snapshot.STAT_SIZE
    seen = [(old.paths[: old.places[0]], old.stats[: old.starts[0] * size])]
    records: list[Data] = []
    keys, seconds, unseen, done = list(head.keys), list(head.seconds), set(head.unseen), 0

    def keep(end: int) -> None:
        """What lies between two changed nodes, in one piece."""
        if end > done:
            seen.append((old.paths[old.places[done] : old.places[end]], old.stats[old.starts[done] * size : old.starts[end] * size]))
            records.append(old.records[old.offsets[done] : old.offsets[end]])

    tables = [old.starts[:], old.places[:], old.offsets[:]]
    for number, name in sorted((numbers[name], name) for name in blocks):
        keep(number)
        was, state = old.known(number), plan.states[name]
        seen.append(packed(blocks[name]))
        records.append(_record(state, was.outline, was.inputs, was.users))
        keys[number], seconds[number] = state.key or "", state.seconds
        (unseen.discard if blocks[name] else unseen.add)(number)
        for table, length in zip(tables, (len(blocks[name]), len(seen[-1][0]), len(records[-1])), strict=True):
            if grown := length - (table[number + 1] - table[number]):
                table[number + 1 :] = array("Q", [at + grown for at in table[number + 1 :]])
        done = number + 1
    keep(len(head.names))
    now = msgspec.structs.replace(head, keys=tuple(keys), seconds=tuple(seconds), unseen=tuple(sorted(unseen)))
    return Pages(now, b"".join(p for p, _ in seen), b"".join(s for _, s in seen), b"".join(records), *tables)


def _bound(head: Head, seen: Sequence[tuple[Data, Data]], records: Sequence[bytes]) -> Pages:
    """`seen` has what concerns all before the nodes'."""
    starts = _sums(0, [len(stats) // snapshot.STAT_SIZE for _, stats in seen])[1:]
    places, offsets = _sums(0, [len(paths) for paths, _ in seen])[1:], _sums(0, [len(record) for record in records])
    return Pages(head, b"".join(p for p, _ in seen), b"".join(s for _, s in seen), b"".join(records), starts, places, offsets)


def _sums(first: int, lengths: Iterable[int]) -> array[int]:
    found = array("Q", [first])
    for length in lengths:
        first += length
        found.append(first)
    return found


def packed(found: Block) -> tuple[bytes, bytes]:
    """Paths and stats, as `snapshot.differing` takes them."""
    paths = b"".join(os.fsencode(path) + b"\0" for path in found)
    return paths, array("Q", [n & snapshot.MASK for stat in found.values() for n in stat or snapshot.ABSENT]).tobytes()


def _record(state: State, outline: Outline, inputs: tuple[tuple[int, str], ...], users: tuple[int, ...]) -> bytes:
    folder, outputs = str(state.folder or ""), dict(state.outputs or {})
    return msgspec.json.encode(Known(state.node, outline, inputs, users, outputs, folder, state.needed, state.publish))


def _seen(planner: Planner, state: State, looked: int, scanned: int) -> Block:
    """What a node depends on, as it was when it was looked at: the files it reads at `scanned`, the results at `looked`. Empty: never the same."""
    if state.trace and (state.trace.metrics or state.node.machine):
        # Somebody may ask for its figures, or the machine may have changed: these few are looked up each time.
        return {}
    stats: Block = {str(path): snapshot.stat_of(str(path)) for path in results(planner, state)}
    racy = not all(stat is None or digest.is_past(stat, looked) for stat in stats.values())
    for path, stat in planner.scan.seen_for(state.node).items():
        stats[str(path)] = stat
        racy |= stat is not None and not digest.is_past(stat, scanned)
    return {} if racy else stats


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
