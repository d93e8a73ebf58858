"""The digest of a large file: olivebuild beside `cat FILE >/dev/null`, and beside the MD5 that DVC
takes.

    python benchmarks/hashing.py            # 2 GiB; a minute
    python benchmarks/hashing.py --quick    # 128 MiB

The file lies in the page cache, so that the processor is measured and not the disk. All are called
in turn, a round after the other; medians count. `cat` is a process of its own and so pays its start
(1 ms), ours is called in this one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from olivebuild.core import hashing

BLOCK = os.urandom(1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small file; no goals")
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    size, rounds = (128 << 20, 5) if options.quick else (2 << 30, 15)
    with tempfile.TemporaryDirectory(prefix="hashing-") as name:
        file = Path(name, "model.onnx.data")
        write(file, size)
        md5 = (md5_of, 3 if options.quick else 1)
        times = measure(
            file, {"olivebuild": (hashing.of_file, rounds), "cat": (cat, rounds), "md5": md5}
        )
    medians = {reader: statistics.median(values) for reader, values in times.items()}
    if not options.json:
        print(
            f"{size / 2**20:,.0f} MiB, warm; medians of {rounds} rounds; "
            f"{hashing.THREADS} threads\n"
        )
        rows = [
            [n, f"{t * 1e3:,.0f} ms", f"{size / t / 1e9:.2f} GB/s", f"{medians['cat'] / t:.2f}x"]
            for n, t in medians.items()
        ]
        print(table(["", "time", "speed", "of cat"], rows))
    goals = {"cat": None if options.quick else 1.2}
    ours = medians["olivebuild"]
    claims = [
        Claim(
            f"hashing {size / 2**20:,.0f} MiB against {n}",
            round(size / ours / 1e9, 3),
            round(size / t / 1e9, 3),
            "GB/s",
            round(t / ours, 3),
            goals.get(n),
        )
        for n, t in medians.items()
        if n != "olivebuild"
    ]
    end(claims, "xxhash")


def write(file: Path, size: int) -> None:
    """No two blocks are equal."""
    with open(file, "wb") as f:
        for i in range(size // len(BLOCK)):
            f.write(i.to_bytes(8, "little") + BLOCK[8:])


def measure(
    file: Path, readers: dict[str, tuple[Callable[[Path], object], int]]
) -> dict[str, list[float]]:
    """Seconds of each call; each reader has its own number of rounds."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for round_ in range(-1, max(rounds for _, rounds in readers.values())):
        for name, (read, rounds) in readers.items():
            if round_ >= rounds:
                continue
            start = time.perf_counter()
            read(file)
            # The first round warms the cache.
            if round_ >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def cat(file: Path) -> None:
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["cat", str(file)], check=True, stdout=nowhere)


def md5_of(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


if __name__ == "__main__":
    main()
