"""A simulated cluster: many targets, a thousand workers, a bucket; the planner, the build loop, the
cache and the protocol of the remote cache are the real ones.

    python benchmarks/scale.py --targets 10000 --workers 1000
    python benchmarks/scale.py --profile      # where the build loop's time goes

Time is simulated. A step takes, and its result has, what one of the quick start's took and had that
was measured (simulated/inputs.json). A request takes what it took of the server that was measured,
and `--trip` for the network; large blobs come at that server's pace. An fsync takes what one took
there. What the build loop computes takes the processor time that it takes here. Files and the local
cache are real, and small. The bucket is obstore's memory store; its requests are counted by what
they are for.

Shown are how busy the workers are, what the build loop needs for a step, how often the bucket is
asked for a target, and what that costs; for the first machine, which makes everything, and for a
second one, which restores everything.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import table
from benchmarks.simulated import inputs
from benchmarks.simulated.cluster import Clock, CountedBucket, SimulatedTransfer, Workers
from benchmarks.simulated.inputs import Inputs
from olivebuild.api.event import Event
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.core import host
from olivebuild.engine import builder
from olivebuild.engine.builder import Builder
from olivebuild.engine.remote import cache
from olivebuild.planner.plan import Planner
from olivebuild.planner.scan import Scan
from olivebuild.planner.workspace import Workspace
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.lockfile import Lockfile

CHAIN = tuple(inputs.KINDS.values())
"""The kinds of targets that follow each other."""
PROGRESS = 5000
"""Targets after which it is told how far a build is."""
REPLACED = "olivebuild.engine.remote.cache.TransferProcess"


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
    """What one build took. Seconds are simulated but for `loading` and `computed`."""

    targets: int
    loading: float
    """Until the recipe is a graph: processor time."""
    first: float
    """From there to the first step."""
    seconds: float
    tail: float
    """From the last step to the last upload."""
    computed: float
    synced: float
    """Waiting for the disk."""
    ideal: float
    busy: float
    """The share of the workers' time."""
    most: int
    ran: int
    requests: Counter[tuple[str, str]]
    dollars: float
    waited: Counter[str]
    bytes: Counter[str]
    memory: tuple[int, int]
    """The process's before, and at the end, with the bucket."""


def recipe(targets: int) -> str:
    """Return chains of a data set, an adapter, a merge, an int4 model and a benchmark."""
    lines = ["targets:"]
    for chain in range(targets // len(CHAIN)):
        before = ""
        for kind in CHAIN:
            name = f"{kind}-{chain}"
            source = f"inputs: [{before}.o]" if before else "files: [in.txt]"
            lines.append(
                f"  {name}: {{kind: command, run: 'x {name}', {source}, outputs: {{o: o.txt}}}}"
            )
            before = name
    return "\n".join(lines) + "\n"


@contextmanager
def slow_disk(clock: Clock, seconds: float) -> Iterator[Callable[[], float]]:
    """Have each fsync of the build take so long; yield what tells how long all took."""
    count, own = 0, threading.get_ident()

    def fsync(_: object) -> None:
        nonlocal count
        # What other threads do here, another process does.
        if threading.get_ident() == own:
            count += 1
            clock.now += seconds

    with patch.object(os, "fsync", fsync):
        yield lambda: count * seconds


def simulate(
    machine: Machine, bucket: CountedBucket, workers: int, measured: Inputs, names: dict[str, str]
) -> Figures:
    """Build all; `names` (key -> target) are those of the machine that made it, if there is one."""
    memory, start = host.peak_rss(), time.process_time()
    planner = machine.planner()
    goals = planner.graph.goals(())
    loading = time.process_time() - start
    clock = Clock()
    crew = Workers(clock, workers, measured, names)
    transfer = SimulatedTransfer(bucket, planner.store, clock, measured, names)
    bucket.requests.clear()

    count = 0

    def listen(event: Event) -> None:
        nonlocal count
        count += event.name in ("finished", "restored")
        if event.name in ("finished", "restored") and count % PROGRESS == 0:
            computed, memory = clock.computed, host.peak_rss() / 1e6
            told = f"{count} targets: {clock.now:.0f} s, computed {computed:.0f} s, {memory:.0f} MB"
            print(told, file=sys.stderr, flush=True)

    with slow_disk(clock, measured.fsync) as synced:
        simulated = SimpleNamespace(monotonic=clock.tick, sleep=clock.pass_by)
        with (
            patch(REPLACED, lambda *_: transfer),
            patch.object(builder, "time", simulated),
            cache.RemoteCache(bucket.url, planner.store, listen) as remote,
        ):
            begin = clock.tick()
            report = Builder(planner, crew, listen, remote=remote).run(goals)
            end = clock.tick()
        planner.traces.close()
    assert not report.errors, report.errors[0]
    return Figures(
        targets=len(planner.graph.nodes),
        loading=loading,
        first=(crew.first or end) - begin,
        seconds=end - begin,
        tail=clock.now - end,
        computed=clock.computed,
        synced=synced(),
        ideal=max(crew.longest(), crew.busy / workers),
        busy=crew.busy / workers / (end - begin),
        most=crew.most,
        ran=len(report.ran),
        requests=Counter(bucket.requests),
        dollars=bucket.dollars,
        waited=transfer.waited,
        bytes=transfer.bytes,
        memory=(memory, host.peak_rss()),
    )


def show(title: str, f: Figures) -> None:
    waited = ", ".join(f"{k} {v / 1000:.0f}" for k, v in f.waited.items())
    moved = ", ".join(f"{way} {size / 1e9:.1f}" for way, size in f.bytes.items())
    rows = [
        ("targets, and of these steps that ran", f"{f.targets}, {f.ran}"),
        ("recipe and graph (processor s)", f"{f.loading:.1f}"),
        ("to the first step (s)", f"{f.first:.1f}"),
        ("build (s)", f"{f.seconds:.0f}"),
        ("  the same without any overhead", f"{f.ideal:.0f}"),
        ("  uploads after it", f"{f.tail:.0f}"),
        ("workers busy, and the most at once", f"{f.busy:.0%}, {f.most}"),
        ("the build loop computed (processor s)", f"{f.computed:.1f}"),
        ("  for a target (ms)", f"{1000 * f.computed / f.targets:.2f}"),
        ("waited for the disk (s)", f"{f.synced:.0f}"),
        ("waited for the bucket (s)", waited),
        ("moved (GB)", moved),
        ("requests for a target", f"{sum(f.requests.values()) / f.targets:.1f}"),
        *(
            (f"  {what} {where}", f"{n / f.targets:.2f}")
            for (what, where), n in sorted(f.requests.items())
        ),
        ("cost of requests ($ for 100,000 targets)", f"{f.dollars / f.targets * 1e5:.2f}"),
        ("peak memory before, at the end (MB)", ", ".join(f"{m / 1e6:.0f}" for m in f.memory)),
    ]
    print(f"\n{title}\n")
    print(table(["figure", ""], [list(row) for row in rows]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trip", type=float, default=0.02, help="seconds of the network")
    parser.add_argument("--place", default="azurite", help="the server that was measured")
    parser.add_argument("--first", action="store_true", help="without a second machine")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured, names = inputs.read(), dict[str, str]()
    with tempfile.TemporaryDirectory() as root:
        bucket = CountedBucket(measured.places[options.place], options.trip)
        profile = cProfile.Profile(time.thread_time)
        results = {}
        for who in ("first",) if options.first else ("first", "second"):
            machine = Machine(Path(root) / who, options.targets)
            if options.profile:
                profile.enable()
            results[who] = simulate(machine, bucket, options.workers, measured, names)
            profile.disable()
            show(f"the {who} machine, {options.workers} workers", results[who])
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    if options.json:
        options.json.write_text(json.dumps({k: str(v) for k, v in results.items()}))


if __name__ == "__main__":
    main()
