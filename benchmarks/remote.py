"""A result brought to a remote cache and back, beside a plain copy of the same objects by obstore.

    python benchmarks/remote.py              # 1 GiB each; Azurite, moto and a folder
    python benchmarks/remote.py --quick      # 128 MiB; no goals

The plain copy is a process that puts files, and gets objects into files, over as many connections.
It checks nothing, syncs nothing and renames nothing. Ours hashes everything twice (XXH3 and
SHA-256), syncs, and publishes. Both are called in turn, in each round another one first, after what
was written before has reached the disk; the median of the rounds' ratios counts, since the servers
run on the same cores. `RSS` is of the process that moves the bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, Cost, end, run, table
from olivebuild.cache.key import Part, key_of
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces

GOAL, MOST_MEMORY = 0.8, 200e6
"""The least share of the plain copy's pace, and bytes of resident memory at most."""
PARTS = (Part("step", "kind", "command"),)
KEY = key_of(PARTS)
BLOCK = os.urandom(1 << 20)
PLAIN = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import obstore
from olivebuild.ml.transfer.remote import _open
from urllib.parse import urlsplit
way, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
parts = urlsplit(url)
store, prefix = _open(parts.scheme, parts.netloc, parts.path, url)
prefix = prefix.strip("/") + "/plain/" if prefix.strip("/") else "plain/"
def put(path):
    obstore.put(store, prefix + path.name, path)
def get(path):
    with open(path.with_name(path.name + ".copy"), "wb") as f:
        for piece in obstore.get(store, prefix + path.name).stream(min_chunk_size=1 << 20):
            f.write(piece)
paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".copy")]
with ThreadPoolExecutor(8) as pool:
    list(pool.map(put if way == "put" else get, paths))
"""


@dataclass(frozen=True)
class Case:
    """Blobs of one result: how many, and of how many bytes each."""

    name: str
    count: int
    size: int


@dataclass(frozen=True)
class Round:
    """One transfer: ours and the plain one."""

    ours: Cost
    plain: Cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="128 MiB; no goals")
    parser.add_argument("--only", help="of azurite, moto and folder, one")
    parser.add_argument("--large", action="store_true", help="no blobs of 64 KiB")
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    total = (128 if options.quick else 1024) << 20
    cases = [
        Case("blobs of 64 MiB", total >> 26, 64 << 20),
        Case("one blob", 1, total),
        Case("blobs of 64 KiB", 1000 if options.quick else 4000, 64 << 10),
    ]
    if options.large:
        del cases[-1]
    claims: list[Claim] = []
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="remote-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        for place in ("folder", "azurite", "moto"):
            if options.only in (None, place):
                for case in cases:
                    with serving(place, Path(name)) as (url, environment):
                        measured = measure(Path(name), url, environment, case, options.rounds)
                    describe(place, case, measured, rows, claims, quick=options.quick)
    if not options.json:
        head = ["place", "blobs", "way", "ours", "plain", "of its pace", "RSS", "plain's RSS"]
        print(table(head, rows))
    end(claims, "obstore")


@contextlib.contextmanager
def serving(place: str, root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the URL of an empty remote cache, and the environment that opens it."""
    from tests.support import object_stores

    folder = root / "server"
    try:
        if place == "azurite":
            with object_stores.azurite(folder) as address:
                object_stores.make_container(address, "team")
                setting = object_stores.connection_string(address)
                url = f"az://{object_stores.ACCOUNT}/team/cache"
                yield url, {"AZURE_STORAGE_CONNECTION_STRING": setting}
        elif place == "moto":
            with object_stores.moto() as address:
                object_stores.s3_store(address, "team")
                keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
                region = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
                yield "s3://team/cache", keys | region
        else:
            yield folder.as_uri(), {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(
    root: Path, url: str, environment: dict[str, str], case: Case, rounds: int
) -> dict[str, list[Round]]:
    """Return `upload` and `download` -> rounds."""
    source, results = root / "source", dict[str, list[Round]](upload=[], download=[])
    make_result(source, case)
    environment = environment | {"OLIVEBUILD_CONFIG": str(root / "config")}
    files = root / "plain"
    shutil.copytree(source / "blobs", files)
    for number in range(rounds):
        place = f"{url}/{number}"
        target = root / "target"
        for way, op, cache in (("upload", "put", source), ("download", "get", target)):
            request = json.dumps({"id": 1, "op": op, "keys": [KEY]})
            words = ("-m", "olivebuild.ml.transfer.process", place, str(cache))
            costs: dict[str, Cost] = {}
            for who in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
                # Else the second waits for the disk that the first has kept busy.
                os.sync()
                if who == "plain":
                    plain = ("-c", PLAIN, op, place, str(files))
                    costs[who] = python(*plain, root=root, environment=environment)
                else:
                    costs[who] = python(*words, root=root, environment=environment, request=request)
                    said = (root / "benchmark.log").read_text("utf-8")
                    if KEY not in said or '"error"' in said or '"fault"' in said:
                        raise SystemExit(said)
            results[way].append(Round(**costs))
        shutil.rmtree(target)
        for copy in files.rglob("*.copy"):
            copy.unlink()
    shutil.rmtree(source)
    shutil.rmtree(files)
    return results


def python(*words: str, root: Path, environment: dict[str, str], request: str = "") -> Cost:
    """Run Python with a request as standard input."""
    (root / "request").write_text(request + "\n", "utf-8")
    script = f'exec "$@" < "{root / "request"}"'
    command = ["sh", "-c", script, "sh", sys.executable, *words]
    path = os.pathsep.join((str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")))
    return run(command, folder=root, environment=environment | {"PYTHONPATH": path})


def make_result(cache: Path, case: Case) -> None:
    """Store a result; no two blocks of it are equal."""
    store, runs, block = Store(cache), [], 0
    with store.batch(sync=False) as batch:
        for _ in range(case.count):
            blob, left = batch.blob(), case.size
            while left:
                piece = (block.to_bytes(8, "little") + BLOCK[8:])[:left]
                blob.write(piece)
                block, left = block + 1, left - len(piece)
            runs.append((blob.done(), case.size))
    manifest = Manifest((Entry.of_runs("model", runs, executable=False),))
    traces = Traces(store)
    outputs = {"": manifest.digest}
    traces.put(Trace(KEY, "command", PARTS, outputs, manifest=store.put_manifest(manifest)))
    traces.close()


def describe(
    place: str,
    case: Case,
    measured: dict[str, list[Round]],
    rows: list[list[str]],
    claims: list[Claim],
    *,
    quick: bool,
) -> None:
    """Add a row and the claims of one place and case."""
    size = case.count * case.size
    for way, rounds in measured.items():
        ours, plain = (
            statistics.median(cost.wall for cost in costs)
            for costs in ([r.ours for r in rounds], [r.plain for r in rounds])
        )
        ratio = statistics.median(r.plain.wall / r.ours.wall for r in rounds)
        peak = max(r.ours.peak for r in rounds)
        rows.append(
            [
                place,
                case.name,
                way,
                f"{size / ours / 1e6:,.0f} MB/s",
                f"{size / plain / 1e6:,.0f} MB/s",
                f"{ratio:.2f}",
                f"{peak / 1e6:.0f} MB",
                f"{max(r.plain.peak for r in rounds) / 1e6:.0f} MB",
            ]
        )
        what = f"{way} of {case.name}, {place}"
        goal = None if quick else GOAL
        claims.append(Claim(what, size / ours / 1e6, size / plain / 1e6, "MB/s", ratio, goal))
        memory = MOST_MEMORY / peak
        claims.append(Claim(f"memory: {what}", peak, MOST_MEMORY, "bytes", memory, 1.0))


if __name__ == "__main__":
    main()
