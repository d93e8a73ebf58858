"""The process that talks to a remote cache: how its end is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from olivebuild.cache.remote_sweeps import Limits
from olivebuild.cache.store import Store
from olivebuild.core.errors import StoreError
from olivebuild.engine.remote import process, sweep
from olivebuild.engine.remote.process import TransferProcess

KEY = "0" * 32


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def transfer(tmp_path: Path, told: list[str]) -> TransferProcess:
    Store(tmp_path / "cache")
    (tmp_path / "remote").mkdir()
    url = (tmp_path / "remote").as_uri()
    return TransferProcess(url, str(tmp_path / "cache"), told.append, lambda _: None)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_by_which_signal_it_ended_is_told(transfer: TransferProcess, told: list[str]) -> None:
    assert [answer.hit for answer in transfer.ask("has", [KEY])] == [False]
    assert transfer._process
    os.kill(transfer._process.pid, signal.SIGKILL)
    # Two: the first may still be taken by the pipe.
    for _ in range(2):
        assert transfer.ask("has", [KEY]) == []
    assert [text.partition(", ")[0] for text in told] == [
        "its process has ended: it was killed (signal 9)"
    ]
    transfer.end()


def test_what_it_said_last_is_told(
    transfer: TransferProcess, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MODULE", "olivebuild.that_is_not_there")
    assert transfer.ask("has", [KEY]) == []
    (text,) = told
    assert text.startswith("its process has ended: it ended with 1: ")
    assert text.endswith("No module named olivebuild.that_is_not_there")
    transfer.end()


def test_how_a_sweep_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MODULE", "olivebuild.that_is_not_there")
    with pytest.raises(StoreError, match=r"it ended with 1: .*No module named"):
        sweep.sweep(tmp_path.as_uri(), Limits(age=1.0))
