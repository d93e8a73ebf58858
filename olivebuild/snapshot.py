"""The answer to a build of which nothing has changed, before anything else is imported: no click, no yaml, no sqlite.

A snapshot holds what a build that found nothing to do printed, and the stat of everything that it looked at (see noop.py, which writes
it). While all stats are what they were, the same command has the same answer; whatever differs falls through to the full path.
Deleting a snapshot costs one full look, nothing else.
"""

from __future__ import annotations

import binascii
import os
import sys

PREFIX = "snapshot-"
FORMAT = 1


def command_key(arguments: list[str]) -> str:
    """What decides, beside files, what a command prints: its words, where it runs, the environment, interpreter and terminal."""
    terminal = os.get_terminal_size(1).columns if os.isatty(1) else 0
    names = (
        "OLIVEBUILD_CACHE",
        "XDG_CACHE_HOME",
        "HOME",
        "LOCALAPPDATA",
        "CUDA_VISIBLE_DEVICES",
        "NO_COLOR",
        "FORCE_COLOR",
        "TERM",
        "COLUMNS",
        "PATH",
        "PYTHONPATH",
    )
    environment = [os.environ.get(name, "") for name in names]
    try:
        # Another processor or more memory come with a boot.
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            boot = f.read()
    except OSError:
        boot = ""
    return ascii([FORMAT, boot, arguments, os.getcwd(), environment, sys.executable, sys.version, terminal, os.isatty(2), os.cpu_count()])


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


def stat_of(path: str) -> str:
    """Empty for what is not there."""
    try:
        s = os.stat(path)
    except OSError:
        return ""
    return f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_mode}"


def to_text(key: str, stats: dict[str, str], out: str, err: str, code: int) -> str:
    """Lines rather than JSON, whose import takes as long as all the rest. Raises ValueError for a path that is no line."""
    if any("\n" in line for line in (key, *stats)):
        raise ValueError("a line break in a name")
    lines = [f"{code} {len(err)} {len(stats)}", *(f"{stat}\t{path}" for path, stat in stats.items())]
    body = "\n".join(lines) + "\n" + err + out
    return f"{key}\n{binascii.crc32(body.encode()):08x}\n{body}"


def answer(arguments: list[str]) -> int | None:
    """Print the answer and give the exit code; None when the full path must be taken."""
    try:
        key = command_key(arguments)
        with open(file_of(arguments, key), encoding="utf-8", newline="") as f:
            if f.readline() != key + "\n":
                return None
            check, body = f.readline(), f.read()
        if check != f"{binascii.crc32(body.encode()):08x}\n":
            return None
        head, _, rest = body.partition("\n")
        code, length, count = map(int, head.split())
        *lines, printed = rest.split("\n", count)
        for line in lines:
            stat, _, path = line.partition("\t")
            if stat_of(path) != stat:
                return None
        err, out = printed[:length], printed[length:]
    except (OSError, ValueError):
        return None
    sys.stderr.write(err)
    sys.stdout.write(out)
    sys.stdout.flush()
    return code
