"""A job of a site: `python -m olivebuild.executors.site.job ROOT KEY ATTEMPT`.

It puts inputs in place out of the site's store, runs the action as a build here would, and stores
what it makes. What the step says is appended to the job's files while it runs. The exit status is 0
where the outcome is written, whatever it is; 143 where the job was asked to stop; 75 where it is to
be started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import structs, to_builtins

from olivebuild.api import privacy
from olivebuild.api.action import Action, Message, Outcome
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.core import numerics
from olivebuild.core.errors import BuildError, Damaged, NodeLost, StepError, of_disk
from olivebuild.core.fs import locks, trees
from olivebuild.core.processes import python
from olivebuild.executors.local import LocalExecutor
from olivebuild.executors.site import about
from olivebuild.executors.site.folder import PRIVATE, JobFolder, new_bytes
from olivebuild.executors.site.portable import PortableAction, PortableOutcome
from olivebuild.executors.site.unpacking import sweep, unpack

POLL_SECONDS = 0.2
STOPPED = 128 + signal.SIGTERM
AGAIN = 75
"""As EX_TEMPFAIL of sysexits.h: schedulers and people read it as "try again"."""
NODE = "OLIVEBUILD_NODE"
"""The number of this node, where a job has several; 0 is the one that keeps the job's files."""


NODE_PROCESS = "olivebuild.ml.training.nodes.node_process"
"""The module that Python runs on the further nodes of a training."""


class Superseded(Exception):
    """Another attempt of the job has begun."""


class Job:
    """One attempt of a job."""

    def __init__(self, folder: JobFolder, attempt: str, root: Path) -> None:
        self._folder = folder
        self._attempt = attempt
        self._store = Store(root, PRIVATE)
        self._asked_to_stop = False
        self._executor = LocalExecutor(1)

    def run(self) -> int:
        """Return the exit status."""
        signal.signal(signal.SIGTERM, self._stop)
        try:
            with self._alone(), locks.locked(self._store.builds_lock, shared=True):
                self._check_attempt()
                if self._folder.read_outcome():
                    # It ended while this attempt waited.
                    return 0
                return self._outcome()
        except Superseded:
            return AGAIN
        finally:
            self._executor.cancel()

    def _outcome(self) -> int:
        try:
            self._folder.unmark()
            portable = self._folder.read_action()
            outcome = self._run(portable)
        except BuildError as e:
            outcome = self._failed(e)
        except Damaged as e:
            outcome = self._failed(StepError(f"an input is not whole: {e}", hint="build again"))
        except OSError as e:
            outcome = self._failed(of_disk(e, "the site's folder"))
        if outcome is None:
            if self._asked_to_stop:
                self._folder.mark("stopped")
                return STOPPED
            self._folder.mark("again")
            return AGAIN
        self._folder.write_outcome(outcome)
        trees.delete(self._folder.path, self._folder.work)
        return 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the job's lock; an attempt that a cut-off node still runs may take long to end."""
        while (lock := self._folder.lock("job")) is None:
            self._check_attempt()
            time.sleep(POLL_SECONDS)
            if self._asked_to_stop:
                raise SystemExit(STOPPED)
        with lock:
            yield

    def _check_attempt(self) -> None:
        """Raises Superseded."""
        if self._folder.attempt != self._attempt:
            raise Superseded

    def _stop(self, *_: object) -> None:
        self._asked_to_stop = True

    def _run(self, portable: PortableAction) -> PortableOutcome | None:
        """Raises BuildError, OSError and Damaged; None where the job was asked to stop."""
        sweep(self._store.root)
        os.environ.update({**portable.settings, **portable.variables})
        if fault := check(portable):
            raise fault
        if lost := missing(self._store, portable):
            return PortableOutcome(key=portable.key, lost=lost)
        try:
            action = unpack(portable, self._store.root, self._store, self._folder.work)
        except Damaged:
            # What is damaged is in quarantine now.
            lost = missing(self._store, portable)
            if not lost:
                raise
            return PortableOutcome(key=portable.key, lost=lost)
        log = self._folder.work / "log"
        log.write_bytes(b"")
        self._executor.start(action, log)
        with open(self._folder.events, "ab") as events:
            done = self._follow(log, events)
        if done is None:
            return None
        return self._told(action, done)

    def _follow(self, log: Path, events: BinaryIO) -> Outcome | None:
        """Append what the step says to the job's files until it ends; None where it was stopped."""
        copied, checked = 0, time.monotonic()
        while True:
            message = self._executor.wait(POLL_SECONDS)
            while data := new_bytes(log, copied, 1 << 20):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                copied += len(data)
            if isinstance(message, Outcome):
                return None if self._asked_to_stop else message
            if isinstance(message, Message):
                line = json.dumps({"event": message.event, **message.data})
                events.write(line.encode() + b"\n")
                events.flush()
            if self._asked_to_stop:
                # The step keeps its state, if it has any, and ends.
                self._executor.cancel()
                return None
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                self._check_attempt()

    def _told(self, action: Action, outcome: Outcome) -> PortableOutcome | None:
        """Return the outcome that can travel; None for one after which to start again."""
        told = PortableOutcome(
            key=action.key,
            seconds=outcome.seconds,
            peak_rss=outcome.peak_rss,
            numerics=dict(outcome.numerics),
        )
        if isinstance(outcome.error, NodeLost):
            return None
        if outcome.error:
            return structs.replace(told, error=outcome.error.to_json())
        assert outcome.result
        result = outcome.result
        if result.reference:
            raise StepError(
                f"{action.target} is a folder of the machine that made it",
                hint="leave `executor:` out of this target",
            )
        store = Store(self._store.root, privacy.mode_of(action) & PRIVATE)
        blob = result.manifest
        if not blob:
            _, blob = store.put_folder(Path(action.out), self._folder.work)
        self._store.checkpoint(action.key).unlink(missing_ok=True)
        return structs.replace(
            told,
            digests=dict(result.digests),
            metrics=to_builtins(result.metrics),
            provenance=to_builtins(result.provenance),
            manifest=blob,
            is_stored=bool(result.manifest),
            blobs=blobs_of(store, blob),
        )

    def _failed(self, error: BuildError) -> PortableOutcome:
        return PortableOutcome(key=self._folder.key, error=error.to_json())


def help_node(folder: JobFolder, number: int) -> int:
    """Do a further node's part of a training over several, until the first node ends it.

    It becomes the process that does; returns where it can't. The job's files are the first node's.
    """
    # Whoever stops the job stops the first node, which then ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    portable = folder.read_action()
    os.environ.update({**portable.settings, **portable.variables})
    if fault := check(portable):
        raise fault
    work = folder.path / f"work-{number}"
    store = Store(folder.root, PRIVATE)
    action = unpack(portable, folder.root, store, work)
    gpu = bool(action.gpus and about.here().gpus)
    file = work / "action.json"
    file.write_text(action._replace(numerics=numerics.here(gpu=gpu)).to_json())
    command = python("-m", NODE_PROCESS, str(file))
    os.execv(command[0], command)  # noqa: S606 - the same program


def check(portable: PortableAction) -> StepError | None:
    """Return what of this Python makes other results than the key stands for."""
    mine = about.here(portable.libraries)
    gpu = bool(portable.gpus and mine.gpus)
    return about.check(
        platform.node(),
        about.with_numerics(mine, numerics.here(gpu=gpu)),
        code=portable.code,
        libraries=portable.libraries,
        numerics=portable.numerics,
    )


def missing(store: Store, portable: PortableAction) -> tuple[str, ...]:
    """Return the blobs of an action that are not there in full size; bytes are verified in use."""
    return tuple(b.digest for b in portable.blobs if size_of(store, b.digest) != b.size)


def size_of(store: Store, blob: str) -> int | None:
    """Return the bytes of a stored blob, None where there is none."""
    try:
        return store.path(blob).stat().st_size
    except OSError:
        return None


def blobs_of(store: Store, blob: str) -> tuple[RemoteBlob, ...]:
    """Return what the store has of a manifest: itself, and its stored blobs. Raises Damaged."""
    manifest: Manifest = store.manifest(blob)
    sizes = {blob: store.path(blob).stat().st_size} | store.stored_sizes(manifest)
    return tuple(
        RemoteBlob(digest=digest, size=size, sha256=_sha256(store.path(digest)))
        for digest, size in sizes.items()
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def main() -> int:
    root, key, attempt = sys.argv[1:4]
    try:
        folder = JobFolder(Path(root), key)
        if number := int(os.environ.get(NODE) or 0):
            return help_node(folder, number)
        return Job(folder, attempt, Path(root)).run()
    except BuildError as e:
        print(f"error: {e.fact}\nhint: {e.hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
