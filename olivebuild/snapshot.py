"""The answer to a build of which nothing has changed, before anything else is imported: no click, no yaml, no sqlite.

A snapshot holds what a build that found nothing to do printed, and the stat of everything that it looked at (see noop.py, which writes
it). While all stats are what they were, the same command has the same answer; whatever differs falls through to the full path.
Deleting a snapshot costs one full look, nothing else.
"""

from __future__ import annotations

import binascii
import os
import sys
from _operator import attrgetter, eq

PREFIX = "snapshot-"
FORMAT = 2


def surroundings() -> list[object]:
    """What decides a plan beside files: where it is made, the environment, interpreter and machine."""
    names = ("OLIVEBUILD_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "CUDA_VISIBLE_DEVICES", "PATH", "PYTHONPATH")
    try:
        # Another processor or more memory come with a boot.
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            boot = f.read()
    except OSError:
        boot = ""
    environment = [os.environ.get(name, "") for name in names]
    return [FORMAT, boot, os.getcwd(), environment, sys.executable, sys.version, os.cpu_count()]


def command_key(arguments: list[str]) -> str:
    """What decides, beside files, what a command prints: its words, its surroundings, the terminal."""
    terminal = os.get_terminal_size(1).columns if os.isatty(1) else 0
    look = [os.environ.get(name, "") for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")]
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
    return os.path.join(state_folder(arguments), f"{PREFIX}{binascii.crc32(key.encode()):08x}")


CHUNK = 500
"""Paths in a line: enough for the loops to be C's, few enough for the memory of one line not to count."""
FIELDS = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
Stat = tuple[int, ...]


def stat_of(path: str) -> Stat | None:
    """None for what is not there. A changed mode changes ctime."""
    try:
        return FIELDS(os.stat(path))
    except OSError:
        return None


def to_text(key: str, stats: dict[str, Stat | None], out: str, err: str, code: int) -> str:
    """Lines rather than JSON, whose import takes as long as all the rest. Raises ValueError for a path that is no line."""
    if any("\n" in line or "\t" in line for line in (key, *stats)):
        raise ValueError("a line break in a name")
    absent = [path for path, stat in stats.items() if stat is None]
    present = [(path, stat) for path, stat in stats.items() if stat is not None]
    lines = ["\t".join(absent)]
    for i in range(0, len(present), CHUNK):
        chunk = present[i : i + CHUNK]
        lines += ["\t".join(path for path, _ in chunk), " ".join(str(n) for _, stat in chunk for n in stat)]
    body = "\n".join([f"{code} {len(err)} {len(lines)}", *lines]) + "\n" + err + out
    return f"{key}\n{binascii.crc32(body.encode()):08x}\n{body}"


def _same(names: str, numbers: str) -> bool:
    """Whether the stats of the paths are these. Raises OSError for one that is gone."""
    now = map(FIELDS, map(os.stat, names.split("\t")))
    return all(map(eq, now, zip(*[map(int, numbers.split())] * 5, strict=True)))


def answer(arguments: list[str]) -> int | None:
    """Print the answer and give the exit code; None when the full path must be taken."""
    try:
        key = command_key(arguments)
        with open(file_of(arguments, key), "rb") as f:
            if f.readline() != key.encode() + b"\n":
                return None
            check, body = f.readline(), f.read()
        if check != b"%08x\n" % binascii.crc32(body):
            return None
        head, _, rest = body.decode().partition("\n")
        code, length, count = map(int, head.split())
        absent, *lines, printed = rest.split("\n", count)
        if len(lines) != count - 1 or any(map(stat_of, absent.split("\t") if absent else ())):
            return None
        if not all(map(_same, lines[::2], lines[1::2])):
            return None
        err, out = printed[:length], printed[length:]
    except (OSError, ValueError):
        return None
    sys.stderr.write(err)
    sys.stdout.write(out)
    sys.stdout.flush()
    return code
