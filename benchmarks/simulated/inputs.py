"""Measured inputs of a simulation: what steps cost, and what requests to a bucket cost.

    python -m benchmarks.simulated.inputs CACHE     # measure, and write inputs.json beside this

Steps: seconds and bytes of the results of each kind, from the traces of a cache that real builds of
the quick start have filled. Requests: seconds of each sort against Azurite and moto on loopback,
one after the other, and the pace of large blobs. The network between a build and a bucket is no
part of that: scale.py adds a round trip.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

from msgspec import Struct, to_builtins

from benchmarks.remote import serving
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing
from olivebuild.core.values.strict_json import decode
from olivebuild.ml.transfer.remote import Remote

FILE = Path(__file__).with_name("inputs.json")
KINDS = {
    "dataset": "data",
    "adapter": "adapter",
    "merged": "merged",
    "onnx": "int4",
    "benchmark-accuracy": "bench",
}
"""Kind of a trace -> the name of its targets here."""
MOST = 200
"""Traces of a kind, and requests of a sort."""
LARGE = 64 << 20


class Steps(Struct, frozen=True):
    """Results of one kind: seconds and bytes of each, in no order that means something."""

    seconds: tuple[float, ...]
    bytes: tuple[int, ...]


class Place(Struct, frozen=True):
    """A server on loopback: median seconds of a small request, and bytes a second of large ones."""

    requests: dict[str, float]
    up: float
    down: float


class Inputs(Struct, frozen=True):
    """All that was measured."""

    fsync: float
    """Seconds until a small file is on the disk, in the mean."""
    steps: dict[str, Steps]
    places: dict[str, Place]

    def step(self, target: str) -> tuple[float, int]:
        """Return the seconds and bytes of a target's step: those of one that was measured."""
        steps = self.steps[target.partition("-")[0]]
        number = int(hashing.of_bytes(target)[:8], 16) % len(steps.seconds)
        return steps.seconds[number], steps.bytes[number]


def read() -> Inputs:
    """Return what was measured last."""
    return decode(FILE.read_bytes(), Inputs)


def steps_of(cache: Path) -> dict[str, Steps]:
    """Return what the results of a cache have cost. The simulator's own are none of them."""
    rows: dict[str, list[tuple[float, int]]] = {}
    for file in sorted(cache.glob("blobs/*/*.trace")):
        try:
            trace = Trace.from_json(file.read_bytes().partition(b"\n")[2])
        except ValueError:
            continue
        if name := KINDS.get(trace.kind):
            rows.setdefault(name, []).append((round(trace.seconds, 2), trace.size))
    chosen = {name: each[:: max(1, len(each) // MOST)][:MOST] for name, each in rows.items()}
    return {
        name: Steps(seconds=tuple(s for s, _ in each), bytes=tuple(size for _, size in each))
        for name, each in chosen.items()
    }


def place_of(remote: Remote) -> Place:
    """Measure a server."""
    small, large = os.urandom(2000), os.urandom(LARGE)
    requests = {
        "PUT": _median(lambda n: remote.create(f"small/{n}", small)),
        "GET": _median(lambda n: remote.read(f"small/{n}")),
        "HEAD": _median(lambda n: remote.size(f"small/{n}")),
        "DELETE": _median(lambda n: remote.delete(f"small/{n}")),
    }
    pieces = [large[start : start + (1 << 20)] for start in range(0, LARGE, 1 << 20)]
    up = _seconds(lambda: remote.write("large", LARGE, lambda: iter(pieces)))
    down = _seconds(lambda: sum(map(len, remote.pieces("large", 0, LARGE))))
    return Place(requests=requests, up=round(LARGE / up), down=round(LARGE / down))


def fsync_of(folder: Path) -> float:
    """Return the mean seconds of an fsync of a small file in a folder."""
    times = []
    for _ in range(MOST):
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 2000)
            file.flush()
            times.append(_seconds(partial(os.fsync, file.fileno())))
    return round(statistics.fmean(times), 5)


def _median(request: Callable[[int], object]) -> float:
    times = [_seconds(partial(request, number)) for number in range(MOST)]
    return round(statistics.median(times), 5)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="a cache that builds of the quick start filled")
    options = parser.parse_args()
    places = {}
    for name in ("azurite", "moto"):
        with tempfile.TemporaryDirectory() as root, serving(name, Path(root)) as (url, variables):
            with patch.dict(os.environ, variables):
                places[name] = place_of(Remote(url))
            print(f"{name}: {places[name]}", file=sys.stderr)
    inputs = Inputs(fsync=fsync_of(options.cache), steps=steps_of(options.cache), places=places)
    FILE.write_text(json.dumps(to_builtins(inputs)) + "\n")


if __name__ == "__main__":
    main()
