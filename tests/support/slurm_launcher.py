"""Fixtures of tests of Slurm: a real cluster for a module, and a launcher for each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olivebuild.executors.launchers.slurm import SlurmLauncher, open_launcher
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with (
        pytest.MonkeyPatch.context() as patch,
        slurm_cluster(tmp_path_factory.mktemp("slurm"), patch) as cluster,
    ):
        yield cluster


@pytest.fixture
def launcher(cluster: SlurmCluster, tmp_path: Path) -> SlurmLauncher:
    return open_launcher({}, tmp_path)


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
