"""A pseudo-terminal for tests, with a screen that shows what a person would see."""

from __future__ import annotations

import os
import select
import sys

import pyte

from tests.conftest import Place


class Terminal:
    """A pseudo-terminal with a screen, and `olivebuild` in it."""

    def __init__(self, place: Place, width: int, height: int, *arguments: str) -> None:
        import pty

        self.screen = pyte.HistoryScreen(width, height, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(place.folder)
            environment = os.environ | {
                "OLIVEBUILD_CACHE": str(place.cache),
                "TERM": "xterm-256color",
            }
            os.execve(
                sys.executable,
                [sys.executable, "-m", "olivebuild", *arguments],
                {k: v for k, v in environment.items() if k != "COLUMNS"},
            )
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def read(self, until: str | None = None) -> None:
        """Feed the screen until it shows a text, or until the program ends."""
        while until is None or not any(until in line for line in self.lines()):
            if not self.read_some():
                assert until is None, self.lines()
                return

    def read_raw(self) -> bytes:
        """What comes next as it is; nothing at the end."""
        assert select.select([self.fd], [], [], 60)[0], self.lines()
        try:
            return os.read(self.fd, 1000)
        except OSError:
            # How a pseudo-terminal on Linux says that its program has ended.
            return b""

    def read_some(self) -> bool:
        """Feed the screen with what comes next; False at the end.

        A program that is silent for a minute hangs.
        """
        data = self.read_raw()
        self._stream.feed(data)
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def lines(self) -> list[str]:
        """All that was scrolled out, and what is on the screen."""
        above = ["".join(row[x].data for x in sorted(row)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display] if line.strip()]

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
