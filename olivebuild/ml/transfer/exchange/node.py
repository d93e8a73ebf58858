"""The far end of an exchange: runs one job on a machine that shares no folder with the sender.

`python -m olivebuild.ml.transfer.exchange.node URL KEY ATTEMPT`, with the attempt's secret in
OLIVEBUILD_EXCHANGE_SECRET, brings the action and its blobs into a folder of this machine, runs the
job there, sends what it says while it runs, and its output blobs and the outcome last. A service
that starts the same command again on another machine has it go on from the last state.

    OLIVEBUILD_CACHE             the folder; else a new one, which goes when the job has ended
    OLIVEBUILD_EXCHANGE_SECONDS  how often what the job says is sent; 2 by default
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError
from olivebuild.core.fs import trees
from olivebuild.core.processes import python
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.transfer.exchange.place import Exchange, NotWhatWasPut
from olivebuild.ml.transfer.exchange.records import (
    PIECE,
    Attempt,
    Segment,
    State,
    Task,
    blobs_in,
    state_name,
)
from olivebuild.ml.transfer.remote import reason

JOB = "olivebuild.executors.site.job"
SECRET, SECONDS = "OLIVEBUILD_EXCHANGE_SECRET", "OLIVEBUILD_EXCHANGE_SECONDS"
GRACE_SECONDS = 30.0
"""How long a job may take to end when it is asked to."""
PATIENCE, PAUSE = 600.0, 5.0
"""How long the outcome of a job that has ended is tried to be sent, and how often, in seconds."""


class Node:
    """One attempt at a job, on this machine."""

    def __init__(self, exchange: Exchange, attempt: Attempt) -> None:
        self.exchange, self.attempt, self.store = exchange, attempt, exchange.store
        self.folder = self.store.root / "jobs" / attempt.key
        self._number = 0
        """Of the next segment."""
        self._sent = {"events": 0, "log": 0}
        """Bytes of each file that were sent."""
        self._pending: bytes | None = None
        """A segment that may not have arrived yet."""
        self._state: State | None = None
        self._stamp = (0, 0)
        self._job: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self) -> int:
        """Run the job and return an exit status: 0 where there is an outcome."""
        last = self.exchange.last_segment(self.attempt)
        segment = self.exchange.segment(self.attempt, last) if last >= 0 else None
        if segment and segment.outcome:
            return 0
        self._number = last + 1
        self._fetch(segment.state if segment else None)
        self._start()
        code = self._follow()
        outcome = self._read("outcome.json", 0)
        self._surely(self._say)
        if not outcome:
            self._surely(lambda: self._send(Segment(state=self._state, code=code)))
            return code if code > 0 else 1
        self._surely(lambda: self.exchange.send_blobs(blobs_in(outcome)))
        self._surely(lambda: self._send(Segment(state=self._state, outcome=outcome)))
        return 0

    def _fetch(self, state: State | None) -> None:
        """Bring the action, its blobs and the state of its training."""
        name = self.attempt.task
        text = self.exchange.text(name)
        if text is None:
            raise ValueError("there is no such job")
        task = Task.from_body(self.attempt.opened(name, text))
        trees.delete(self.folder.parent, self.folder)
        self.folder.mkdir(parents=True)
        self.exchange.bring_blobs(blobs_in(task.action))
        if state := state or task.state:
            self._bring(state)
        (self.folder / "attempt").write_text(self.attempt.name)
        (self.folder / "action.json").write_bytes(task.action)

    def _bring(self, state: State) -> None:
        file = self.store.checkpoint(self.attempt.key)
        file.parent.mkdir(exist_ok=True)
        try:
            name = state_name(self.attempt.key, state)
            self.exchange.bring_file(name, file, state.size, state.sha256)
        except (FileNotFoundError, ValueError):
            self._note("the state of the training is not what was put there: it begins anew")
            return
        self._state, self._stamp = state, _stamp(file)

    def _start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._job = subprocess.Popen(
                python("-m", JOB, str(self.store.root), self.attempt.key, self.attempt.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._stopped:
            self.stop()

    def stop(self, *_: object) -> None:
        """Ask the job to end: a training keeps its state first."""
        self._stopped = True
        if self._job:
            self._signal(signal.SIGTERM)

    def _follow(self) -> int:
        """Send what the job says until it has ended; return its exit status."""
        assert self._job
        seconds = float(os.environ.get(SECONDS) or 2)
        deadline = 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._job.wait(seconds)
                self._signal(signal.SIGKILL)
                return code
            if self._stopped:
                deadline = deadline or time.monotonic() + GRACE_SECONDS
                if time.monotonic() > deadline:
                    self._signal(signal.SIGKILL)
            # A place that can't be reached now stops no job: it is tried again, and at the end.
            with contextlib.suppress(Exception):
                self._say()

    def _signal(self, number: signal.Signals) -> None:
        assert self._job
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._job.pid, number)

    def _surely(self, work: Callable[[], object]) -> None:
        """Do what has to be done even if the place can't be reached for a while.

        Raises what it says in the end.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                work()
                return
            except BuildError:
                raise
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)

    def _say(self) -> None:
        """Send what the job has said since the last time."""
        self._send_state()
        self._flush()
        while True:
            events = self._read("events", self._sent["events"], PIECE)
            log = self._read("log", self._sent["log"], PIECE)
            if not (events or log):
                return
            self._sent["events"] += len(events)
            self._sent["log"] += len(log)
            self._send(Segment(events=events, log=log, state=self._state))
            sys.stdout.buffer.write(log)
            sys.stdout.buffer.flush()

    def _send(self, segment: Segment) -> None:
        self._flush()
        self._pending = segment.body()
        self._flush()

    def _flush(self) -> None:
        """Send the segment that is pending, unchanged: it may have arrived though no answer did."""
        while self._pending is not None:
            name = self.attempt.segment(self._number)
            text = self.attempt.sealed(name, self._pending)
            if self.exchange.create(name, text) or self.exchange.text(name) == text:
                self._pending = None
            self._number += 1

    def _send_state(self) -> None:
        """Put a new state of the training there, and delete the one before."""
        file = self.store.checkpoint(self.attempt.key)
        stamp = _stamp(file)
        if stamp in ((0, 0), self._stamp):
            return
        kept = self.folder / "state"
        kept.unlink(missing_ok=True)
        # The training replaces its file, and never writes into it.
        os.link(file, kept)
        sha256, size = sha256_of(kept), kept.stat().st_size
        state = State(attempt=self.attempt.name, sha256=sha256, size=size)
        self.exchange.send_file(state_name(self.attempt.key, state), kept)
        before, self._state, self._stamp = self._state, state, stamp
        # A node that comes after this one has to find the new one before the old one goes.
        self._send(Segment(state=state))
        if before and before != state and before.attempt == state.attempt:
            self.exchange.delete(state_name(self.attempt.key, before))

    def _read(self, name: str, at: int, most: int = -1) -> bytes:
        try:
            with open(self.folder / name, "rb") as f:
                f.seek(at)
                return f.read(most)
        except FileNotFoundError:
            return b""

    def _note(self, text: str) -> None:
        """Say something to the sender and in the log of the service."""
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            log.write(f"exchange: {text}\n")

    def refuse(self, fault: NotWhatWasPut) -> None:
        """Tell the sender of blobs that are damaged, so that it puts them there anew."""
        name = self.attempt.refused
        body = json.dumps(fault.digests).encode()
        self.exchange.replace(name, self.attempt.sealed(name, body))

    def tell(self, text: str) -> None:
        """Send a last note, where there is no job to say it."""
        log = f"exchange: {text}\n".encode()
        self._send(Segment(log=log, state=self._state, code=1))


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_ino


@contextlib.contextmanager
def _root() -> Iterator[Path]:
    if folder := os.environ.get("OLIVEBUILD_CACHE"):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="olivebuild-") as folder:
        yield Path(folder)


def run(url: str, attempt: Attempt, root: Path) -> int:
    """Run an attempt at a job in a folder, and return the exit status of the process."""
    node = None
    try:
        node = Node(Exchange(url, Store(root)), attempt)
        signal.signal(signal.SIGTERM, node.stop)
        return node.run()
    except Exception as e:  # noqa: BLE001
        # obstore's errors have no common class that is exported.
        fact = e.fact if isinstance(e, BuildError) else reason(e)
        print(f"error: {fact}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            if node and isinstance(e, NotWhatWasPut):
                node.refuse(e)
            if node:
                node.tell(fact)
        return 1


def main() -> NoReturn:
    url, key, name = sys.argv[1:4]
    secret = os.environ.pop(SECRET, "")
    with _root() as root:
        code = run(url, Attempt(key=key, name=name, secret=secret), root)
    sys.exit(code)


if __name__ == "__main__":
    main()
