"""Locks of the kernel: one holder at a time, and a dead holder holds nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from olivebuild import locks
from olivebuild.errors import StoreError
from olivebuild.locks import locked, try_lock

HOLD = """
import sys
from pathlib import Path
from olivebuild.locks import try_lock
handle = try_lock(Path(sys.argv[1]))
print("held" if handle else "busy", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "a.lock"


def other_process(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_free_lock_is_taken_and_its_file_made(file: Path) -> None:
    handle = try_lock(file)
    assert handle is not None
    handle.close()
    assert file.exists()


def test_a_held_lock_is_not_taken_twice(file: Path) -> None:
    handle = try_lock(file)
    assert handle is not None
    assert try_lock(file) is None
    handle.close()


def test_a_closed_handle_frees_the_lock(file: Path) -> None:
    for _ in range(3):
        handle = try_lock(file)
        assert handle is not None
        handle.close()


def test_a_lock_of_another_process_is_seen_and_goes_with_it(file: Path) -> None:
    with other_process(file) as process:
        assert said_by(process) == "held"
        assert try_lock(file) is None
        process.kill()
    handle = try_lock(file)
    assert handle is not None
    handle.close()


def test_our_lock_is_seen_by_another_process(file: Path) -> None:
    handle = try_lock(file)
    assert handle is not None
    with handle, other_process(file) as process:
        assert said_by(process) == "busy"


def test_a_block_holds_the_lock_and_frees_it_on_an_error(file: Path) -> None:
    inside: list[object] = []

    def fail() -> None:
        with locked(file):
            inside.append(try_lock(file))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [None]
    handle = try_lock(file)
    assert handle is not None
    handle.close()


def test_the_second_block_waits_for_the_first(file: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        waits.set()
        with locked(file):
            order.append("second")

    with locked(file):
        thread = threading.Thread(target=second)
        thread.start()
        waits.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_a_lock_file_holds_is_kept(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("content")
    with locked(file):
        pass
    assert file.read_text() == "content"


def test_shared_locks_go_together_and_keep_an_exclusive_one_out(file: Path) -> None:
    one, two = try_lock(file, shared=True), try_lock(file, shared=True)
    assert one
    assert two
    assert try_lock(file) is None
    one.close()
    assert try_lock(file) is None
    two.close()
    alone = try_lock(file)
    assert alone
    assert try_lock(file, shared=True) is None
    alone.close()


def test_working_locks_pass_the_check(tmp_path: Path) -> None:
    locks.check(tmp_path)
    with locked(tmp_path / "check.lock"):
        # Another process checks at this moment.
        locks.check(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows are others")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_refuses_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(_file: object, _flags: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoreError, match="this file system has no working locks") as caught:
        locks.check(tmp_path)
    assert caught.value.hint == "put it on a local disk; OLIVEBUILD_CACHE names another folder for the cache"


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows are others")
def test_a_file_system_that_grants_a_lock_twice_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda _file, _flags: None)
    with pytest.raises(StoreError, match="two hold the same one"):
        locks.check(tmp_path)
