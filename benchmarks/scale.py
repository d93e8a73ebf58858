"""A simulated cluster: many targets, a thousand workers, a bucket; the planner, the build loop, the
cache and the protocol of the remote cache are the real ones.

    python benchmarks/scale.py --targets 10000 --workers 1000
    python benchmarks/scale.py --profile      # where the build loop's time goes

Time is simulated: a step takes what its kind takes on one worker (below), a request what it takes
to a bucket of one's own region, and what the build loop computes takes the processor time that it
takes here. Files and the local cache are real, and small. The bucket is obstore's memory store; its
requests are counted by what they are for.

Shown are how busy the workers are, what the build loop needs for a step, how often the bucket is
asked for a target, and what that costs; for the first machine, which makes everything, and for a
second one, which restores everything.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import pstats
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
from msgspec import to_builtins
from obstore.store import MemoryStore

from benchmarks._measure import table
from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.event import Event
from olivebuild.api.executor import Requirements
from olivebuild.api.result import Result
from olivebuild.cache.remote_records import StepPaths
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.engine.builder import Builder
from olivebuild.engine.remote import cache
from olivebuild.engine.remote.process import Transfer
from olivebuild.ml.transfer.process import Process
from olivebuild.ml.transfer.remote import Entry, Remote
from olivebuild.planner.plan import Planner
from olivebuild.planner.scan import Scan
from olivebuild.planner.workspace import Workspace
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.lockfile import Lockfile

STEPS = {"data": 0.3, "adapter": 60.0, "merged": 3.0, "int4": 8.0, "bench": 30.0}
"""Kind -> seconds of a step: the quick start's model of 135M parameters, with a GPU."""
LATENCY = 0.02
"""Seconds of a request to a bucket of the same region."""
PARALLEL = 16
"""Requests at once (REQUESTS of ml/transfer/process.py)."""
READ, WRITE = 0.0004 / 1000, 0.005 / 1000
"""Dollars of a request that reads, and of one that writes or lists (S3 standard, us-east-1)."""


REPLACED = "olivebuild.engine.remote.cache.TransferProcess"


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

    def __init__(self, clock: Clock, count: int) -> None:
        self._clock, self._count = clock, count
        self._ends: list[tuple[float, int, Action, float]] = []
        self.busy = 0.0
        self.most = self.started = 0

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return len(self._ends) < self._count

    def free_slots(self, action: Requirements) -> int:
        return self._count - len(self._ends)

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        seconds = STEPS[action.target.partition("-")[0]]
        self.started += 1
        heapq.heappush(self._ends, (self._clock.tick() + seconds, self.started, action, seconds))
        self.busy += seconds
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

    def cancel(self) -> None:
        self._ends.clear()


class CountedBucket(Remote):
    """A bucket in memory, whose requests are counted: (what, for what) -> how many."""

    def __init__(self) -> None:
        self.url, self.read_only = "memory:///", False
        self._store, self._prefix = MemoryStore(), ""
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
    def total(self) -> int:
        return sum(self.requests.values())

    @property
    def dollars(self) -> float:
        prices = {"GET": READ, "HEAD": READ, "PUT": WRITE, "LIST": WRITE, "DELETE": 0.0}
        return sum(prices[what] * n for (what, _), n in self.requests.items())


class SimulatedTransfer:
    """In the place of TransferProcess: the process's own code, without a process.

    What a build waits for takes the time of its requests; uploads take none of the build's.
    """

    fault = ""

    def __init__(self, bucket: CountedBucket, store: Store, clock: Clock) -> None:
        self._bucket, self._clock = bucket, clock
        self._said: list[dict[str, Any]] = []
        self._process = Process(bucket, store, self._said.append)
        self.uploads: list[Transfer] = []
        self.pending: set[str] = set()
        self.waited: Counter[str] = Counter()

    def ask(
        self, op: str, keys: Iterable[str], paths: Mapping[str, StepPaths] | None = None
    ) -> list[Transfer]:
        keys = list(keys)
        self._clock.tick()
        before = self._bucket.total
        answers = self._take(op, keys, paths)
        count = self._bucket.total - before
        # One key's requests come one after the other, those of many keys at once.
        seconds = LATENCY * max(count / PARALLEL, count / max(1, len(keys)))
        self._clock.pass_by(seconds)
        self.waited[op] += round(seconds * 1000)
        return answers

    def upload(self, keys: Iterable[str], paths: Mapping[str, StepPaths]) -> None:
        self._clock.tick()
        self.uploads += self._take("put", list(keys), paths)
        self._clock.pass_by(0.0)

    def tell(self, op: str, keys: Iterable[str]) -> None:
        self._clock.tick()
        self._take(op, list(keys), None)
        self._clock.pass_by(0.0)

    def wait(self) -> None:
        """All uploads are there."""

    def end(self) -> None:
        self._process.finish()

    def _take(
        self, op: str, keys: list[str], paths: Mapping[str, StepPaths] | None
    ) -> list[Transfer]:
        self._said.clear()
        request = {"id": 1, "op": op, "keys": keys, "paths": to_builtins(paths or {})}
        self._process.take(request)
        for future in self._process._pending:
            future.result()
        self._process._pending.clear()
        names = set(Transfer.__struct_fields__)
        return [
            Transfer(**{k: v for k, v in message.items() if k in names})
            for message in self._said
            if message.get("op") == op
        ]


class Machine:
    """A recipe's folder and a cache."""

    def __init__(self, root: Path, targets: int) -> None:
        self.folder, self.cache = root / "work", root / "cache"
        self.folder.mkdir(parents=True)
        (self.folder / FILE_NAME).write_text(recipe(targets))
        (self.folder / "in.txt").write_text("input")

    def planner(self) -> Planner:
        text = load(self.folder / FILE_NAME)
        workspace, store = Workspace(self.folder), Store(self.cache)
        return Planner(
            graph=build_graph(text),
            scan=Scan(text, workspace.memo, Lockfile(self.folder / LOCK_NAME)),
            store=store,
            traces=Traces(store),
            workspace=workspace,
        )


class Figures(NamedTuple):
    """What one build took. Seconds are simulated but for `planning` and `computed`."""

    targets: int
    planning: float
    seconds: float
    computed: float
    ideal: float
    most: int
    ran: int
    requests: Counter[tuple[str, str]]
    dollars: float
    waited: Counter[str]


def recipe(targets: int) -> str:
    """Return chains of a data set, an adapter, a merge, an int4 model and a benchmark."""
    lines = ["targets:"]
    for chain in range(targets // len(STEPS)):
        before = ""
        for kind in STEPS:
            name = f"{kind}-{chain}"
            inputs = f"inputs: [{before}.o]" if before else "files: [in.txt]"
            lines.append(
                f"  {name}: {{kind: command, run: 'x {name}', {inputs}, outputs: {{o: o.txt}}}}"
            )
            before = name
    return "\n".join(lines) + "\n"


def simulate(machine: Machine, bucket: CountedBucket, workers: int) -> Figures:
    start = time.process_time()
    planner = machine.planner()
    goals = planner.graph.goals(())
    planning = time.process_time() - start
    clock = Clock()
    crew = Workers(clock, workers)
    transfer = SimulatedTransfer(bucket, planner.store, clock)
    bucket.requests.clear()
    events: Counter[str] = Counter()

    def listen(event: Event) -> None:
        events[event.name] += 1

    with (
        patch(REPLACED, lambda *_: transfer),
        cache.RemoteCache(bucket.url, planner.store, listen) as remote,
    ):
        clock.tick()
        begin = clock.now
        report = Builder(planner, crew, listen, remote=remote).run(goals)
    planner.traces.close()
    assert not report.errors, report.errors[0]
    chain = sum(STEPS.values()) if report.ran else 0.0
    return Figures(
        targets=len(planner.graph.nodes),
        planning=planning,
        seconds=clock.tick() - begin,
        computed=clock.computed,
        ideal=max(chain, crew.busy / workers),
        most=crew.most,
        ran=len(report.ran),
        requests=Counter(bucket.requests),
        dollars=bucket.dollars,
        waited=transfer.waited,
    )


def show(title: str, figures: Figures) -> None:
    f = figures
    rows = [
        ("targets, and of these steps that ran", f"{f.targets}, {f.ran}"),
        ("recipe and graph (real s)", f"{f.planning:.1f}"),
        ("build (simulated s)", f"{f.seconds:.0f}"),
        ("the same without any overhead", f"{f.ideal:.0f}"),
        ("most workers busy at once", f"{f.most}"),
        ("the build loop computed (real s)", f"{f.computed:.1f}"),
        ("  for a target (ms)", f"{1000 * f.computed / f.targets:.2f}"),
        (
            "waited for the bucket (s)",
            ", ".join(f"{k} {v / 1000:.0f}" for k, v in f.waited.items()),
        ),
        ("requests for a target", f"{sum(f.requests.values()) / f.targets:.1f}"),
        *(
            (f"  {what} {where}", f"{n / f.targets:.2f}")
            for (what, where), n in sorted(f.requests.items())
        ),
        ("cost of requests ($ for 100,000 targets)", f"{f.dollars / f.targets * 1e5:.2f}"),
    ]
    print(f"\n{title}\n")
    print(table(["figure", ""], [list(row) for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bucket = CountedBucket()
        profile = cProfile.Profile(time.thread_time)
        results = {}
        for who in ("first", "second"):
            machine = Machine(Path(name) / who, options.targets)
            if options.profile:
                profile.enable()
            results[who] = simulate(machine, bucket, options.workers)
            profile.disable()
            show(f"the {who} machine, {options.workers} workers", results[who])
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    if options.json:
        options.json.write_text(json.dumps({k: str(v) for k, v in results.items()}))


if __name__ == "__main__":
    main()
