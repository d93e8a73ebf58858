"""The simulated parts of a cluster: its clock, its workers, and a bucket with its connections."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from msgspec import to_builtins
from obstore.store import MemoryStore

from benchmarks.simulated.inputs import Inputs, Place
from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import Requirements
from olivebuild.api.result import Result
from olivebuild.cache.remote_records import StepPaths
from olivebuild.cache.store import Store
from olivebuild.engine.remote.process import Transfer
from olivebuild.ml.transfer.claims.heartbeats import SECONDS, SHARE, VARIABLE
from olivebuild.ml.transfer.process import REQUESTS, UPLOADS, Process
from olivebuild.ml.transfer.remote import Entry, Remote

READ, WRITE = 0.0004 / 1000, 0.005 / 1000
"""Dollars of a request that reads, and of one that writes or lists (S3 standard, us-east-1)."""


class Clock:
    """Simulated seconds. What the main thread computes counts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.computed = 0.0
        self._last = time.thread_time()

    def tick(self) -> float:
        """Add what was computed since; return the time."""
        spent = time.thread_time() - self._last
        self._last += spent
        self.now += spent
        self.computed += spent
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time pass that nothing is computed in, whatever was computed meanwhile."""
        self._last = time.thread_time()
        self.now += seconds


class Workers:
    """An executor of so many workers, whose steps end after simulated time."""

    def __init__(self, clock: Clock, count: int, inputs: Inputs, names: dict[str, str]) -> None:
        """`names`: key -> target, which is noted here."""
        self._clock, self._count, self._inputs, self._names = clock, count, inputs, names
        self._ends: list[tuple[float, int, Action, float]] = []
        self.first: float | None = None
        """When the first step began."""
        self.busy = 0.0
        self._chains: defaultdict[str, float] = defaultdict(float)
        """Number of a chain -> the seconds of its steps."""
        self.most = self.started = 0

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return len(self._ends) < self._count

    def free_slots(self, action: Requirements) -> int:
        return self._count - len(self._ends)

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        seconds, _ = self._inputs.step(action.target)
        self._names[action.key] = action.target
        now = self._clock.tick()
        self.first = now if self.first is None else self.first
        self.started += 1
        heapq.heappush(self._ends, (now + seconds, self.started, action, seconds))
        self.busy += seconds
        chain = action.target.partition("-")[2]
        self._chains[chain] += seconds
        self.most = max(self.most, len(self._ends))

    def wait(self, seconds: float) -> Message | Outcome | None:
        end, _, action, spent = self._ends[0]
        now = self._clock.tick()
        if end > now + seconds:
            self._clock.pass_by(seconds)
            return None
        heapq.heappop(self._ends)
        self._clock.pass_by(max(0.0, end - now))
        outputs: Any = action.fields["outputs"]
        for path in outputs.values():
            (Path(action.out) / path).write_text(action.target)
        return Outcome(action.node, spent, result=Result())

    def longest(self) -> float:
        """Return the seconds of the longest chain of steps."""
        return max(self._chains.values(), default=0.0)

    def cancel(self) -> None:
        self._ends.clear()


class CountedBucket(Remote):
    """A bucket in memory, whose requests are counted: (what, for what) -> how many."""

    def __init__(self, place: Place, trip: float) -> None:
        """`trip`: seconds that the network adds to each request."""
        self.place, self._trip = place, trip
        self.url, self.read_only = "memory:///", False
        self._store, self._prefix = MemoryStore(), ""
        self._quick = self._store
        self.requests: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, what: str, name: str) -> None:
        with self._lock:
            self.requests[what, name.split("/")[1]] += 1

    def read(self, name: str, limit: int = 1 << 30) -> bytes | None:
        self.count("GET", name)
        return super().read(name, limit)

    def size(self, name: str) -> int | None:
        self.count("HEAD", name)
        return super().size(name)

    def entry(self, name: str) -> Entry | None:
        self.count("HEAD", name)
        return super().entry(name)

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        self.count("GET", name)
        return super().pieces(name, start, end)

    def create(self, name: str, data: bytes) -> bool:
        self.count("PUT", name)
        return super().create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.count("PUT", name)
        super().replace(name, data)

    def write(self, name: str, size: int, parts: Any) -> None:
        self.count("PUT", name)
        super().write(name, size, parts)

    def delete(self, name: str) -> None:
        self.count("DELETE", name)
        super().delete(name)

    @property
    def seconds(self) -> float:
        """Return what all requests took, one after the other."""
        times = self.place.requests
        return sum(n * (self._trip + times[what]) for (what, _), n in self.requests.items())

    @property
    def dollars(self) -> float:
        prices = {"GET": READ, "HEAD": READ, "PUT": WRITE, "LIST": WRITE, "DELETE": 0.0}
        return sum(prices[what] * n for (what, _), n in self.requests.items())


class SimulatedTransfer:
    """In the place of TransferProcess: the process's own code, without a process.

    What a build waits for takes the time of its requests and bytes. Uploads go on beside it.
    """

    fault = ""

    def __init__(
        self,
        bucket: CountedBucket,
        store: Store,
        clock: Clock,
        inputs: Inputs,
        names: Mapping[str, str],
    ) -> None:
        """`names`: key -> target."""
        self._bucket, self._clock, self._inputs, self._names = bucket, clock, inputs, names
        self._began: float | None = None
        """When the process's heartbeat began."""
        self.uploaded = 0.0
        """When all that was to be uploaded so far has arrived."""
        self.bytes: Counter[str] = Counter()
        self._said: list[dict[str, Any]] = []
        # Its own thread renews nothing in the seconds that the simulation takes: `end` counts that.
        with patch.dict(os.environ, {VARIABLE: "1e9"}):
            self._process = Process(bucket, store, self._said.append)
        self.uploads: list[Transfer] = []
        self.pending: set[str] = set()
        self.waited: Counter[str] = Counter()

    def ask(
        self, op: str, keys: Iterable[str], paths: Mapping[str, StepPaths] | None = None
    ) -> list[Transfer]:
        keys = list(keys)
        self._clock.tick()
        before = self._bucket.seconds
        answers = self._take(op, keys, paths)
        spent = self._bucket.seconds - before
        # One key's requests come one after the other, those of many keys at once.
        seconds = max(spent / REQUESTS, spent / max(1, len(keys)))
        if op == "get":
            seconds += self._move("down", keys) / self._bucket.place.down
        self._clock.pass_by(seconds)
        self.waited[op] += round(seconds * 1000)
        return answers

    def upload(self, keys: Iterable[str], paths: Mapping[str, StepPaths]) -> None:
        now, keys = self._clock.tick(), list(keys)
        before = self._bucket.seconds
        self.uploads += self._take("put", keys, paths)
        seconds = (self._bucket.seconds - before) / UPLOADS
        seconds += self._move("up", keys) / self._bucket.place.up
        self.uploaded = max(self.uploaded, now) + seconds
        self._clock.pass_by(0.0)

    def tell(self, op: str, keys: Iterable[str]) -> None:
        self._clock.tick()
        self._take(op, list(keys), None)
        self._clock.pass_by(0.0)

    def wait(self) -> None:
        """Let the time pass that uploads still take."""
        self._clock.pass_by(max(0.0, self.uploaded - self._clock.tick()))

    def end(self) -> None:
        """End the process, whose one heartbeat was written again all the time."""
        self._process.finish()
        if self._began is not None:
            beats = int((self._clock.now - self._began) / (SECONDS / SHARE))
            self._bucket.requests["PUT", "heartbeats"] += beats

    def _move(self, way: str, keys: Iterable[str]) -> int:
        """Count the bytes of results."""
        size = sum(self._inputs.step(self._names[key])[1] for key in keys)
        self.bytes[way] += size
        return size

    def _take(
        self, op: str, keys: list[str], paths: Mapping[str, StepPaths] | None
    ) -> list[Transfer]:
        self._said.clear()
        request = {"id": 1, "op": op, "keys": keys, "paths": to_builtins(paths or {})}
        self._process.take(request)
        for future in self._process._pending:
            future.result()
        self._process._pending.clear()
        if self._began is None and self._bucket.requests["PUT", "heartbeats"]:
            self._began = self._clock.now
        # In a bucket in memory nothing fails: a request that did would cost nothing, and be told
        # of to nobody.
        errors = [message["error"] for message in self._said if message.get("error")]
        assert not errors, errors[0]
        names = set(Transfer.__struct_fields__)
        return [
            Transfer(**{k: v for k, v in message.items() if k in names})
            for message in self._said
            if message.get("op") == op
        ]
