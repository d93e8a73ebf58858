"""Exit reasons of processes in words; and kills by the system for want of memory."""

from __future__ import annotations

import contextlib
import errno
import signal
from pathlib import Path

from olivebuild.core.errors import first_line

NO_MEMORY = (
    "there was not enough memory",
    "close other programs, or build where there is more; with -j, `resources: {memory: 8GB}` "
    "on targets keeps them from running side by side",
)
"""Fact and hint."""
SHELL = 128
"""A shell that ends after a signal adds its number to this."""


def ending(code: int, peak: int = 0, killed_before: int | None = None) -> tuple[str, str]:
    """Return how a process ended that failed, and a hint where there is one.

    `peak`: the most memory that it took, 0 where that is not known.

    `killed_before`: what `kills` told when it was started.
    """
    number = -code if code < 0 else code - SHELL
    if code >= 0 and number != signal.SIGKILL:
        return f"ended with {code}", ""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number != signal.SIGKILL:
        return f"was stopped by {name}", ""
    from olivebuild.core.text import size

    taken = f"; it had taken up to {size(peak)}" if peak else ""
    now = kills()
    if killed_before is not None and now is not None and now > killed_before:
        return (
            f"was killed (signal 9): the system had no memory left and ends processes then{taken}",
            NO_MEMORY[1],
        )
    return (
        f"was killed (signal 9), perhaps for want of memory{taken}",
        f"if it was for memory: {NO_MEMORY[1]}",
    )


def end_of(code: int, said: str = "") -> str:
    """Return in words how a process ended that owed an answer, and the last line that it said."""
    last = said.strip().rpartition("\n")[2][:200]
    how = ending(code)[0] if code else "ended without an answer"
    return f"its process has ended: it {how}: {last}".rstrip(": ")


def kills() -> int | None:
    """Return how many processes the system has ended for want of memory so far.

    None where it does not tell.
    """
    try:
        with open("/proc/vmstat", encoding="ascii") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("oom_kill ")), None)
    except (OSError, ValueError):
        return None


WORDS = ("bad_alloc", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""What libraries say, which have no error of their own for it."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error was raised for want of memory, by the system or by a library."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(word in first_line(error, 2000).lower() for word in WORDS)


MIN_FREE_BYTES = 1 << 16
"""The free space below which a disk counts as full."""


def lacks_space(error: BaseException, folder: Path) -> bool:
    """Return whether an error was raised for want of space on the disk of `folder`.

    Libraries have errors of their own for a full disk, so the disk is asked, too.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # Not imported by a process that only asks for the constants.
    import shutil

    with contextlib.suppress(OSError):
        return "No space left" in str(error) or shutil.disk_usage(folder).free < MIN_FREE_BYTES
    return False
