"""Sweep of a remote cache: results that nobody has used for long, and blobs of none.

`python -m olivebuild.ml.transfer.sweep URL` reads a request and answers, both JSON
(engine/remote/sweep.py). Results go before their blobs, so that a sweep that is killed leaves blobs
without a result, which the next one takes. It reads all results before it takes the lease, and
under the lease those alone that are new: uploads wait for it.

Whatever the limits are, what was used within two days stays, blobs that were written within a day,
and what is being uploaded.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from msgspec import Struct, to_builtins

from olivebuild.cache.remote_records import LAYOUT, RemoteResult, opened, trace_name
from olivebuild.cache.remote_sweeps import Limits, RemoteSweep, SweptResult
from olivebuild.core.errors import BuildError, StoreError
from olivebuild.core.values.strict_json import decode
from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS, SECONDS, Heartbeats, duration
from olivebuild.ml.transfer.claims.leases import LEASES, Leases
from olivebuild.ml.transfer.claims.uploading import SWEEP, UPLOADS, goes_on
from olivebuild.ml.transfer.claims.uses import USES, use_of
from olivebuild.ml.transfer.exchange.kept import blobs_of_jobs
from olivebuild.ml.transfer.exchange.records import JOBS
from olivebuild.ml.transfer.remote import Entry, Remote, reason

DAY = 86400.0
YOUNG = 2 * DAY
"""Results that were used since stay: uses are noted once a day."""
JOB = 30 * DAY
"""What a job of an exchange has written may be waited for as long: its sender may be away."""
PARALLEL = 16
BATCH = 500
"""Objects that are deleted before the lease is looked at again."""
LARGEST = 64 << 20
"""Bytes of a result's text, or of a mark."""
KEY = re.compile(r"[0-9a-f]{32}")
LEASE = re.compile(rf"({LEASES}/.+)\.([0-9]{{1,3}})")
"""(name of a lease, number)."""


class _Result(Struct, frozen=True, kw_only=True):
    name: str
    key: str
    kind: str
    blobs: tuple[str, ...]


class Sweeper:
    """Sweeps one remote cache."""

    def __init__(self, remote: Remote, heartbeats: Heartbeats) -> None:
        self._remote = remote
        self._heartbeats = heartbeats
        self._leases = Leases(remote, heartbeats)
        self._read: dict[Entry, _Result | None] = {}

    def run(self, limits: Limits) -> RemoteSweep:
        """Find what can go, and with `delete` let it go.

        Raises StoreError where another sweeps, where the store keeps no leases, and for results of
        a later version.
        """
        if not limits.delete:
            return _Survey(self, limits).sweep
        self.results()
        if not self._leases.take(SWEEP):
            hint = "wait for it; one that was killed counts for two minutes more"
            raise StoreError("somebody else sweeps the remote cache", hint=hint)
        try:
            if not self._leases.are_kept:
                raise StoreError(
                    "the store ignores If-None-Match, so uploads could not be told of a sweep",
                    hint="delete by age with the store's own rules: what lacks blobs is not used",
                )
            survey = _Survey(self, limits)
            for names in survey.in_order():
                self._delete(names)
            self._clear_leases()
            return survey.sweep
        finally:
            self._leases.release(SWEEP)

    def close(self) -> None:
        self._heartbeats.close()

    def entries(self, folder: str) -> list[Entry]:
        return list(self._remote.entries(f"{folder}/"))

    def age(self, entry: Entry) -> float:
        return self._heartbeats.age(entry)

    def results(self) -> dict[Entry, _Result | None]:
        """Return all results; None where an object is none. Those that were read are not again."""
        entries = self.entries(f"{LAYOUT}/traces")
        new = [entry for entry in entries if entry not in self._read and _key_of(entry)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            self._read |= dict(zip(new, pool.map(self._result, new), strict=True))
        return {entry: self._read[entry] for entry in entries if entry in self._read}

    def claimed(self) -> set[str]:
        """Return the blobs of uploads that go on, and of jobs of an exchange."""
        jobs = [e for e in self.entries(JOBS) if self.age(e) <= JOB]
        return blobs_of_jobs(self._remote, jobs) | self._uploading()

    def left(self) -> list[str]:
        """Return what is left of the dead: marks of uploads and heartbeats, a day old."""
        dead = [e for e in self.entries(UPLOADS) if not goes_on(e, self._heartbeats)]
        dead += [e for e in self.entries(HEARTBEATS) if not self._heartbeats.is_fresh(e)]
        return [entry.name for entry in dead if self.age(entry) > DAY]

    def _clear_leases(self) -> None:
        """Delete the leases of the dead that are a day old.

        Each is taken for that: it may be another's since it was listed.
        """
        old: set[str] = set()
        last: dict[str, int] = {}
        for entry in self.entries(LEASES):
            if (match := LEASE.fullmatch(entry.name)) and match[1] != SWEEP:
                last[match[1]] = max(int(match[2]), last.get(match[1], 0))
                if self.age(entry) > DAY:
                    old.add(match[1])
        self._each(lambda name: self._leases.clear(name, last[name]), sorted(old))

    def _uploading(self) -> set[str]:
        marks = [e for e in self.entries(UPLOADS) if goes_on(e, self._heartbeats)]
        blobs: set[str] = set()
        for mark in marks:
            text = self._remote.read(mark.name) if mark.size <= LARGEST else b""
            try:
                # None: it has ended, and its result is read after this.
                blobs |= set() if text is None else set(decode(text, list[str]))
            except ValueError:
                hint = "wait for it to end, or delete the object"
                raise StoreError(
                    "what an upload says of its blobs can't be read", where=mark.name, hint=hint
                ) from None
        return blobs

    def _result(self, entry: Entry) -> _Result | None:
        text = self._remote.read(entry.name) if entry.size <= LARGEST else None
        key = _key_of(entry)
        if text is None:
            return None
        try:
            body, _ = opened(text)
        except ValueError:
            return None
        try:
            result = RemoteResult.from_body(body, key)
        except ValueError:
            if _is_later(body):
                hint = "sweep with the latest version that uses it"
                raise StoreError(
                    "the remote cache holds results of a later version of olivebuild",
                    where=entry.name,
                    hint=hint,
                ) from None
            return None
        blobs = tuple(blob.digest for blob in result.blobs)
        return _Result(name=entry.name, key=key, kind=result.trace.kind, blobs=blobs)

    def _delete(self, names: list[str]) -> None:
        self._each(self._remote.delete, names)

    def _each(self, act: Callable[[str], None], names: list[str]) -> None:
        """Raises StoreError when the lease was lost meanwhile."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            for at in range(0, len(names), BATCH):
                if not self._leases.is_held(SWEEP):
                    raise StoreError(
                        "the sweep was held up for too long, and has stopped", hint="sweep again"
                    )
                list(pool.map(act, names[at : at + BATCH]))


class _Survey:
    """One look at a remote cache, and what of it goes."""

    def __init__(self, sweeper: Sweeper, limits: Limits) -> None:
        self._sweeper, self._limits = sweeper, limits
        self._claimed = sweeper.claimed()
        self._blobs = {e.name.rpartition("/")[2]: e for e in sweeper.entries(f"{LAYOUT}/blobs")}
        strange = [digest for digest in self._blobs if not KEY.fullmatch(digest)]
        for digest in strange:
            del self._blobs[digest]
        self._uses = {e.name: e for e in sweeper.entries(USES)}
        traces = sweeper.results()
        self._ages = {entry.name: sweeper.age(entry) for entry in traces}
        results = [result for result in traces.values() if result]
        self._results = sorted(results, key=self._unused_for, reverse=True)
        self._holders = Counter(blob for result in results for blob in set(result.blobs))
        damaged = [e.name for e, result in traces.items() if result is None]
        self._damaged = [name for name in damaged if self._ages[name] > DAY]
        self._going: list[_Result] = []
        self._gone: dict[str, int] = {}
        """Blob -> its size."""
        self._choose()
        self.sweep = self._sweep(len(strange))

    def in_order(self) -> Iterable[list[str]]:
        """Yield the names of what goes, in the order in which it has to."""
        yield [result.name for result in self._going] + self._damaged
        yield [self._blobs[digest].name for digest in self._gone]
        stay = {use_of(r.key) for r in self._results} - {use_of(r.key) for r in self._going}
        uses = [e for e in self._uses.values() if e.name not in stay]
        yield [entry.name for entry in uses if self._sweeper.age(entry) > DAY]
        yield self._sweeper.left()
        yield [e.name for e in self._sweeper.entries(JOBS) if self._sweeper.age(e) > JOB]

    def _choose(self) -> None:
        loose = [
            digest
            for digest, entry in self._blobs.items()
            if not self._holders[digest] and self._may_go(digest, entry)
        ]
        self._gone = {digest: self._blobs[digest].size for digest in loose}
        self._loose = sum(self._gone.values())
        left = sum(entry.size for entry in self._blobs.values()) - self._loose
        self._sizes: dict[str, int] = {}
        for result in self._results:
            unused = self._unused_for(result)
            is_over = self._limits.size is not None and left > self._limits.size
            if unused > YOUNG and (unused > self._limits.age or is_over):
                size = self._drop(result)
                left -= size

    def _drop(self, result: _Result) -> int:
        """Let a result go; return the bytes that go with it."""
        size = 0
        self._going.append(result)
        for digest in set(result.blobs):
            self._holders[digest] -= 1
            entry = self._blobs.get(digest)
            if entry and not self._holders[digest] and self._may_go(digest, entry):
                self._gone[digest] = entry.size
                size += entry.size
        self._sizes[result.name] = size
        return size

    def _may_go(self, digest: str, entry: Entry) -> bool:
        return digest not in self._claimed and self._sweeper.age(entry) > DAY

    def _unused_for(self, result: _Result) -> float:
        use = self._uses.get(use_of(result.key))
        age = self._ages[result.name]
        return min(age, self._sweeper.age(use)) if use else age

    def _sweep(self, strange: int) -> RemoteSweep:
        return RemoteSweep(
            results=tuple(
                SweptResult(
                    key=result.key,
                    kind=result.kind,
                    unused=self._unused_for(result),
                    size=self._sizes[result.name],
                )
                for result in self._going
            ),
            total=sum(entry.size for entry in self._blobs.values()),
            freed=sum(self._gone.values()),
            loose=self._loose,
            damaged=len(self._damaged),
            strange=strange,
            kept=len(self._results) - len(self._going),
        )


def _key_of(entry: Entry) -> str:
    """Return the key that a result is under; "" for what has another name than results have."""
    key = entry.name.rpartition("/")[2][:32]
    is_one = KEY.fullmatch(key) and entry.name.startswith(trace_name(key))
    return key if is_one else ""


def _is_later(body: bytes) -> bool:
    """Return whether a text is of no form that this version knows, but whole."""
    try:
        decode(body, RemoteResult)
    except ValueError:
        return True
    return False


def _answer(url: str, request: bytes) -> dict[str, Any]:
    try:
        limits = decode(request, Limits)
        remote = Remote(url)
        if remote.read_only:
            raise StoreError("a web server is read from only", hint="name a bucket or a folder")
        sweeper = Sweeper(remote, Heartbeats(remote, duration() or SECONDS))
        try:
            return {"sweep": to_builtins(sweeper.run(limits))}
        finally:
            sweeper.close()
    except BuildError as e:
        return {"fault": e.fact, "hint": e.hint, "where": str(e.where or "")}
    except Exception as e:  # noqa: BLE001
        # obstore's errors have no common class that is exported.
        return {"fault": reason(e), "hint": "is it there, and are there credentials for it?"}


def main() -> None:
    # So that the lease is given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        print(json.dumps(_answer(sys.argv[1], sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
