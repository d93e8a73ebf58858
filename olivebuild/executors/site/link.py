"""A link to an agent that outlives its connections: what is asked is asked again after a cut.

All requests may be repeated: what they do a second time changes nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import ValidationError

from olivebuild.core.errors import BuildError, StepError
from olivebuild.core.values.typed import convert
from olivebuild.executors.site import frames
from olivebuild.executors.site.about import About
from olivebuild.executors.site.client import Client, Cut, CutAtFirst
from olivebuild.executors.site.connection import Connection
from olivebuild.executors.site.frames import Frame

PATIENCE = "OLIVEBUILD_SITE_PATIENCE"
PATIENCE_SECONDS = 600.0
"""How long a site may be out of reach before its steps count as failed here."""
QUIET_SECONDS = 60.0
"""How long a cut is not told after another: a bad connection is one piece of news."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Closed(Exception):
    """The build ends: nothing more is asked."""


class Link:
    """Asks the agent of a site. `say` is told when the connection is cut, and when it is back."""

    def __init__(
        self, connection: Connection, words: Sequence[str], say: Callable[[str], None]
    ) -> None:
        self.label = connection.label
        self._connection = connection
        self._words = list(words)
        self._say = say
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._piece = frames.SMALL_PIECE
        """Bytes of a blob to move at once: few where connections do not last."""
        self._told: float | None = None
        """When a cut was told last, by the monotonic clock."""
        self._patience = float(os.environ.get(PATIENCE) or PATIENCE_SECONDS)

    def hello(self, libraries: Iterable[str]) -> About:
        """Return what the site is. Raises BuildError where it is not reached now."""
        try:
            answer = self._ask("hello", {"libraries": list(libraries)})
        except CutAtFirst as e:
            raise e.problem from None
        except Cut as e:
            raise self._gone(str(e)) from None
        try:
            return convert(answer.data["about"], About)
        except (ValidationError, KeyError):
            raise StepError(
                f"{self.label} has another olivebuild than this machine",
                hint="install the same wheel on both",
            ) from None

    def call(self, op: str, data: Mapping[str, object]) -> Frame:
        """Return an answer, over as many connections as it takes; raises as `move` does."""
        return self.move(op, lambda _size: (data, b""))

    def move(self, op: str, make: Callable[[int], tuple[Mapping[str, object], bytes]]) -> Frame:
        """Return the answer to a request that moves bytes of a blob.

        `make` returns its data and bytes for a number of bytes to be moved at most, which is less
        after each cut.

        Raises BuildError for what the agent refuses, and where the site stays out of reach; Closed
        when the build ends.
        """
        since: float | None = None
        pause = FIRST_PAUSE
        while True:
            if self._closing.is_set():
                raise Closed
            try:
                answer = self._ask(op, *make(self._piece))
            except Cut as e:
                now = time.monotonic()
                if since is None:
                    since = now
                if self._told is None or now - self._told > QUIET_SECONDS:
                    self._told = now
                    self._say(
                        f"the connection to {self.label} is cut ({e}): what runs there goes on, "
                        "and it is tried again"
                    )
                if now - since > self._patience:
                    raise self._gone(str(e)) from None
                self._closing.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            if since is not None and since == self._told:
                self._say(f"the connection to {self.label} is back")
            return answer

    def last(self, op: str, data: Mapping[str, object]) -> bool:
        """Ask without patience, for the end of a build; return whether there was an answer."""
        try:
            self._ask(op, data)
        except (Cut, BuildError):
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Wait, but not at the end of a build."""
        self._closing.wait(seconds)

    def stop(self) -> None:
        """Have `call` end soon."""
        self._closing.set()

    def reopen(self) -> None:
        self._closing.clear()

    def abort(self) -> None:
        """Cut the connection while another thread waits for an answer."""
        if client := self._client:
            client.kill()

    def close(self) -> None:
        with self._lock:
            if self._client:
                self._client.close()
            self._client = None

    def _ask(self, op: str, data: Mapping[str, object], blob: bytes = b"") -> Frame:
        """Raises Cut and BuildError."""
        with self._lock:
            try:
                if self._client is None:
                    self._client = Client(self._connection, self._words)
                answer = self._client.call(op, data, blob)
            except Cut:
                self._client = None
                self._piece = max(frames.SMALL_PIECE, self._piece // 4)
                raise
            if max(len(blob), len(answer.blob)) >= self._piece:
                self._piece = min(2 * self._piece, frames.PIECE)
            return answer

    def _gone(self, why: str) -> StepError:
        return StepError(
            f"{self.label} is out of reach: {why}",
            hint="what was begun there goes on, and the next build picks it up; "
            f"{PATIENCE} says how many seconds to wait",
        )
