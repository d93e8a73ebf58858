"""The answer to a build of which nothing has changed.

Before anything else is imported: no click, no yaml, no sqlite.

A snapshot holds what a build that found nothing to do printed, and the stat of everything on which
that rests; noop.py writes it, and invalidation.py says what that is. While all stats are what they
were, the same command has the same answer. Whatever differs falls through to the full path.

Deleting a snapshot costs one full look, nothing else.
"""

import _imp
import os
import sys

# collections.abc itself is one more import.
from _collections_abc import Iterable, Iterator, Sequence
from _operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread

PREFIX = "snapshot-"
SEEN = "seen.bin"
FORMAT = 9
PLAN_VARIABLES = (
    "OLIVEBUILD_CACHE",
    "OLIVEBUILD_BUILD",
    "XDG_CACHE_HOME",
    "HOME",
    "LOCALAPPDATA",
    "CUDA_VISIBLE_DEVICES",
    "PATH",
    "PYTHONPATH",
)
"""Variables of the environment that decide where things lie and what the machine has."""
STYLE_VARIABLES = (
    "NO_COLOR",
    "FORCE_COLOR",
    "TERM",
    "COLUMNS",
    "PYTHONIOENCODING",
    "PYTHONUTF8",
    "LC_ALL",
    "LC_CTYPE",
    "LANG",
)
"""Variables of the environment that decide how text looks."""


def surroundings() -> list[object]:
    """Return all that decides a plan beside files.

    Where it is made, the environment, interpreter and machine.
    """
    try:
        # Another processor or more memory come with a boot.
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            boot = f.read().decode()
    except OSError:
        boot = ""
    environment = [os.environ.get(name, "") for name in PLAN_VARIABLES]
    # How many processors we may use decides how many threads compute.
    processors = [
        os.cpu_count(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    ]
    # The first place is that of the program that was called, and holds none of its libraries.
    return [
        FORMAT,
        boot,
        os.getcwd(),
        environment,
        sys.executable,
        sys.version,
        sys.path[1:],
        processors,
    ]


def command_key(arguments: list[str]) -> str:
    """Return all that decides, beside files, what a command prints.

    Its words, its surroundings, the terminal.
    """
    terminal = os.get_terminal_size(1).columns if os.isatty(1) else 0
    style = [os.environ.get(name, "") for name in STYLE_VARIABLES]
    return ascii([surroundings(), arguments, style, terminal, os.isatty(2)])


def state_folder(arguments: list[str]) -> str:
    """Return .olivebuild/ of the recipe's folder: the last -C, or here."""
    folder = "."
    for i, word in enumerate(arguments):
        if word in ("-C", "--directory") and i + 1 < len(arguments):
            folder = arguments[i + 1]
        elif word.startswith("--directory="):
            folder = word.partition("=")[2]
        elif word.startswith("-C") and len(word) > 2:
            folder = word[2:]
    return os.path.join(folder, ".olivebuild")


def file_of(arguments: list[str], key: str) -> str:
    return os.path.join(state_folder(arguments), f"{PREFIX}{checksum(key.encode())[:8]}")


FIELDS = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
NUMBERS = 5
MASK = (1 << 64) - 1
ABSENT = (MASK,) * NUMBERS
CHUNK = 500
"""Paths at a time: enough for the loops to be C's, few enough for their memory not to count."""
STAT_SIZE = NUMBERS * 8
WORTH_C = 1000
"""Fewer paths are looked at sooner than the extension is loaded."""
Stat = tuple[int, ...]
Data = bytes | memoryview


def checksum(data: Data) -> str:
    """Return 16 hex digits that guard against damage, and nothing else.

    The interpreter's own sum for cached files (`_imp.source_hash`, SipHash) imports nothing.
    """
    return _imp.source_hash(FORMAT, data).hex()


def stat_of(path: str | bytes) -> Stat | None:
    """Return the fields that tell a changed file; None for what is not there.

    A changed mode changes ctime.
    """
    try:
        return FIELDS(os.stat(path))
    except OSError:
        return None


def numbers_of(path: str | bytes) -> Stat:
    """Return a stat as it is kept: 64 bits a number, and no file has all of them set."""
    stat = stat_of(path)
    return ABSENT if stat is None else tuple([n & MASK for n in stat])


def compare(paths: Data, stats: Data, base: bytes = b"", threads: int | None = None) -> bytes:
    """Return a byte for each path, 1 where its stat on the disk is not the given one.

    Each path ends with a zero byte, and each stat has `STAT_SIZE` bytes; see _native_stats.h.

    A relative path begins at the folder `base`, which is shorter to look up than from the root.
    """
    if len(stats) >= WORTH_C * STAT_SIZE:
        try:
            from olivebuild._native import differing
        except ImportError:
            # Windows, and where there was no compiler.
            return _compare(paths, stats, base)
        return differing(paths, stats, threads or os.cpu_count() or 1, base)
    return _compare(paths, stats, base)


def _compare(paths: Data, stats: Data, base: bytes) -> bytes:
    names, wanted = bytes(paths).split(b"\0"), memoryview(stats).cast("Q")
    if names.pop() or len(wanted) != len(names) * NUMBERS:
        raise ValueError("paths that end with a zero byte, and five numbers each, are needed")
    differs = bytearray()
    for i in range(0, len(names), CHUNK):
        chunk = [os.path.join(base, name) for name in names[i : i + CHUNK]]
        before = wanted[i * NUMBERS : (i + CHUNK) * NUMBERS].tolist()
        try:
            now = [n & MASK for stat in map(FIELDS, map(os.stat, chunk)) for n in stat]
        except OSError:
            now = [n for name in chunk for n in numbers_of(name)]
        if now == before:
            differs += bytes(len(chunk))
            continue
        for at in range(0, len(now), NUMBERS):
            differs.append(now[at : at + NUMBERS] != before[at : at + NUMBERS])
    return bytes(differs)


class Patch:
    """A node as a later build left it; counts instead of what the first block says of the node.

    `paths` and `stats` stand for the `count` paths of the first block from number `first` on; `row`
    is the node's record in JSON.
    """

    __slots__ = ("count", "first", "paths", "row", "stats")

    def __init__(self, first: int, count: int, paths: Data, stats: Data, row: Data) -> None:
        self.first, self.count = first, count
        self.paths, self.stats, self.row = paths, stats, row


class StatComparison:
    """The stats of a file seen.bin beside those of the disk.

    `name`: the checksum of the file's last block. `end`: where that block ends, in bytes.

    `check`: the digest of the nodes.bin that belongs to the file. `patches`: by number of the node.

    `light`: no step of the recipe needs its kind's own module in the worker.
    """

    def __init__(self, file: str, header: bytes, parts: Sequence[Data]) -> None:
        """`header`: the first line of the file's first block. `parts`: what comes after it."""
        check, light, *_ = header.split()
        self.file, self.check, self.light = file, check.decode(), light == b"1"
        base, self.paths, self.stats = parts
        self.base = bytes(base)
        self.name, self.end = "", 0
        self.patches: dict[int, Patch] = {}
        self._result: tuple[bytearray, set[int]] | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Compare in a thread: what C compares leaves the interpreter to others."""
        from threading import Thread

        # One processor is left to the rest.
        self._thread = Thread(target=self._run, args=(max(1, (os.cpu_count() or 1) - 1),))
        self._thread.start()

    def _run(self, threads: int | None = None) -> tuple[bytearray, set[int]]:
        differs = bytearray(compare(self.paths, self.stats, self.base, threads))
        patched: set[int] = set()
        for number, patch in self.patches.items():
            differs[patch.first : patch.first + patch.count] = bytes(patch.count)
            if 1 in compare(patch.paths, patch.stats, self.base):
                patched.add(number)
        self._result = differs, patched
        return self._result

    def result(self) -> tuple[bytearray, set[int]]:
        """Return a byte for each path of the first block, and the numbers of differing patches.

        1 where a path differs and no patch stands for it.
        """
        if self._thread:
            self._thread.join()
        return self._result or self._run()

    @property
    def same(self) -> bool:
        differs, patched = self.result()
        return not patched and 1 not in differs


def _blocks(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each block, where its body begins and where it ends.

    Ends with one that is not whole.
    """
    end = 0
    while start := data.find(b"\n", end) + 1:
        name, _, size = data[end:start].decode("ascii", "replace").partition(" ")
        end = start + int(size) if size.strip().isdigit() else start
        if end > len(data) or checksum(memoryview(data)[start:end]) != name:
            return
        yield name, start, end


def pieces(view: memoryview, at: int, sizes: Iterable[int]) -> list[memoryview]:
    """Return pieces of these sizes that lie one after the other from `at` on, and then the rest."""
    parts = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    return [*parts, view[at:]]


def open_seen(file: str) -> StatComparison | None:
    """Read a seen.bin to compare it with the disk; None where there is none.

    node_db.py has the format.
    """
    try:
        with open(file, "rb") as f:
            data = f.read()
        blocks = _blocks(data)
        if (block := next(blocks, None)) is None:
            return None
        name, start, end = block
        at = data.index(b"\n", start) + 1
        *parts, _ = pieces(memoryview(data), at, map(int, data[start:at].split()[2:]))
        seen = StatComparison(file, data[start:at], parts)
        seen.name, seen.end = name, end
        for name, start, end in blocks:
            at = start + len(seen.name) + 1
            if data[start:at] != seen.name.encode() + b"\n":
                # Two have added to the same file at once.
                break
            seen.patches.update(_patches(data, at, end))
            seen.name, seen.end = name, end
        return seen
    except (OSError, ValueError, TypeError):
        return None


def _patches(data: bytes, at: int, end: int) -> Iterator[tuple[int, Patch]]:
    """Yield the patches that lie between two places of a file, each with the number of its node."""
    while at < end:
        line = data.index(b"\n", at) + 1
        number, first, count, *sizes = map(int, data[at:line].split())
        paths, stats, row, _ = pieces(memoryview(data), line, sizes)
        yield number, Patch(first, count, paths, stats, row)
        at = line + sum(sizes)


def values_of(names: bytes) -> bytes:
    """Return a checksum of the values of environment variables.

    The names are separated by spaces.
    """
    return checksum(
        ascii([os.environ.get(name) for name in names.decode().split()]).encode()
    ).encode()


def to_bytes(
    key: str,
    seen: tuple[str, str],
    paths: bytes,
    stats: bytes,
    out: str,
    err: str,
    code: int,
    variables: Iterable[str] = (),
) -> bytes:
    """Return an answer as it is kept, with the stats on which it depends.

    `paths` and `stats`, and those of a seen.bin.

    `seen`: that file, and the name that it must have. `variables`: those of the environment that
    count for a target of the recipe.
    """
    names = " ".join(variables).encode()
    parts = [
        os.fsencode(seen[0]),
        seen[1].encode(),
        names,
        values_of(names) if names else b"",
        paths,
        stats,
        *(text.encode("utf-8", "surrogateescape") for text in (err, out)),
    ]
    body = b"".join([b"%d %d %d %d %d %d %d %d\n" % (code, *map(len, parts[:-1])), *parts])
    return f"{key}\n{checksum(body)}\n".encode() + body


def _read_answer(arguments: list[str]) -> bytes | None:
    """Return the body of the answer that was kept for this command, as `to_bytes` wrote it.

    Raises OSError.
    """
    key = command_key(arguments)
    with open(file_of(arguments, key), "rb") as f:
        if f.readline() != key.encode() + b"\n":
            return None
        check, body = f.readline(), f.read()
    return body if check == checksum(body).encode() + b"\n" else None


def answer(arguments: list[str]) -> tuple[int | None, StatComparison | None]:
    """Print the answer and return the exit code, and what was compared by then.

    The code is None when the full path must be taken.
    """
    try:
        body = _read_answer(arguments)
        if body is None:
            return None, None
        at = body.index(b"\n") + 1
        code, *sizes = map(int, body[:at].split())
        file, name, variables, values, paths, stats, err, out = pieces(memoryview(body), at, sizes)
        seen = None
        if file:
            seen = open_seen(os.fsdecode(bytes(file)))
            if seen is None or seen.name != str(name, "utf-8"):
                # No answer's, and still what the full path begins with, which is a build's.
                if seen:
                    seen.start()
                return None, seen
            if not seen.same:
                return None, seen
        if 1 in compare(paths, stats) or (variables and values_of(bytes(variables)) != values):
            return None, seen
        # What can't be printed is the full path's to tell.
        sys.stderr.write(str(err, "utf-8", "surrogateescape"))
        sys.stdout.write(str(out, "utf-8", "surrogateescape"))
        sys.stdout.flush()
    except (OSError, ValueError, TypeError):
        return None, None
    return code, None
