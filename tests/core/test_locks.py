"""Locks of the kernel: one holder at a time, and a dead holder holds nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.cache import index
from olivebuild.cache.index import Index
from olivebuild.cache.store import Store
from olivebuild.core.errors import StoreError
from olivebuild.core.fs import locks
from olivebuild.core.fs.locks import locked, try_lock
from tests.conftest import Place

HOLD = """
import sys
from pathlib import Path
from olivebuild.core.fs.locks import try_lock
handle = try_lock(Path(sys.argv[1]))
print("held" if handle else "busy", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "a.lock"


def other_process(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


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
def test_a_file_system_that_refuses_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_file: object, _flags: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoreError, match="this file system has no working locks") as caught:
        locks.check(tmp_path)
    assert (
        caught.value.hint
        == "put it on a local disk; OLIVEBUILD_CACHE names another folder for the cache"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows are others")
def test_a_file_system_that_grants_a_lock_twice_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda _file, _flags: None)
    with pytest.raises(StoreError, match="two hold the same one"):
        locks.check(tmp_path)


REFUSES = r"""
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int refused(const char *sort) {
  const char *which = getenv("REFUSED"); return which && strstr(which, sort); }
int flock(int fd, int what) {
  if (refused("flock")) { errno = ENOLCK; return -1; } return syscall(SYS_flock, fd, what); }
#define CONTROL(name) int name(int fd, int what, ...) { \
  va_list more; va_start(more, what); void *given = va_arg(more, void *); va_end(more); \
  if (refused("posix") && (what == F_SETLK || what == F_SETLKW)) { errno = ENOLCK; return -1; } \
  return syscall(SYS_fcntl, fd, what, given); }
CONTROL(fcntl)
CONTROL(fcntl64)
"""
"""NFS without lockd, for one, answers so."""


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"),
    reason="needs a compiler, and a linker that can put its functions first",
)
def test_a_file_system_that_has_run_out_of_locks_is_told_at_once(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "refuses.c").write_text("#define _GNU_SOURCE\n" + REFUSES)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", "-o", tmp_path / "refuses.so", tmp_path / "refuses.c"],
        check=True,
    )
    place.recipe.write_text(
        'targets:\n  a: {kind: command, run: "cp olivebuild.yaml {outputs.b}", outputs: {b: b}}\n'
    )
    for which in ("flock posix", "posix", "flock"):
        refused = Place(
            place.folder,
            place.cache,
            {"LD_PRELOAD": str(tmp_path / "refuses.so"), "REFUSED": which},
        )
        began = time.monotonic()
        done = refused.run("build")
        assert time.monotonic() - began < 15
        assert done.code == 1
        assert "this file system has no working locks: [Errno 37] No locks available" in done.err
        assert done.err.count("error:") == 1
        assert not (place.folder / "build").exists()
    assert place.run().code == 0


@contextlib.contextmanager
def held_index(folder: Path, *statements: str) -> Iterator[int]:
    program = (
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]: c.execute(statement)\nprint(flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder / "cache.db"), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a file's holder is known")
@pytest.mark.parametrize(
    "statements",
    [
        ("PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "UPDATE Settings SET value = value"),
        ("BEGIN IMMEDIATE",),
    ],
)
@pytest.mark.parametrize("opened", [True, False])
def test_an_index_that_another_process_keeps_is_done_without(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    statements: tuple[str, ...],
    opened: bool,
) -> None:
    monkeypatch.setattr(index, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    folder = Store(tmp_path).root / "traces"
    first = Index(folder)
    first.set({"a": "1"})
    if not opened or len(statements) > 1:
        first.close()
    with held_index(folder, *statements) as process:
        began = time.monotonic()
        found = first if opened else Index(folder)
        for number in range(20):
            # The first waits; once is enough.
            found.set({str(number): "2"})
        assert time.monotonic() - began < 3
        assert found.get("a") is None
    told = capfd.readouterr().err
    assert told.count("note:") == 1
    assert f"cache.db is kept by process {process} (python" in told
    again = Index(folder)
    assert again.get("a") == "1"
    again.close()


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"


@pytest.mark.parametrize("table", ["Settings", "Cache"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_index_that_does_not_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, when: str
) -> None:
    monkeypatch.setattr(index, "WAIT_SECONDS", 0.3)
    folder = Store(tmp_path).root / "traces"
    opened = Index(folder)
    opened.set({"a": "1"})
    columns = [
        row[1]
        for row in sqlite3.connect(folder / "cache.db").execute(f"PRAGMA table_info({table})")
    ]
    if when == "before":
        opened.close()
    with contextlib.closing(sqlite3.connect(folder / "cache.db")) as other:
        other.executescript(
            f"DROP TABLE {table}; CREATE VIEW {table}({', '.join(columns)}) AS {ENDLESS} "
            f"{', '.join('x' for _ in columns)} FROM c;"
        )
    began = time.monotonic()
    found = opened if when == "after" else Index(folder)
    assert found.get("b") is None
    assert set(found.all_keys()) <= {"a"}
    assert time.monotonic() - began < 5
    found.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a file's holder is known")
def test_a_long_wait_is_told_and_ends(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(locks, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    with other_process(file) as process:
        assert said_by(process) == "held"
        with (
            pytest.raises(StoreError, match=f"process {process.pid} .* has held this lock"),
            locked(file),
        ):
            pass
        process.kill()
    told = capfd.readouterr().err
    assert told.count("note:") == 1
    assert f"waiting for {file}, which process {process.pid} (" in told
