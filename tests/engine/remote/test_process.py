"""The process that talks to a remote cache: how its end is told."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from olivebuild.cache.remote_sweeps import Limits
from olivebuild.cache.store import Store
from olivebuild.core.errors import StoreError
from olivebuild.engine.remote import process, sweep
from olivebuild.engine.remote.process import TransferProcess
from tests.support.remote_steps import wait_for

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


SAYS_WHY = """
import sys
sys.stdin.readline()
sys.stderr.buffer.write(b"caf\\xe9 \\xff\\n")
print('{"id": 1, "op": "put", "key": "a", "put": true}')
print('{"fault": "it is read only", "hint": "write elsewhere"}', flush=True)
"""


def test_why_it_gave_up_is_told_though_nobody_was_listening(
    transfer: TransferProcess, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "python", lambda *_: [sys.executable, "-c", SAYS_WHY])
    transfer.upload(["a"], {})
    assert transfer._process
    transfer._process.wait()
    transfer.upload(["b"], {})
    assert told == ["it is read only: write elsewhere"]
    assert transfer.pending == {"b"}
    # Nor is it asked any more, or waited for.
    start = time.monotonic()
    for _ in range(20):
        assert transfer.ask("has", [KEY]) == []
    assert time.monotonic() - start < 1
    transfer.end()


SWEEPS = """
import signal, sys, time
def leave(*_):
    sys.stderr.write("x" * 200_000)
    sys.exit(1)
signal.signal(signal.SIGTERM, leave)
sys.stderr.buffer.write(b"caf\\xe9\\n")
if sys.argv[1:]:
    print('{"fault": "it is swept elsewhere"}')
    sys.exit()
sys.stderr.flush()
open(NAME, "w").close()
time.sleep(600)
"""


def test_what_a_sweep_says_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "python", lambda *_: [sys.executable, "-c", SWEEPS, "refuse"])
    with pytest.raises(StoreError, match="it is swept elsewhere"):
        sweep.sweep(tmp_path.as_uri(), Limits(age=1.0))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_sweep_that_is_interrupted_may_say_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    program = SWEEPS.replace("NAME", repr(str(begun)))
    monkeypatch.setattr(sweep, "python", lambda *_: [sys.executable, "-c", program])
    main = threading.main_thread().ident
    assert main

    def interrupt() -> None:
        wait_for(begun.exists)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(tmp_path.as_uri(), Limits(age=1.0))
    thread.join()
    assert time.monotonic() - start < 60


def test_how_a_sweep_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MODULE", "olivebuild.that_is_not_there")
    with pytest.raises(StoreError, match=r"it ended with 1: .*No module named"):
        sweep.sweep(tmp_path.as_uri(), Limits(age=1.0))
