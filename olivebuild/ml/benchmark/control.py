"""A fixed piece of work that is timed in turn with the models: how busy the machine is.

`python -m olivebuild.ml.benchmark.control SETTINGS` runs it once for each line of standard input.

On a processor each of as many threads as ONNX Runtime takes multiplies matrices; a thread that has
to share its core takes longer by the clock than in processor time, whatever was measured before.
On a GPU it multiplies, too, where a model runs there; other work shows there only beside another
measurement.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from olivebuild.core.processes import python

BUSY = 1.25
"""From where on the clock's time over processor time says that the machine was busy."""
ROWS, WIDTH, TIMES = 16, 2048, 16
"""Matrices of (16, 2048) x (2048, 2048) in float32, 16 times: some 50 ms a thread. The larger one,
16 MiB, is read each time, as weights are for each token.
"""
GPU_WIDTH, GPU_TIMES = 4096, 16
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Ended(Exception):
    """A process that measures ended before its time."""


class Control:
    """The process of a control, and what it measured: seconds, a value a round."""

    def __init__(self, threads: int, *, gpu: bool) -> None:
        self.threads = threads
        self.seconds: list[float] = []
        self.stretch: list[float] = []
        self.gpu_seconds: list[float] = []
        self.kernel = ""
        settings = json.dumps({"threads": threads, "gpu": gpu})
        self._process = subprocess.Popen(
            python("-m", "olivebuild.ml.benchmark.control", settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(ONE_THREAD, "1"),
        )

    def run(self) -> float:
        """Run once, and return the time by the clock over processor time. Raises Ended."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError:
            raise Ended from None
        line = self._process.stdout.readline()
        if not line:
            raise Ended
        said: dict[str, Any] = json.loads(line)
        self.kernel = said["kernel"]
        self.seconds.append(said["seconds"])
        self.stretch.append(said["stretch"])
        if said["gpu_seconds"] is not None:
            self.gpu_seconds.append(said["gpu_seconds"])
        return self.stretch[-1]

    def forget(self) -> None:
        """Begin anew: what came before was to warm up."""
        for values in (self.seconds, self.stretch, self.gpu_seconds):
            values.clear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def record_of(controls: list[Control], kept: list[list[int]]) -> dict[str, Any]:
    """Return the record of controls, of the rounds that were kept of each."""
    # The process of a control needs none of it.
    from olivebuild.metrics.statistics import median_interval

    seconds = [c.seconds[i] for c, rounds in zip(controls, kept, strict=True) for i in rounds]
    stretch = [c.stretch[i] for c, rounds in zip(controls, kept, strict=True) for i in rounds]
    gpu = [value for control in controls for value in control.gpu_seconds]
    return {
        "kernel": controls[0].kernel,
        "threads": controls[0].threads,
        "seconds": median(seconds),
        "seconds_interval": median_interval(seconds),
        "stretch": median(stretch),
        "gpu_seconds": median(gpu) if gpu else None,
    }


def main() -> None:
    settings = json.loads(sys.argv[1])
    # What libraries print goes to the log.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kernel, multiply = _on_processor()
    on_gpu = _on_gpu() if settings["gpu"] else None
    for _ in sys.stdin:
        seconds, stretch = _in_threads(multiply, settings["threads"])
        said = {
            "kernel": kernel,
            "seconds": seconds,
            "stretch": stretch,
            "gpu_seconds": on_gpu() if on_gpu else None,
        }
        stream.write(json.dumps(said) + "\n")
        stream.flush()


def _on_processor() -> tuple[str, Callable[[], None]]:
    """Return what is multiplied, in words, and the function that does it in one thread."""
    import numpy as np

    numbers = np.random.default_rng(0)
    left = numbers.standard_normal((ROWS, WIDTH), dtype=np.float32)
    right = numbers.standard_normal((WIDTH, WIDTH), dtype=np.float32)

    def multiply() -> None:
        for _ in range(TIMES):
            left @ right

    return f"{ROWS}x{WIDTH}x{WIDTH} float32, {TIMES} times, numpy {np.__version__}", multiply


def _in_threads(multiply: Callable[[], None], count: int) -> tuple[float, float]:
    """Return the seconds until all threads are done, and by how much the slowest was held up.

    That is its time by the clock over processor time.
    """
    begin, ends = threading.Barrier(count), list[tuple[float, float, float]]()

    def work() -> None:
        begin.wait()
        start, spent = time.perf_counter(), time.thread_time()
        multiply()
        ends.append((start, time.perf_counter(), time.thread_time() - spent))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(end for _, end, _ in ends) - min(start for start, _, _ in ends)
    # Where the clock of a thread ticks in 16 ms, as on Windows, nothing may have been counted.
    return seconds, max((end - start) / max(spent, 1e-3) for start, end, spent in ends)


def _on_gpu() -> Callable[[], float] | None:
    """Return a function that multiplies on the GPU and tells the seconds; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    matrix = torch.ones(GPU_WIDTH, GPU_WIDTH, dtype=torch.float16, device="cuda")

    def multiply() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(GPU_TIMES):
            matrix @ matrix
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return multiply


if __name__ == "__main__":
    main()
