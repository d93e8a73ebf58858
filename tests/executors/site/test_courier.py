"""Blobs over connections that do not last: nothing is lost, and nothing is sent twice."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from olivebuild.executors.site import link
from olivebuild.executors.site.connection import LocalConnection
from olivebuild.executors.site.executor import SiteExecutor
from tests.support.remote_steps import RemoteSteps

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs outlive connections on POSIX only")
RELAY = """
import os, subprocess, sys, threading
left = [int(sys.argv[1])]
agent = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def copy(source, target):
    while data := os.read(source, 65536):
        left[0] -= len(data)
        if left[0] < 0:
            agent.kill()
            os._exit(255)
        while data:
            data = data[os.write(target, data):]
threading.Thread(target=copy, args=(agent.stdout.fileno(), 1), daemon=True).start()
copy(0, agent.stdin.fileno())
agent.stdin.close()
agent.wait()
"""
"""Connects to an agent, and is cut after so many bytes."""


class Flaky(LocalConnection):
    """A connection that is cut after some bytes, each time after others."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__("box")
        self.opened = 0
        self._bytes = (least, most)
        self._chance = random.Random(7)

    def argv(self, agent: Sequence[str]) -> list[str]:
        self.opened += 1
        budget = str(self._chance.randint(*self._bytes))
        return [sys.executable, "-c", RELAY, budget, *super().argv(agent)]

    def is_cut(self, code: int) -> bool:
        return code in (255, -9)


@pytest.mark.parametrize(
    ("size", "least"),
    [(3_000_000, 700_000), pytest.param(32_000_000, 1_500_000, marks=pytest.mark.slow)],
)
def test_blobs_arrive_over_connections_that_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, least: int
) -> None:
    monkeypatch.setattr(link, "FIRST_PAUSE", 0.01)
    steps = RemoteSteps(tmp_path)
    content = random.Random(1).randbytes(size)
    file = steps.work / "in.bin"
    file.write_bytes(content)
    action = steps.action("cat in.bin in.bin > {outputs.text}", files=[file])
    connection = Flaky(least, 3 * least)
    executor = SiteExecutor(name="box", connection=connection, root=str(steps.site))
    executor.start(action, steps.log)
    outcome = steps.outcome(executor)
    executor.cancel()
    assert outcome.error is None
    assert Path(action.out, "text.txt").read_bytes() == content * 2
    assert connection.opened >= 3 * size // (3 * least)
    assert any("is cut" in note for note in steps.notes)
    assert not [*(steps.site / "incoming").iterdir()]
