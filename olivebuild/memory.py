"""What the last build of the same goals knew of each node, and the stats that made it so: what has
not changed is neither looked up nor read.

Two files. One has paths and stats, node by node, as `snapshot.look` compares them; the other has
the nodes, and is read where a stat differs:
a changed node, what it changes, and what all these are made from are a graph of their own
(`Recalled`), and the rest of the recipe does not
exist for the build. Anything but a file of a node (a changed recipe, other goals, other versions)
and everything is looked at anew. What an
edit changes is added to the first file, nodes and all, until that has grown by a part; then both
are written anew. Neither file is synced:
they have checksums, and deleting them costs time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from olivebuild import digest, ourselves, snapshot
from olivebuild.graph import Graph
from olivebuild.node import Node, Outline, Record, is_builtin
from olivebuild.plan import Plan, Planner
from olivebuild.recipe import Recipe
from olivebuild.seal import seal
from olivebuild.snapshot import SEEN, Change, Data, Look
from olivebuild.states import Demand, Lookup, State, Verdict
from olivebuild.workspace import LAST

NODES = "nodes.bin"
SHARE = 64
"""What is added to the paths and stats may take this part of them: some seventy edits of ten
thousand targets.
"""


class Head(Record, frozen=True):
    """What there is to say of all nodes, in their order: `of` is the target of each.

    `unseen` are looked up each time.
    """

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
    key: str
    seconds: float | None


class Pages(msgspec.Struct, frozen=True):
    """The files, as they are written: where each node's paths, stats and record begin and end.

    The paths before the first node's concern all.

    What `changes` says of a node counts instead; `head` is right of all. `name` and `end`: the file
    of paths and stats, and how long it is.
    """

    head: Head
    base: bytes
    """The recipe's folder: what lies below is named from there."""
    paths: Data
    stats: Data
    records: Data
    starts: array[int]
    """of each node, and of the end: its first path, by number ..."""
    places: array[int]
    """... and in bytes;"""
    offsets: array[int]
    """its record."""

    changes: dict[int, Change] = {}
    name: str = ""
    end: int = 0

    def seen(self, number: int) -> tuple[Data, Data, Data]:
        """A node's paths, stats and record."""
        if number in self.changes:
            return self.changes[number][2:]
        (first, last), size = self.starts[number : number + 2], snapshot.STAT_SIZE
        paths, record = self.places[number : number + 2], self.offsets[number : number + 2]
        return (
            self.paths[slice(*paths)],
            self.stats[first * size : last * size],
            self.records[slice(*record)],
        )

    def known(self, number: int) -> Known:
        return msgspec.json.decode(self.seen(number)[-1], type=Known)

    def changed(self, look: Look) -> set[int] | None:
        """The nodes of which a stat differs; None when it is one that concerns all."""
        differs, changes = look.compared()
        if differs.find(1, 0, self.starts[0]) >= 0:
            return None
        found, at = {*self.head.unseen, *changes}, differs.find(1)
        while at >= 0:
            number = bisect_right(self.starts, at) - 1
            found.add(number)
            at = differs.find(1, self.starts[number + 1])
        return found

    def all_paths(self) -> set[bytes]:
        """What a look at them compares, as it is named here."""
        names = bytes(self.paths).split(b"\0")
        for first, count, *_ in self.changes.values():
            names[first : first + count] = [b""] * count
        return {
            *names,
            *(name for change in self.changes.values() for name in bytes(change[2]).split(b"\0")),
        }

    def with_changes(self, changes: dict[int, Change]) -> Pages:
        """The same, and what has changed."""
        keys, seconds, unseen = list(self.head.keys), list(self.head.seconds), set(self.head.unseen)
        for number, (_, _, _, stats, record) in changes.items():
            node = msgspec.json.decode(record, type=Known)
            keys[number], seconds[number] = node.key, node.seconds
            (unseen.discard if stats else unseen.add)(number)
        head = msgspec.structs.replace(
            self.head, keys=tuple(keys), seconds=tuple(seconds), unseen=tuple(sorted(unseen))
        )
        return msgspec.structs.replace(self, head=head, changes={**self.changes, **changes})

    def whole(self) -> Pages:
        """The same with the changes in their places."""
        everyone = self.paths[: self.places[0]], self.stats[: self.starts[0] * snapshot.STAT_SIZE]
        nodes = [self.seen(number) for number in range(len(self.head.names))]
        return _bound(
            self.head,
            self.base,
            [everyone, *(seen for *seen, _ in nodes)],
            [record for *_, record in nodes],
        )

    def add(self, changes: dict[int, Change], folder: Path) -> Pages:
        """Keep what has changed. Raises OSError."""
        if not changes:
            return self
        pages, (name, data) = self.with_changes(changes), snapshot.added_bytes(self.name, changes)
        file, size = folder / SEEN, len(self.paths) + len(self.stats)
        if self.end + len(data) > size + size // SHARE or file.stat().st_size != self.end:
            # There is more in it than we read: somebody was killed in the middle, or builds beside
            # us.
            return pages.whole().write(folder)
        with open(file, "ab", buffering=0) as f:
            f.write(data)
        return msgspec.structs.replace(pages, name=name, end=self.end + len(data))

    def write(self, folder: Path) -> Pages:
        """Whoever is killed between the two files leaves what belongs together by no checksum.

        Raises OSError.
        """
        tables = [a.tobytes() for a in (self.starts, self.places, self.offsets)]
        head = msgspec.json.encode(self.head)
        body = b"".join(
            [*(b"%d " % len(part) for part in (head, *tables)), b"\n", head, *tables, self.records]
        )
        name, data = snapshot.seen_bytes(
            digest.of_bytes(body), self.head.light, self.base, self.paths, self.stats
        )
        _replace(folder / NODES, body)
        _replace(folder / SEEN, data)
        return msgspec.structs.replace(self, name=name, end=len(data))

    @staticmethod
    def read(folder: Path, look: Look) -> Pages:
        """Raises OSError or ValueError."""
        body = (folder / NODES).read_bytes()
        if digest.of_bytes(body) != look.check:
            raise ValueError("these files do not belong together")
        at = body.index(b"\n") + 1
        head, *tables, records = snapshot.pieces(memoryview(body), at, map(int, body[:at].split()))
        try:
            starts, places, offsets = (array("Q", bytes(table)) for table in tables)
            found = msgspec.json.decode(head, type=Head)
            pages = Pages(
                found,
                look.base,
                look.paths,
                look.stats,
                records,
                starts,
                places,
                offsets,
                name=look.name,
                end=look.end,
            )
            return pages.with_changes(look.changes) if look.changes else pages
        except (msgspec.MsgspecError, TypeError) as e:
            raise ValueError(str(e)) from None


def _replace(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


class Recalled(msgspec.Struct):
    """`plan` is of the nodes that `changed`, what may change with them, and what those are made
    from (`settled`), all as they were last.
    """

    graph: Graph
    plan: Plan
    changed: set[str]
    settled: frozenset[str]
    pages: Pages


def recall(
    recipe: Recipe, state: Path, store: Path, asked: Iterable[str], look: Look | None = None
) -> Recalled | None:
    """`look`: the one that told that something has changed, if there was one."""
    look = look if look and look.file == str(state / SEEN) else snapshot.look(str(state / SEEN))
    try:
        # Without the last results, all nodes have to be remembered anew.
        pages = Pages.read(state, look) if look and (state / LAST).exists() else None
        if (
            look is None
            or pages is None
            or pages.head.surroundings != (here := _surroundings(recipe, store, asked))
            or not here
        ):
            return None
        changed = pages.changed(look)
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
                left += (
                    known[number].users
                    if following == "users"
                    else (n for n, _ in known[number].inputs)
                )
        return found

    affected = reach(changed, "users")
    numbers = sorted(reach(affected, "inputs"))
    head = pages.head
    graph = Graph(
        recipe,
        {known[n].outline.name: known[n].outline for n in numbers},
        list(head.default),
        head.matrices,
        head.limits,
    )
    graph.every = head.names
    plan = Plan(goals=list(head.goals))
    for number in numbers:
        one = known[number]
        node, place = one.node, Path(one.folder) if one.folder else None
        graph.nodes[node.name] = node
        graph.inputs[node.name] = [
            (edge, known[n].node, output)
            for edge, (n, output) in zip(node.edges, one.inputs, strict=True)
        ]
        lookup = Lookup(
            node=node,
            verdict=Verdict.FRESH,
            key=head.keys[number] or None,
            outputs=one.outputs,
            seconds=head.seconds[number],
            from_db=True,
        )
        plan.lookups[node.name] = lookup
        demand = Demand.FOLDER if one.needed else Demand.NOTHING
        state = State.of(lookup, demand=demand, publish_when_built=one.publish)
        plan.states[node.name] = msgspec.structs.replace(state, folder=place)
    here = set(numbers)
    plan.all_targets = tuple(dict.fromkeys(head.of))
    plan.keys_elsewhere = {
        name: key
        for number, (name, key) in enumerate(zip(head.names, head.keys, strict=True))
        if key and number not in here
    }
    plan.seconds_elsewhere = sum(s or 0.0 for n, s in enumerate(head.seconds) if n not in here)
    return Recalled(
        graph,
        plan,
        {head.names[n] for n in changed},
        frozenset(head.names[n] for n in here - affected),
        pages,
    )


def _surroundings(recipe: Recipe, store: Path, asked: Iterable[str]) -> str:
    """All but files on which a plan depends, sealed.

    What is asked for stands for the goals, and our sources are among the files.
    """
    return seal(
        digest.canonical_json(
            [
                recipe.file.name,
                digest.of_bytes(recipe.text),
                recipe.settings,
                list(asked),
                str(store),
                snapshot.surroundings(),
            ]
        ).encode()
    )


def remember(
    planner: Planner,
    plan: Plan,
    asked: Iterable[str],
    before: Recalled | None,
    started: int,
    touched: set[str],
) -> Pages | None:
    """Keep what a build knows at its end, when all is fresh, and give it.

    `touched`: what it made or put into build/ itself.

    `started`: the file system's time before the first look. What was changed at that time or later
    may have changed after we looked.
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
    blocks = {
        name: _seen(planner, s, later if name in touched else started, started)
        for name, s in plan.states.items()
        if not s.from_db
    }
    if before and not blocks:
        return before.pages
    # Losing it costs time only.
    with contextlib.suppress(OSError, UnicodeEncodeError):
        if before:
            return before.pages.add(_changes(before.pages, plan, blocks), state)
        if pages := _made(planner, plan, asked, blocks, started):
            return pages.write(state)
    return None


Block = dict[str, snapshot.Stat | None]


def _made(
    planner: Planner, plan: Plan, asked: Iterable[str], blocks: dict[str, Block], started: int
) -> Pages | None:
    graph = planner.graph
    everyone = {
        path: snapshot.stat_of(path) for path in sorted(map(str, everywhere(planner, plan)))
    }
    if not all(stat is None or digest.is_past(stat, started) for stat in everyone.values()):
        return None
    numbers = {name: number for number, name in enumerate(plan.states)}
    records = []
    for name, state in plan.states.items():
        inputs = tuple((numbers[source.name], output) for _, source, output in graph.inputs[name])
        users = tuple(numbers[user] for _, user in graph.users[name] if user in numbers)
        records.append(
            msgspec.json.encode(_known(state, graph.targets[state.node.target], inputs, users))
        )
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
    base = os.fsencode(os.path.join(graph.recipe.folder.absolute(), ""))
    return _bound(
        head,
        base,
        [packed(everyone, base), *(packed(block, base) for block in blocks.values())],
        records,
    )


def _changes(pages: Pages, plan: Plan, blocks: dict[str, Block]) -> dict[int, Change]:
    """Of the nodes that were looked at those that are not as they were."""
    found: dict[int, Change] = {}
    for number, name in enumerate(pages.head.names):
        if name in blocks:
            was = pages.known(number)
            now = (
                *packed(blocks[name], pages.base),
                msgspec.json.encode(_known(plan.states[name], was.outline, was.inputs, was.users)),
            )
            if now != pages.seen(number):
                found[number] = (
                    pages.starts[number],
                    pages.starts[number + 1] - pages.starts[number],
                    *now,
                )
    return found


def _bound(
    head: Head, base: bytes, seen: Sequence[Sequence[Data]], records: Sequence[Data]
) -> Pages:
    """`seen` has what concerns all before the nodes'."""
    starts = _sums(0, [len(stats) // snapshot.STAT_SIZE for _, stats in seen])[1:]
    places, offsets = (
        _sums(0, [len(paths) for paths, _ in seen])[1:],
        _sums(0, [len(record) for record in records]),
    )
    return Pages(
        head,
        base,
        b"".join(p for p, _ in seen),
        b"".join(s for _, s in seen),
        b"".join(records),
        starts,
        places,
        offsets,
    )


def _sums(first: int, lengths: Iterable[int]) -> array[int]:
    found = array("Q", [first])
    for length in lengths:
        first += length
        found.append(first)
    return found


def packed(found: Block, base: bytes = b"") -> tuple[bytes, bytes]:
    """Paths and stats, as `snapshot.differing` takes them with that base."""
    paths = b"".join(os.fsencode(path).removeprefix(base) + b"\0" for path in found)
    return paths, array(
        "Q", [n & snapshot.MASK for stat in found.values() for n in stat or snapshot.ABSENT]
    ).tobytes()


def _known(
    state: State, outline: Outline, inputs: tuple[tuple[int, str], ...], users: tuple[int, ...]
) -> Known:
    folder, outputs = str(state.folder or ""), dict(state.outputs or {})
    return Known(
        state.node,
        outline,
        inputs,
        users,
        outputs,
        folder,
        state.demand is Demand.FOLDER,
        state.publish_when_built,
        state.key or "",
        state.seconds,
    )


def _seen(planner: Planner, state: State, looked: int, scanned: int) -> Block:
    """What a node depends on, as it was when it was looked at: the files it reads at `scanned`, the
    results at `looked`. Empty: never the same.
    """
    if state.trace and (
        state.trace.metrics or state.node.machine or state.node.strict or state.node.keyed
    ):
        # Somebody may ask for its figures, or the machine may have changed: these few are looked up
        # each time.
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
    """What all nodes depend on: recipe, lock file, libraries, our own sources and those of other
    packages' kinds.
    """
    recipe = planner.graph.recipe
    paths = {recipe.folder / recipe.file.name, planner.scan.lock.file}
    for library in {library for state in plan.states.values() for library in state.node.libraries}:
        paths |= _distribution(library)
    ours = Path(ourselves.ROOT)
    paths |= {
        ours,
        *(p for p in ours.rglob("*") if p.suffix in (".py", "") and "__pycache__" not in p.parts),
    }
    paths |= {Path(p) for p in sys.path if p and os.path.isdir(p)}
    if not all(map(is_builtin, {state.node.kind for state in plan.states.values()})):
        # A kind of another package says what its code says, and that was imported to make the
        # graph.
        paths |= {
            Path(file)
            for module in list(sys.modules.values())
            if (file := getattr(module, "__file__", None))
        }
    return {path.absolute() for path in paths}


def _distribution(name: str) -> set[Path]:
    from importlib.metadata import PackageNotFoundError, distribution

    from olivebuild.machine import VARIANTS

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
