"""Shared by the benchmarks: run a command and measure it with all its children, describe the
machine, print tables and claims.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from olivebuild.core import host


@dataclass(frozen=True)
class Cost:
    """Wall and CPU time in seconds, peak resident memory of the process and its descendants in
    bytes.
    """

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Claim:
    """`ratio` says how many times better ours is; `goal` is the least ratio, or None where nothing
    is promised.
    """

    what: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: float | None


def run(command: list[str], *, folder: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run to the end; raises SystemExit with the command's output when it fails."""
    log = folder / "benchmark.log"
    with open(log, "wb") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        peak, watched = [0], psutil.Process(process.pid)
        watcher = threading.Thread(target=_watch, args=(watched, peak), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    print(
        f"{wall:8.2f} s  {peak[0] / 2**20:8,.0f} MiB  {' '.join(command)[:60]!r}",
        file=sys.stderr,
        flush=True,
    )
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak[0])


def _watch(process: psutil.Process, peak: list[int]) -> None:
    # A child shares all its memory with its parent until it runs a program of its own: what one
    # look alone sees is no peak.
    total = 0
    while True:
        before, total = total, 0
        try:
            for one in [process, *process.children(recursive=True)]:
                total += one.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        except psutil.Error:
            return
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return
        peak[0] = max(peak[0], min(before, total))
        # A look takes over a millisecond of a core that the watched may want.
        time.sleep(0.02)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def end(claims: list[Claim], *libraries: str) -> None:
    """The last thing a benchmark prints: its claims as JSON."""
    about = (
        host.describe() | {"python": sys.version.split()[0]} | versions("olivebuild", *libraries)
    )
    print(json.dumps({"claims": [asdict(c) for c in claims], "machine": about}))
