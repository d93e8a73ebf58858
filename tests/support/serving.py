"""`olivebuild serve` as a test's server."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.conftest import Place


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    url: str = ""
    err: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].partition("/")[0])

    def end(self, sent: signal.Signals = signal.SIGINT) -> int:
        """Tell it to end, and return its exit code."""
        self.process.send_signal(sent)
        return self.process.wait(20)


@contextmanager
def serving(place: Place, *arguments: str) -> Iterator[Served]:
    """Context with a server that is ready, at a port of its own."""
    process = place.start("serve", *arguments, "--port", "0")
    assert process.stdout
    assert process.stderr
    served = Served(process)
    stderr = process.stderr
    reader = threading.Thread(target=lambda: served.err.extend(stderr), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"serving .* at (http://\S+)\n", line)
        if match is None:
            process.wait(20)
            reader.join(5)
            raise AssertionError("".join(served.err))
        served.url = match[1]
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
