"""The answer to a build of which nothing has changed, before anything else is imported: no click, no yaml, no sqlite.

A snapshot holds what a build that found nothing to do printed, and the stat of everything that it looked at (see noop.py, which writes
it). While all stats are what they were, the same command has the same answer; whatever differs falls through to the full path.
Deleting a snapshot costs one full look, nothing else.
"""

import _imp
import os
import sys
from _operator import attrgetter

PREFIX = "snapshot-"
SEEN = "seen.bin"
FORMAT = 5


def surroundings() -> list[object]:
    """What decides a plan beside files: where it is made, the environment, interpreter and machine."""
    names = ("OLIVEBUILD_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "CUDA_VISIBLE_DEVICES", "PATH", "PYTHONPATH")
    try:
        # Another processor or more memory come with a boot.
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            boot = f.read().decode()
    except OSError:
        boot = ""
    environment = [os.environ.get(name, "") for name in names]
    # The first place is that of the program that was called, and holds none of its libraries.
    return [FORMAT, boot, os.getcwd(), environment, sys.executable, sys.version, sys.path[1:], os.cpu_count()]


def command_key(arguments: list[str]) -> str:
    """What decides, beside files, what a command prints: its words, its surroundings, the terminal."""
    terminal = os.get_terminal_size(1).columns if os.isatty(1) else 0
    look = [
        os.environ.get(name, "")
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "LC_CTYPE", "LANG")
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
    """Guards against damage. What the interpreter has for its own cached files is there without importing anything."""
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


def differing(paths: Data, stats: Data) -> bytes:
    """A byte for each path, 1 where its stat is not the one that was kept. Each path ends with a zero byte; see _native_stats.h."""
    if len(stats) >= WORTH_C * STAT_SIZE:
        try:
            from olivebuild._native import differing as native
        except ImportError:
            # Windows, and where there was no compiler.
            return _differing(paths, stats)
        return native(paths, stats, os.cpu_count() or 1)
    return _differing(paths, stats)


def _differing(paths: Data, stats: Data) -> bytes:
    names, wanted = bytes(paths).split(b"\0"), memoryview(stats).cast("Q")
    if names.pop() or len(wanted) != len(names) * NUMBERS:
        raise ValueError("paths that end with a zero byte, and five numbers each, are needed")
    found = []
    for i in range(0, len(names), CHUNK):
        some, before = names[i : i + CHUNK], wanted[i * NUMBERS : (i + CHUNK) * NUMBERS].tolist()
        try:
            now = [n & MASK for stat in map(FIELDS, map(os.stat, some)) for n in stat]
        except OSError:
            now = [n for name in some for n in numbers_of(name)]
        same = now == before
        found += [0 if same or now[at : at + NUMBERS] == before[at : at + NUMBERS] else 1 for at in range(0, len(now), NUMBERS)]
    return bytes(found)


class Look:
    """What a file of paths and stats held, and a byte for each path: 1 where it differs now. `check` tells what else belongs to the file.

    `light`: no step of the recipe needs its kind's own module in the worker.
    """

    def __init__(self, file: str, name: str, check: str, light: bool, paths: Data, stats: Data) -> None:
        self.file, self.name, self.check, self.light, self.paths, self.stats = file, name, check, light, paths, stats
        self.differs = differing(paths, stats)


def seen_bytes(check: str, light: bool, paths: Data, stats: Data) -> bytes:
    body = b"".join([b"%s %d %d %d\n" % (check.encode(), light, len(paths), len(stats)), paths, stats])
    return checksum(body).encode() + b"\n" + body


def name_of(file: str) -> str:
    """What a file of paths and stats is told by: the checksum in it."""
    with open(file, "rb") as f:
        return f.readline().decode().strip()


def look(file: str) -> Look | None:
    """Compare a file of paths and stats with the disk; None where there is none."""
    try:
        with open(file, "rb") as f:
            found = f.readline().decode().strip()
            data = f.read()
        if checksum(data) != found:
            return None
        start = data.index(b"\n") + 1
        check, light, paths, stats = data[:start].split()
        middle, view = start + int(paths), memoryview(data)
        if len(data) != middle + int(stats):
            return None
        return Look(file, found, check.decode(), light == b"1", view[start:middle], view[middle:])
    except (OSError, ValueError, TypeError):
        return None


def to_bytes(key: str, seen: tuple[str, str], paths: bytes, stats: bytes, out: str, err: str, code: int) -> bytes:
    """An answer, and the stats on which it depends: those given, and those in the file `seen` of the name that comes with it."""
    parts = [os.fsencode(seen[0]), seen[1].encode(), paths, stats, *(text.encode("utf-8", "surrogateescape") for text in (err, out))]
    body = b"".join([b"%d %d %d %d %d %d\n" % (code, *map(len, parts[:-1])), *parts])
    return f"{key}\n{checksum(body)}\n".encode() + body


def answer(arguments: list[str]) -> tuple[int | None, Look | None]:
    """Print the answer and give the exit code; None when the full path must be taken, and what was seen by then."""
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
        view, parts = memoryview(body), []
        for size in sizes:
            parts.append(view[at : at + size])
            at += size
        file, name, paths, stats, err = parts
        seen = None
        if file:
            # Of another name, it is no answer's, and still what the full path begins with.
            seen = look(os.fsdecode(bytes(file)))
            if seen is None or seen.name != str(name, "utf-8") or 1 in seen.differs:
                return None, seen
        if 1 in differing(paths, stats):
            return None, seen
        printed = [str(text, "utf-8", "surrogateescape") for text in (err, view[at:])]
    except (OSError, ValueError, TypeError):
        return None, None
    sys.stderr.write(printed[0])
    sys.stdout.write(printed[1])
    sys.stdout.flush()
    return code, None
