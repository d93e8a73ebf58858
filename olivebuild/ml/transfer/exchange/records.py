"""Records of an exchange: what lies under which name there, and the text of each.

    v1/blobs/ab/<digest>                         a blob, as a remote cache has it
    v1/exchange/<key>/<attempt>/task             the job's action
    v1/exchange/<key>/<attempt>/00000000         what the job says, in numbered segments
    v1/exchange/<key>/<attempt>/states/<sha256>  a training's state
    v1/exchange/<key>/<attempt>/refused          the blobs that were not what was put there

Whoever can write to the bucket could say what runs and what came of it. So each object but the
blobs begins with an HMAC (RFC 2104) under a secret that only the two ends of one attempt have, and
names the SHA-256 of all that is not in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Annotated

from msgspec import Meta, Struct, to_builtins

from olivebuild.cache.remote_records import LAYOUT, RemoteBlob, Sha256, Size
from olivebuild.core.values.strict_json import decode

JOBS = f"{LAYOUT}/exchange"
MOST_TEXT = 64 << 20
"""Bytes of an action or a segment: what is longer is refused before it is read."""
PIECE = 1 << 20
"""Bytes of events, and of the log, in one segment."""
NUMBER = re.compile("[0-9]{8}")
"""The name of a segment."""
Word = Annotated[str, Meta(pattern=r"^[0-9a-z]{1,64}$")]


class Attempt(Struct, frozen=True, kw_only=True):
    """One submission of a job: its key, a name of its own, and the secret of its two ends."""

    key: Word
    name: Word
    secret: Word

    @property
    def folder(self) -> str:
        return attempt_folder(self.key, self.name)

    @property
    def task(self) -> str:
        return f"{self.folder}/task"

    @property
    def refused(self) -> str:
        return f"{self.folder}/refused"

    def segment(self, number: int) -> str:
        return f"{self.folder}/{number:08}"

    def sealed(self, name: str, body: bytes) -> bytes:
        """Return the text of an object of this name."""
        return self._mark(name, body) + b"\n" + body

    def opened(self, name: str, text: bytes) -> bytes:
        """Return what was sealed under this name. Raises ValueError for anything else."""
        mark, _, body = text.partition(b"\n")
        if not hmac.compare_digest(mark, self._mark(name, body)):
            raise ValueError(f"{name.rpartition('/')[2]} is not what the other end has written")
        return body

    def _mark(self, name: str, body: bytes) -> bytes:
        message = f"olivebuild exchange, version 1\n{name}\n".encode() + body
        return hmac.new(self.secret.encode(), message, hashlib.sha256).hexdigest().encode()


class State(Struct, frozen=True, kw_only=True):
    """The state of a training: the attempt that wrote it, and its file's SHA-256 and bytes."""

    attempt: Word
    sha256: Sha256
    size: Size


class Segment(Struct, frozen=True, kw_only=True):
    """What a job has said since the segment before: bytes of events and of its log.

    The last one has the outcome; its blobs were put there before.
    """

    events: bytes = b""
    log: bytes = b""
    state: State | None = None
    """The newest state of its training, in each segment again."""
    outcome: bytes = b""
    code: int | None = None
    """The exit status of its process, where that ended without an outcome."""

    def body(self) -> bytes:
        head = _Head(
            events=len(self.events),
            log=len(self.log),
            state=self.state,
            outcome=len(self.outcome),
            code=self.code,
        )
        line = json.dumps(to_builtins(head), separators=(",", ":")).encode()
        return b"".join((line, b"\n", self.events, self.log, self.outcome))

    @staticmethod
    def from_body(body: bytes) -> Segment:
        """Raises ValueError for what is no segment."""
        line, _, rest = body.partition(b"\n")
        head = decode(line, _Head)
        if len(rest) != head.events + head.log + head.outcome:
            raise ValueError("a segment of another length than it says")
        at = head.events
        return Segment(
            events=rest[:at],
            log=rest[at : at + head.log],
            state=head.state,
            outcome=rest[at + head.log :],
            code=head.code,
        )


class _Head(Struct, frozen=True, kw_only=True):
    """The first line of a segment: how many bytes of each there are."""

    events: Size
    log: Size
    state: State | None
    outcome: Size
    code: int | None


class Task(Struct, frozen=True, kw_only=True):
    """What a node is to do: the file of the action, and the state that a training goes on from."""

    action: bytes
    state: State | None = None

    def body(self) -> bytes:
        return json.dumps(to_builtins(self.state)).encode() + b"\n" + self.action

    @staticmethod
    def from_body(body: bytes) -> Task:
        """Raises ValueError for what is no task."""
        line, _, action = body.partition(b"\n")
        state = None if line == b"null" else decode(line, State)
        return Task(action=action, state=state)


class _Blobs(Struct, frozen=True):
    """What is read of the file of an action or an outcome: the blobs that it needs."""

    blobs: tuple[RemoteBlob, ...] = ()


def blobs_in(text: bytes) -> tuple[RemoteBlob, ...]:
    """Return the blobs that the file of an action or an outcome names. Raises ValueError."""
    return decode(text, _Blobs, strict=False).blobs


def attempt_folder(key: str, attempt: str) -> str:
    return f"{JOBS}/{key}/{attempt}"


def state_name(key: str, state: State) -> str:
    return f"{attempt_folder(key, state.attempt)}/states/{state.sha256}"
