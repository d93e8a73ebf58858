"""Facts of the machine at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core import host

SMI = """#!/bin/sh
case "$1" in
  *driver*) echo 550.54; echo 550.54;;
  *) echo GPU; echo GPU;;
esac
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for cached in (host.gpu_names, host.gpu_driver):
        cached.cache_clear()
    yield
    for cached in (host.gpu_names, host.gpu_driver):
        cached.cache_clear()


def test_there_is_a_core_at_least_and_no_more_than_may_be_used() -> None:
    assert 1 <= host.physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script here")
def test_a_measurement_belongs_to_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "driver" not in host.timing_facts()
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    host.gpu_names.cache_clear()
    host.gpu_driver.cache_clear()
    facts = host.timing_facts()
    assert (facts["gpu"], facts["driver"]) == ("GPU, GPU", "550.54")
    assert facts.items() >= (host.describe().items() - {("memory", host.describe()["memory"])})


def test_and_to_no_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Virtual machines are given more of it as they use it.
    before = host.timing_facts()
    monkeypatch.setattr(host, "memory_bytes", lambda: 7 * 2**30)
    assert host.describe()["memory"] == "7 GiB"
    assert host.timing_facts() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system sets no affinity")
def test_and_to_the_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert host.timing_facts()["usable cores"] == "1"
