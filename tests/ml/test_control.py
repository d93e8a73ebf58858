"""The control of a latency measurement tells a busy machine by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import pytest

from olivebuild.ml.benchmark.control import BUSY, Control, Ended, record_of


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Context in which so many processes do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_loops_on_all_cores_are_told() -> None:
    control = Control(2, gpu=False)
    try:
        control.run()
        control.forget()
        with busy_loops(2 * (os.cpu_count() or 1)):
            told = [control.run() for _ in range(5)]
        assert median(told) > BUSY
        record = record_of([control], [[0, 1, 2, 3, 4]])
        assert record["stretch"] == median(told)
        assert record["threads"] == 2
        assert 0.001 < record["seconds"] == median(control.seconds)
        assert (record["seconds_interval"], record["gpu_seconds"]) == (None, None)
        assert "numpy" in record["kernel"]
        # Only the rounds that were kept count.
        assert record_of([control], [[0]])["seconds"] == control.seconds[0]
    finally:
        control.close()


def test_a_control_that_has_ended_is_told() -> None:
    control = Control(1, gpu=False)
    control.close()
    with pytest.raises((Ended, ValueError)):
        control.run()
