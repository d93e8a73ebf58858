"""The process of a further node: how it ends with its ranks, and with node 0."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

pytest.importorskip("torch")

from olivebuild.ml.training import data_parallel
from olivebuild.ml.training.nodes.node_process import _wait_for


class Told:
    """What node 0 would be told."""

    def __init__(self) -> None:
        self.alone = threading.Event()
        self.codes: list[int] = []

    def tell_end(self, code: int) -> None:
        self.codes.append(code)


def waited(told: Any, *programs: str) -> int:
    ranks = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        return _wait_for(ranks, told)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_all_end_well() -> None:
    told = Told()
    assert waited(told, "", "import time; time.sleep(0.3)") == 0
    assert told.codes == []


def test_the_end_of_one_is_told_and_ends_all() -> None:
    told = Told()
    assert waited(told, "raise SystemExit(3)", "import time; time.sleep(60)") == 1
    assert told.codes == [3]


def test_ranks_have_a_moment_when_node_0_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "GRACE_SECONDS", 2.0)
    told = Told()
    told.alone.set()
    assert waited(told, "import time; time.sleep(0.3)") == 0
    monkeypatch.setattr(data_parallel, "GRACE_SECONDS", 0.2)
    assert waited(told, "import time; time.sleep(60)") == 1
    assert told.codes == []
