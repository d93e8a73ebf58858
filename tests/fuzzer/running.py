"""Commands in a sandbox: by a fork server, or by a process of its own; each ends in time, or is
ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.fuzzer.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]


class Ended(NamedTuple):
    code: int | None
    """None: it had to be ended."""
    out: bytes
    err: bytes
    seconds: float
    cpu: float
    left: int
    """Processes that lived on."""


class Server:
    """See server.py."""

    def __init__(self, sandbox: Sandbox, heavy: bool = False) -> None:
        self.sandbox, self.heavy = sandbox, heavy
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        words = [
            sys.executable,
            "-m",
            "tests.fuzzer.server",
            str(self.sandbox.root),
            *(["heavy"] if self.heavy else []),
        ]
        environment = self.sandbox.environment()
        pipe = subprocess.PIPE
        quiet = open(f"{self.sandbox.root}.server", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            words,
            stdin=pipe,
            stdout=pipe,
            stderr=quiet,
            env=environment,
            cwd=REPOSITORY,
            start_new_session=True,
            # An answer that came with the line before it would lie in a buffer, and never be ready.
            bufsize=0,
        )
        quiet.close()
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"
        return self.process

    def ask(self, request: dict[str, object], limit: float) -> Ended:
        process = self.process or self._start()
        assert process.stdin
        assert process.stdout
        out = f"{self.sandbox.root}.said"
        for name in ("out", "err"):
            Path(f"{out}.{name}").write_bytes(b"")
        started = time.monotonic()
        process.stdin.write(
            json.dumps({**request, "out": out, "folder": str(self.sandbox.work)}).encode() + b"\n"
        )
        process.stdin.flush()
        pid = int(process.stdout.readline())
        ready, _, _ = select.select([process.stdout], [], [], limit)
        cpu = 0.0
        if not ready:
            cpu = end_tree(pid)
        told = json.loads(process.stdout.readline())
        said, errors = (Path(f"{out}.{name}").read_bytes() for name in ("out", "err"))
        return Ended(
            told["code"] if ready else None,
            said,
            errors,
            time.monotonic() - started,
            max(cpu, told["cpu"]),
            told["left"],
        )

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe
                pipe.close()
            self.process = None


def end_tree(pid: int) -> float:
    """Kill a process and all below it; what processor time they took."""
    cpu = 0.0
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for one in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                cpu += sum(one.cpu_times()[:2])
                os.kill(one.pid, signal.SIGKILL)
    return cpu


def run_alone(sandbox: Sandbox, arguments: list[str], limit: float) -> Ended:
    """As a user runs it: the installed script, in a process of its own."""
    script = Path(sys.executable).parent / "olivebuild"
    words = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "olivebuild"]
    out = f"{sandbox.root}.said"
    started = time.monotonic()
    with open(f"{out}.out", "wb") as said, open(f"{out}.err", "wb") as errors:
        process = subprocess.Popen(
            [*words, *arguments],
            cwd=sandbox.work,
            env=sandbox.environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
            cpu = 0.0
        except subprocess.TimeoutExpired:
            cpu, code = end_tree(process.pid), None
            process.wait()
    return Ended(
        code,
        Path(f"{out}.out").read_bytes(),
        Path(f"{out}.err").read_bytes(),
        time.monotonic() - started,
        cpu,
        0,
    )
