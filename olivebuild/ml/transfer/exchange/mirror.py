"""The near end of an exchange: keeps the folders of jobs on this machine as their nodes have them.

`python -m olivebuild.ml.transfer.exchange.mirror URL ROOT` reads requests as JSON lines and answers
each with one (executors/mirrored.py); `ROOT` is a store whose folder `jobs` has the jobs. It ends
when its input does.

    {"id": 1, "op": "submit", "key": KEY}   puts a job there; answers with `attempt` and `secret`
    {"id": 2, "op": "follow", "key": KEY}   appends what the job says from now on
    {"id": 3, "op": "settle", "key": KEY}   takes what there is at once; answers with what is known
                                            of the attempt's end: `outcome` is here, `code` of its
                                            process, blobs that it `refused`, if it `said` a word
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, structs, to_builtins

from olivebuild.cache.remote_records import Size
from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.values.strict_json import decode
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.transfer.exchange.node import SECONDS
from olivebuild.ml.transfer.exchange.place import Exchange
from olivebuild.ml.transfer.exchange.records import (
    Attempt,
    State,
    Task,
    Word,
    attempt_folder,
    blobs_in,
    state_name,
)
from olivebuild.ml.transfer.remote import reason

RECORD = "exchange.json"
JOBS = 8
"""Jobs that are looked at, at once."""
SLOWEST = 15.0
"""Seconds between two looks at a job that has long said nothing."""


class Position(Struct, frozen=True, kw_only=True):
    """How far this end has come with an attempt; the file `exchange.json` of the job's folder.

    `next` is the number of the next segment; `events` and `log` are the sizes of these files before
    it was appended.
    """

    attempt: Attempt
    next: Size = 0
    events: Size = 0
    log: Size = 0
    state: State | None = None
    code: int | None = None
    """The exit status of the node's process, where that ended without an outcome."""
    earlier: tuple[Word, ...] = ()
    """Attempts before this one, which may have the state."""


class Mirror:
    """Jobs of a folder, at this end."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.store = exchange, exchange.store

    def submit(self, key: str) -> Attempt | None:
        """Put a job, its blobs and the state of its training there, under a new attempt.

        None where the attempt before it has an outcome after all. Raises BuildError, ValueError,
        OSError, and what the place says.
        """
        before, folder = self._position(key), self._folder(key)
        if before:
            # It may have a newer state. What is not its node's own is left behind with it.
            with suppress(ValueError):
                if self._take_all(key):
                    return None
            before = self._position(key)
        attempt = Attempt(key=key, name=secrets.token_hex(8), secret=secrets.token_hex(32))
        action = (folder / "action.json").read_bytes()
        self.exchange.send_blobs(blobs_in(action), anew=self.refused(key))
        task = Task(action=action, state=self._state(attempt, before))
        self.exchange.replace(attempt.task, attempt.sealed(attempt.task, task.body()))
        position = Position(
            attempt=attempt,
            events=_size(folder / "events"),
            log=_size(folder / "log"),
            state=task.state,
            earlier=(*before.earlier, before.attempt.name) if before else (),
        )
        self._keep(position)
        return attempt

    def refused(self, key: str) -> tuple[str, ...]:
        """Return the digests of blobs that the node of the last attempt could not use."""
        position = self._position(key)
        if position is None:
            return ()
        name = position.attempt.refused
        text = self.exchange.text(name)
        with suppress(ValueError):
            return decode(position.attempt.opened(name, text), tuple[str, ...]) if text else ()
        return ()

    def _state(self, attempt: Attempt, before: Position | None) -> State | None:
        """Return the state that is there, or that of a training that was begun here."""
        if before and before.state:
            return before.state
        file = self.store.checkpoint(attempt.key)
        if not file.is_file():
            return None
        sha256, size = sha256_of(file), file.stat().st_size
        state = State(attempt=attempt.name, sha256=sha256, size=size)
        self.exchange.send_file(state_name(attempt.key, state), file)
        return state

    def take(self, key: str) -> bool | None:
        """Take the next segment; return whether it has the outcome, None where there is none.

        Raises ValueError for what the node has not written, StoreError, and what the place says.
        """
        position = self._position(key)
        if position is None:
            return None
        segment = self.exchange.segment(position.attempt, position.next)
        if segment is None:
            return None
        folder = self._folder(key)
        if segment.outcome:
            self.exchange.bring_blobs(blobs_in(segment.outcome))
        # What was appended and not yet counted when a process before this one ended is cut off.
        events = _append(folder / "events", position.events, segment.events)
        log = _append(folder / "log", position.log, segment.log)
        if segment.outcome:
            write_atomically(folder / "outcome.json", segment.outcome)
            for name in (*position.earlier, position.attempt.name):
                self.exchange.delete_below(attempt_folder(key, name))
            (folder / RECORD).unlink(missing_ok=True)
            return True
        after = structs.replace(
            position,
            next=position.next + 1,
            events=events,
            log=log,
            state=segment.state or position.state,
            code=segment.code,
        )
        self._keep(after)
        return False

    def settle(self, key: str) -> dict[str, Any]:
        """Take all that is there; return what is known of the end of the last attempt."""
        self._take_all(key)
        position = self._position(key)
        return {
            "outcome": (self._folder(key) / "outcome.json").is_file(),
            "code": position.code if position else None,
            "refused": bool(self.refused(key)),
            "said": bool(position and position.next),
        }

    def _take_all(self, key: str) -> bool:
        """Take all that is there; return whether the outcome was among it."""
        while (taken := self.take(key)) is not None:
            if taken:
                return True
        return False

    def _folder(self, key: str) -> Path:
        return self.store.root / "jobs" / key

    def _position(self, key: str) -> Position | None:
        with suppress(FileNotFoundError, ValueError):
            return decode((self._folder(key) / RECORD).read_bytes(), Position)
        return None

    def _keep(self, position: Position) -> None:
        text = json.dumps(to_builtins(position)).encode()
        # It has the secret.
        write_atomically(self._folder(position.attempt.key) / RECORD, text, 0o600)


class Desk:
    """Answers requests, and takes what followed jobs say until their outcomes are here.

    Jobs are looked at each by itself, several at once: one that brings gigabytes holds up no other.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._pause = float(os.environ.get(SECONDS) or 2)
        self._pool = ThreadPoolExecutor(JOBS)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """key -> held while its folder changes"""
        self._due: dict[str, tuple[float, float]] = {}
        """key -> (when it is looked at next, the pause after that)"""
        self._changed = threading.Condition()
        self._says = threading.Lock()

    def run(self, lines: Iterable[str]) -> None:
        """Answer requests until there are no more."""
        threading.Thread(target=self._look, daemon=True).start()
        for line in lines:
            self._pool.submit(self._take_request, json.loads(line))
        # Whatever is on its way can be begun anew from what lies in the jobs' folders.
        os._exit(0)

    def _take_request(self, request: Mapping[str, Any]) -> None:
        key = str(request["key"])
        with self._locks[key]:
            answer = self._answer(str(request["op"]), key)
        self._say({"id": request["id"], **answer})

    def _answer(self, op: str, key: str) -> dict[str, Any]:
        try:
            if op == "submit":
                attempt = self._mirror.submit(key)
                if attempt is None:
                    return {"attempt": ""}
                self._follow(key, self._pause)
                return {"attempt": attempt.name, "secret": attempt.secret}
            if op == "settle":
                return self._mirror.settle(key)
            self._follow(key, self._pause)
            return {}
        except BuildError as e:
            return {"error": e.fact, "hint": e.hint}
        except Exception as e:  # noqa: BLE001
            # obstore's errors have no common class that is exported.
            return {"error": reason(e)}

    def _follow(self, key: str, pause: float) -> None:
        with self._changed:
            self._due[key] = (time.monotonic() + pause, pause)
            self._changed.notify()

    def _look(self) -> None:
        """Have the jobs looked at that are due, for ever."""
        while True:
            with self._changed:
                now = time.monotonic()
                due = [key for key, (at, _) in self._due.items() if at <= now]
                work = [(key, self._due.pop(key)[1]) for key in due]
                if not work:
                    nearest = min((at for at, _ in self._due.values()), default=now + SLOWEST)
                    self._changed.wait(max(0.0, nearest - now))
            for key, pause in work:
                self._pool.submit(self._take, key, pause)

    def _take(self, key: str, pause: float) -> None:
        """Take what there is of a job, and say when it is looked at next."""
        try:
            with self._locks[key]:
                taken = None
                while (segment := self._mirror.take(key)) is not None:
                    taken = segment
                    if taken:
                        return
        except Exception as e:  # noqa: BLE001
            self._say({"key": key, "fault": e.fact if isinstance(e, BuildError) else reason(e)})
            taken = None
        quiet = taken is None
        self._follow(key, min(pause * 1.2, max(SLOWEST, self._pause)) if quiet else self._pause)

    def _say(self, message: dict[str, Any]) -> None:
        with self._says:
            _print(message)


def _append(file: Path, at: int, data: bytes) -> int:
    """Write data at an offset and cut off what was there; return the new size.

    Where data were to be appended and nothing is new, the file stays as it is.
    """
    if not data and _size(file) == at:
        return at
    with open(file, "r+b" if file.exists() else "xb") as f:
        f.seek(at)
        f.write(data)
        f.truncate()
    return at + len(data)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    url, root = sys.argv[1:3]
    try:
        desk = Desk(Mirror(Exchange(url, Store(Path(root)))))
    except BuildError as e:
        _print({"error": e.fact, "hint": e.hint})
        return
    _print({"ready": True})
    desk.run(sys.stdin)


if __name__ == "__main__":
    main()
