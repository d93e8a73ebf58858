"""The node database: what the last build of the same goals left of each node.

And the stats on which that rests, in two files.

seen.bin has the paths and stats, node by node, as `snapshot.open_seen` reads them and
`snapshot.StatComparison` compares them. It is a row of blocks, each with a first line of the
block's name, which is its checksum, and its size in bytes. The first block holds

    check light len(root) len(paths) len(stats)
    root paths stats

and each of the others the name of the block before it, and patches after an edit:

    number first count len(paths) len(stats) len(row)
    paths stats row

nodes.bin has the header and the nodes' rows, and is read where a stat differs. It has the lengths
of its parts in a first line, and then the header in JSON, three tables of bounds (paths by number,
paths in bytes, rows in bytes; uint64 in the machine's order), and the rows in JSON. Its digest is
`check` in seen.bin: whoever is killed between the two files leaves what belongs together by no
checksum.

Neither file is synced: both have checksums, and deleting them costs time.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from olivebuild import snapshot
from olivebuild.api.node import Node, Outline, Record
from olivebuild.core import hashing
from olivebuild.core.values.typed import decode
from olivebuild.snapshot import SEEN, STAT_SIZE, Data, Patch, StatComparison

NODES = "nodes.bin"
PATCH_SHARE = 64
"""Patches may take this part of the first block: some seventy edits of ten thousand targets."""
GLOBAL = -1
"""The number of the row of paths and stats that concern every node: recipe, lock file, libraries,
our sources. It lies before the nodes' rows.
"""
Block = dict[str, snapshot.Stat | None]
"""Paths, and the stat of each; None for what is not there."""


class Ragged(msgspec.Struct, frozen=True, kw_only=True):
    """Byte strings of different lengths in one buffer, with numbers from `first` on.

    The items of row i are those from bounds[i - first] up to bounds[i - first + 1], of `unit` bytes
    each.
    """

    data: Data
    bounds: array[int]
    unit: int = 1
    first: int = 0

    @classmethod
    def of(cls, rows: Iterable[Data], *, unit: int = 1, first: int = 0) -> Ragged:
        """Return the rows in one buffer."""
        bounds, parts, end = array("Q", [0]), [], 0
        for row in rows:
            end += len(row) // unit
            bounds.append(end)
            parts.append(row)
        return cls(data=b"".join(parts), bounds=bounds, unit=unit, first=first)

    def span(self, row: int) -> tuple[int, int]:
        """Return the number of a row's first item, and of the first one after it."""
        at = row - self.first
        start, end = self.bounds[at : at + 2]
        return start, end

    def __getitem__(self, row: int) -> Data:
        start, end = self.span(row)
        return self.data[start * self.unit : end * self.unit]

    def row_at(self, item: int) -> int:
        """Return the row in which an item lies."""
        return bisect_right(self.bounds, item) - 1 + self.first


class Header(Record, frozen=True, kw_only=True):
    """Facts of all nodes together, and columns of facts of each, in their order."""

    seal: str
    """The seal on all but files that decided the plan; see invalidation.py."""
    goals: tuple[str, ...]
    default: tuple[str, ...]
    matrices: dict[str, tuple[str, ...]]
    limits: dict[str, float]
    names: tuple[str, ...]
    target_of: tuple[str, ...]
    keys: tuple[str, ...]
    seconds: tuple[float | None, ...]
    always_check: tuple[int, ...]
    """The numbers of the nodes that are looked up in each build."""
    light: bool
    """No node needs its kind's own module in the worker."""


class NodeRow(Record, frozen=True, kw_only=True):
    """A node that was fresh. Other nodes are numbers here."""

    node: Node
    outline: Outline
    inputs: tuple[tuple[int, str], ...]
    """For each edge the node that it comes from, and the output."""
    users: tuple[int, ...]
    outputs: dict[str, str]
    folder: str
    needed: bool
    """Its folder was wanted; a node that is fresh has no user that reads its blobs alone."""
    publish_when_built: bool
    key: str
    seconds: float | None


class NodeData(NamedTuple):
    """A node's paths, stats and row, as the files have them."""

    paths: Data
    stats: Data
    row: Data


class NodeDb(msgspec.Struct, frozen=True, kw_only=True):
    """The node database as it was read, or is about to be written.

    `root`: the recipe's folder, with a separator; paths below it are named from there. `patches`
    count instead of paths, stats and rows; the header is right of all. `name` and `end`: the name
    of seen.bin's last block, and where it ends, in bytes.
    """

    header: Header
    root: bytes
    paths: Ragged
    stats: Ragged
    rows: Ragged
    patches: dict[int, Patch] = {}
    name: str = ""
    end: int = 0

    @classmethod
    def of(cls, header: Header, root: bytes, common: Block, nodes: Iterable[NodeData]) -> NodeDb:
        """Return the database of these nodes. `common`: the stats that concern every node."""
        return cls._of(header, root, [NodeData(*packed(common, root), b""), *nodes])

    @classmethod
    def _of(cls, header: Header, root: bytes, rows: Sequence[NodeData]) -> NodeDb:
        """`rows`: the global one first."""
        return cls(
            header=header,
            root=root,
            paths=Ragged.of([row.paths for row in rows], first=GLOBAL),
            stats=Ragged.of([row.stats for row in rows], unit=STAT_SIZE, first=GLOBAL),
            rows=Ragged.of(row.row for row in rows[1:]),
        )

    def data(self, number: int) -> NodeData:
        """Return a node's paths, stats and row."""
        if patch := self.patches.get(number):
            return NodeData(patch.paths, patch.stats, patch.row)
        return NodeData(self.paths[number], self.stats[number], self.rows[number])

    def row(self, number: int) -> NodeRow:
        """Raises ValueError for a number of no node."""
        return decode(self.data(number).row, NodeRow)

    def patch(self, number: int, data: NodeData) -> Patch:
        """Return a patch that stands for what the first block says of a node."""
        first, end = self.stats.span(number)
        return Patch(first, end - first, *data)

    def changed_rows(self, comparison: StatComparison) -> set[int] | None:
        """Return the nodes of which a stat differs, and those that are always looked up.

        None when a stat differs that concerns every node.
        """
        differs, patched = comparison.result()
        if differs.find(1, *self.stats.span(GLOBAL)) >= 0:
            return None
        numbers, at = {*self.header.always_check, *patched}, differs.find(1)
        while at >= 0:
            number = self.stats.row_at(at)
            numbers.add(number)
            at = differs.find(1, self.stats.span(number)[1])
        return numbers

    def all_paths(self) -> set[bytes]:
        """Return all paths whose stats are kept, as they are named here."""
        names = bytes(self.paths.data).split(b"\0")
        for patch in self.patches.values():
            names[patch.first : patch.first + patch.count] = [b""] * patch.count
        patched = (bytes(patch.paths).split(b"\0") for patch in self.patches.values())
        return set(names).union(*patched)

    def with_patches(self, patches: Mapping[int, Patch]) -> NodeDb:
        """Return the database with more patches, and the header as they have it."""
        header = self.header
        keys, seconds = list(header.keys), list(header.seconds)
        always_check = set(header.always_check)
        for number, patch in patches.items():
            row = decode(patch.row, NodeRow)
            keys[number], seconds[number] = row.key, row.seconds
            if patch.stats:
                always_check.discard(number)
            else:
                always_check.add(number)
        header = msgspec.structs.replace(
            header,
            keys=tuple(keys),
            seconds=tuple(seconds),
            always_check=tuple(sorted(always_check)),
        )
        return msgspec.structs.replace(self, header=header, patches={**self.patches, **patches})

    def compacted(self) -> NodeDb:
        """Return the database with each patch in its place."""
        common = NodeData(self.paths[GLOBAL], self.stats[GLOBAL], b"")
        nodes = [self.data(number) for number in range(len(self.header.names))]
        return self._of(self.header, self.root, [common, *nodes])

    def append(self, patches: Mapping[int, Patch], folder: Path) -> NodeDb:
        """Add patches to seen.bin, or write both files anew where it has grown by a part.

        Returns the database as it is read then. Raises OSError.
        """
        if not patches:
            return self
        db, (name, data) = self.with_patches(patches), patch_block(self.name, patches)
        file, size = folder / SEEN, len(self.paths.data) + len(self.stats.data)
        # A file that is longer than what was read of it: a build was killed in the middle, or
        # another one writes at the same time.
        is_ours = file.stat().st_size == self.end
        if not is_ours or self.end + len(data) > size + size // PATCH_SHARE:
            return db.compacted().write(folder)
        with open(file, "ab", buffering=0) as f:
            f.write(data)
        return msgspec.structs.replace(db, name=name, end=self.end + len(data))

    def write(self, folder: Path) -> NodeDb:
        """Write both files. Raises OSError."""
        # The tables begin with the first node: what lies before it is the global row.
        starts, places, offsets = self.stats.bounds[1:], self.paths.bounds[1:], self.rows.bounds
        tables = [table.tobytes() for table in (starts, places, offsets)]
        header = msgspec.json.encode(self.header)
        sizes = b"".join(b"%d " % len(part) for part in (header, *tables))
        body = b"".join([sizes, b"\n", header, *tables, self.rows.data])
        name, data = self._first_block(hashing.of_bytes(body))
        _replace(folder / NODES, body)
        _replace(folder / SEEN, data)
        return msgspec.structs.replace(self, name=name, end=len(data))

    def _first_block(self, check: str) -> tuple[str, bytes]:
        """Return the first block of seen.bin, and its name."""
        parts = self.root, self.paths.data, self.stats.data
        sizes = b" ".join(b"%d" % len(part) for part in parts)
        return _block(b"%s %d %s\n" % (check.encode(), self.header.light, sizes), *parts)

    @classmethod
    def read(cls, folder: Path, seen: StatComparison) -> NodeDb:
        """Read the database of which `seen` is the one file. Raises OSError or ValueError."""
        body = (folder / NODES).read_bytes()
        if hashing.of_bytes(body) != seen.check:
            raise ValueError("these files do not belong together")
        at = body.index(b"\n") + 1
        sizes = map(int, body[:at].split())
        header, *tables, rows = snapshot.pieces(memoryview(body), at, sizes)
        try:
            starts, places, offsets = (array("Q", bytes(table)) for table in tables)
            zero = array("Q", [0])
            db = cls(
                header=decode(header, Header),
                root=seen.base,
                paths=Ragged(data=seen.paths, bounds=zero + places, first=GLOBAL),
                stats=Ragged(data=seen.stats, bounds=zero + starts, unit=STAT_SIZE, first=GLOBAL),
                rows=Ragged(data=rows, bounds=offsets),
                name=seen.name,
                end=seen.end,
            )
            return db.with_patches(seen.patches) if seen.patches else db
        except (msgspec.MsgspecError, TypeError) as e:
            raise ValueError(str(e)) from None


def patch_block(name: str, patches: Mapping[int, Patch]) -> tuple[str, bytes]:
    """Return a block to append to a seen.bin whose last block has this name, and the new name."""
    parts: list[Data] = [name.encode(), b"\n"]
    for number, patch in patches.items():
        data = NodeData(patch.paths, patch.stats, patch.row)
        sizes = len(data.paths), len(data.stats), len(data.row)
        line = b"%d %d %d %d %d %d\n" % (number, patch.first, patch.count, *sizes)
        parts += [line, *data]
    return _block(*parts)


def _block(*parts: Data) -> tuple[str, bytes]:
    body = b"".join(parts)
    name = snapshot.checksum(body)
    return name, b"%s %d\n" % (name.encode(), len(body)) + body


def packed(block: Mapping[str, snapshot.Stat | None], base: bytes = b"") -> tuple[bytes, bytes]:
    """Return paths and stats as `snapshot.compare` takes them with that base."""
    paths = b"".join(os.fsencode(path).removeprefix(base) + b"\0" for path in block)
    stats = array("Q")
    for stat in block.values():
        stats.extend([number & snapshot.MASK for number in stat or snapshot.ABSENT])
    return paths, stats.tobytes()


def _replace(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
