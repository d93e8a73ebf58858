"""Child processes of our own.

Python that imports nothing from the folder that it is started in, and that ends with its parent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def python(*words: str, isolated: bool = True) -> list[str]:
    """A command line of the interpreter that runs olivebuild.

    `isolated`: the current folder and a script's own are no place to import from.

    A folder may be a stranger's, and hold a `json.py`.
    """
    mode = ["-X", "utf8"] if sys.flags.utf8_mode else []
    return [sys.executable, *(["-P"] if isolated else []), *mode, *words]


def restart() -> None:
    """Go on in an interpreter that takes names and texts for UTF-8, as recipes are.

    Whatever the locale says. Returns where that is not possible.
    """
    if os.name == "posix" and sys.executable and sys.orig_argv[1:3] != ["-X", "utf8"]:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - the same program


def end_with_parent(take: Callable[[bytes], None] | None = None) -> None:
    """Read lines from stdin until the parent is gone; then end, with all that was started.

    The other end closes when it goes.
    """
    # os.read rather than sys.stdin: a thread blocked in a buffered reader aborts the interpreter's
    # shutdown.
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if take:
            for line in lines:
                take(line)
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        # The worker leads a session of its own: whatever it started ends with it.
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
