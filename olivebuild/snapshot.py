"""The answer to a build of which nothing has changed, before anything else is imported: no click,
no yaml, no sqlite.

A snapshot holds what a build that found nothing to do printed, and the stat of everything that it
looked at (see noop.py, which writes
it). While all stats are what they were, the same command has the same answer; whatever differs
falls through to the full path.
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


def surroundings() -> list[object]:
    """What decides a plan beside files: where it is made, the environment, interpreter and
    machine.
    """
    names = (
        "OLIVEBUILD_CACHE",
        "OLIVEBUILD_BUILD",
        "XDG_CACHE_HOME",
        "HOME",
        "LOCALAPPDATA",
        "CUDA_VISIBLE_DEVICES",
        "PATH",
        "PYTHONPATH",
    )
    try:
        # Another processor or more memory come with a boot.
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            boot = f.read().decode()
    except OSError:
        boot = ""
    environment = [os.environ.get(name, "") for name in names]
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
    """What decides, beside files, what a command prints: its words, its surroundings, the
    terminal.
    """
    terminal = os.get_terminal_size(1).columns if os.isatty(1) else 0
    look = [
        os.environ.get(name, "")
        for name in (
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
    ]
    return ascii([surroundings(), arguments, look, terminal, os.isatty(2)])


def state_folder(arguments: list[str]) -> str:
    """.olivebuild/ of the recipe's folder: the last -C, or here."""
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
    """Guards against damage.

    What the interpreter has for its own cached files is there without importing anything.
    """
    return _imp.source_hash(FORMAT, data).hex()


def stat_of(path: str | bytes) -> Stat | None:
    """None for what is not there. A changed mode changes ctime."""
    try:
        return FIELDS(os.stat(path))
    except OSError:
        return None


def numbers_of(path: str | bytes) -> Stat:
    """A stat as it is kept: 64 bits a number, and no file has all of them set."""
    stat = stat_of(path)
    return ABSENT if stat is None else tuple([n & MASK for n in stat])


def differing(paths: Data, stats: Data, base: bytes = b"", threads: int | None = None) -> bytes:
    """A byte for each path, 1 where its stat is not the one that was kept.

    Each path ends with a zero byte; see _native_stats.h.

    A relative one begins at the folder `base`, which is shorter to look up than from the root.
    """
    if len(stats) >= WORTH_C * STAT_SIZE:
        try:
            from olivebuild._native import differing as native
        except ImportError:
            # Windows, and where there was no compiler.
            return _differing(paths, stats, base)
        return native(paths, stats, threads or os.cpu_count() or 1, base)
    return _differing(paths, stats, base)


def _differing(paths: Data, stats: Data, base: bytes) -> bytes:
    names, wanted = bytes(paths).split(b"\0"), memoryview(stats).cast("Q")
    if names.pop() or len(wanted) != len(names) * NUMBERS:
        raise ValueError("paths that end with a zero byte, and five numbers each, are needed")
    found = []
    for i in range(0, len(names), CHUNK):
        some, before = (
            [os.path.join(base, name) for name in names[i : i + CHUNK]],
            wanted[i * NUMBERS : (i + CHUNK) * NUMBERS].tolist(),
        )
        try:
            now = [n & MASK for stat in map(FIELDS, map(os.stat, some)) for n in stat]
        except OSError:
            now = [n for name in some for n in numbers_of(name)]
        same = now == before
        found += [
            0 if same or now[at : at + NUMBERS] == before[at : at + NUMBERS] else 1
            for at in range(0, len(now), NUMBERS)
        ]
    return bytes(found)


Change = tuple[int, int, Data, Data, Data]
"""What was found of a node later: in the place of so many paths from this number on, paths, stats
and a record that is memory.py's.
"""


class Look:
    """What a file of paths and stats holds, and what of that differs from the disk.

    `check` tells what else belongs to the file.

    `light`: no step of the recipe needs its kind's own module in the worker. `changes`: what was
    added to the file, by number of the node.
    """

    def __init__(
        self,
        file: str,
        name: str,
        end: int,
        check: str,
        light: bool,
        parts: Sequence[Data],
        changes: dict[int, Change],
    ) -> None:
        self.file, self.name, self.end, self.check, self.light, self.changes = (
            file,
            name,
            end,
            check,
            light,
            changes,
        )
        base, self.paths, self.stats = parts
        self.base = bytes(base)
        self._found: tuple[bytearray, set[int]] | None = None
        self._thread: Thread | None = None

    def begin(self) -> None:
        """Compare while something else is done: what C compares leaves the interpreter to
        others.
        """
        from threading import Thread

        # One processor is left to the rest.
        self._thread = Thread(target=self._compare, args=(max(1, (os.cpu_count() or 1) - 1),))
        self._thread.start()

    def _compare(self, threads: int | None = None) -> tuple[bytearray, set[int]]:
        differs = bytearray(differing(self.paths, self.stats, self.base, threads))
        for first, count, *_ in self.changes.values():
            differs[first : first + count] = bytes(count)
        changed = {
            number
            for number, (_, _, paths, stats, _) in self.changes.items()
            if 1 in differing(paths, stats, self.base)
        }
        self._found = differs, changed
        return self._found

    def compared(self) -> tuple[bytearray, set[int]]:
        """A byte for each path, 1 where it differs from what no change speaks of, and the numbers
        of the changes that differ.
        """
        if self._thread:
            self._thread.join()
        return self._found or self._compare()

    @property
    def same(self) -> bool:
        differs, changed = self.compared()
        return not changed and 1 not in differs


def seen_bytes(check: str, light: bool, base: bytes, paths: Data, stats: Data) -> tuple[str, bytes]:
    """A file of paths and stats, and its name."""
    return _block(
        b"%s %d %d %d %d\n" % (check.encode(), light, len(base), len(paths), len(stats)),
        base,
        paths,
        stats,
    )


def added_bytes(name: str, changes: dict[int, Change]) -> tuple[str, bytes]:
    """What to append to the file of this name, and the file's name then."""
    parts: list[Data] = [name.encode(), b"\n"]
    for number, (first, count, *data) in changes.items():
        parts += [b"%d %d %d %d %d %d\n" % (number, first, count, *map(len, data)), *data]
    return _block(*parts)


def _block(*parts: Data) -> tuple[str, bytes]:
    body = b"".join(parts)
    name = checksum(body)
    return name, b"%s %d\n" % (name.encode(), len(body)) + body


def _blocks(data: bytes) -> Iterator[tuple[str, int, int]]:
    """The name of each block, where its body begins and where it ends, until one is not whole."""
    end = 0
    while start := data.find(b"\n", end) + 1:
        name, _, size = data[end:start].decode("ascii", "replace").partition(" ")
        end = start + int(size) if size.strip().isdigit() else start
        if end > len(data) or checksum(memoryview(data)[start:end]) != name:
            return
        yield name, start, end


def pieces(view: memoryview, at: int, sizes: Iterable[int]) -> list[memoryview]:
    """What lies one after the other from `at` on, and then the rest."""
    found = []
    for size in sizes:
        found.append(view[at : at + size])
        at += size
    return [*found, view[at:]]


def look(file: str) -> Look | None:
    """A file of paths and stats, to be compared with the disk; None where there is none."""
    try:
        with open(file, "rb") as f:
            data = f.read()
        blocks, view = _blocks(data), memoryview(data)
        if (first := next(blocks, None)) is None:
            return None
        name, start, end = first
        at = data.index(b"\n", start) + 1
        check, light, *sizes = data[start:at].split()
        *parts, _ = pieces(view, at, map(int, sizes))
        changes: dict[int, Change] = {}
        for later, start, stop in blocks:
            at = start + len(name) + 1
            if data[start:at] != name.encode() + b"\n":
                # Two have added to the same file at once.
                break
            while at < stop:
                line = data.index(b"\n", at) + 1
                number, where, count, *lengths = map(int, data[at:line].split())
                names, numbers, record, _ = pieces(view, line, lengths)
                changes[number] = (where, count, names, numbers, record)
                at = line + sum(lengths)
            name, end = later, stop
        return Look(file, name, end, check.decode(), light == b"1", parts, changes)
    except (OSError, ValueError, TypeError):
        return None


def values_of(names: bytes) -> bytes:
    """What tells the values of variables from others, and not what they are; the names are
    separated by spaces.
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
    """An answer, and the stats on which it depends: those given, and those in the file `seen` of
    the name that comes with it.

    `variables`: those of the environment that count for a target of the recipe.
    """
    names = " ".join(variables).encode()
    told = [names, values_of(names) if names else b""]
    parts = [
        os.fsencode(seen[0]),
        seen[1].encode(),
        *told,
        paths,
        stats,
        *(text.encode("utf-8", "surrogateescape") for text in (err, out)),
    ]
    body = b"".join([b"%d %d %d %d %d %d %d %d\n" % (code, *map(len, parts[:-1])), *parts])
    return f"{key}\n{checksum(body)}\n".encode() + body


def answer(arguments: list[str]) -> tuple[int | None, Look | None]:
    """Print the answer and give the exit code; None when the full path must be taken, and what was
    seen by then.
    """
    try:
        key = command_key(arguments)
        with open(file_of(arguments, key), "rb") as f:
            if f.readline() != key.encode() + b"\n":
                return None, None
            check, body = f.readline(), f.read()
        if check != checksum(body).encode() + b"\n":
            return None, None
        at = body.index(b"\n") + 1
        code, *sizes = map(int, body[:at].split())
        file, name, variables, values, paths, stats, err, out = pieces(memoryview(body), at, sizes)
        seen = None
        if file:
            seen = look(os.fsdecode(bytes(file)))
            if seen is None or seen.name != str(name, "utf-8"):
                # No answer's, and still what the full path begins with, which is a build's.
                if seen:
                    seen.begin()
                return None, seen
            if not seen.same:
                return None, seen
        if 1 in differing(paths, stats) or (variables and values_of(bytes(variables)) != values):
            return None, seen
        # What can't be printed is the full path's to tell.
        sys.stderr.write(str(err, "utf-8", "surrogateescape"))
        sys.stdout.write(str(out, "utf-8", "surrogateescape"))
        sys.stdout.flush()
    except (OSError, ValueError, TypeError):
        return None, None
    return code, None
