"""A limit for what a stranger's file makes us compute in Python.

A chat template, a regular expression.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 5.0
"""Of this thread's own processor time, so that a busy machine changes nothing.

A conversation takes a millisecond.
"""
EVERY = 0.25
MEMORY = 4 << 30
"""So many bytes more may be taken meanwhile."""


class TooMuch(Exception):
    """It took too long, or too much memory; the text says which."""


_check: Callable[[], None] | None = None


def _heard(_signal: int, _frame: object) -> None:
    if _check:
        _check()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises TooMuch out of the block.

    A regular expression is interrupted as well, for `re` looks for signals; but not in another
    thread.
    """
    global _check
    outer, started, began = _check, time.thread_time(), time.monotonic()

    def check() -> None:
        if time.thread_time() - started > SECONDS:
            raise TooMuch(f"takes more than {SECONDS:g} s")

    try:
        with _memory():
            if threading.current_thread() is not threading.main_thread() or not hasattr(
                signal, "setitimer"
            ):
                with _from_outside(began):
                    yield
            else:
                # Never taken away again: a signal that comes late must find somebody.
                if signal.getsignal(signal.SIGPROF) is not _heard:
                    signal.signal(signal.SIGPROF, _heard)
                _check = check
                # Again and again, for an exception may be caught where it is raised. An outer block
                # has begun earlier, and is looked after, too.
                signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
                try:
                    yield
                finally:
                    _check = outer
                    if outer is None:
                        signal.setitimer(signal.ITIMER_PROF, 0)
    except (MemoryError, RecursionError) as e:
        what = (
            "calls itself without end"
            if isinstance(e, RecursionError)
            else f"needs more than {MEMORY >> 30} GB of memory"
        )
        raise TooMuch(what) from None


@contextlib.contextmanager
def _from_outside(began: float) -> Iterator[None]:
    """By another thread, which can stop what is written in Python and nothing else."""
    ended, thread = threading.Event(), threading.get_ident()

    def stop() -> None:
        while not ended.wait(EVERY):
            if time.monotonic() - began > 4 * SECONDS:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(TooMuch)
                )
                return

    watching = threading.Thread(target=stop, daemon=True)
    watching.start()
    try:
        yield
    except TooMuch:
        raise TooMuch(f"takes more than {4 * SECONDS:g} s") from None
    finally:
        ended.set()
        watching.join()


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Limit the address space that is given meanwhile, where the system can.

    Else the machine might run out of memory first.
    """
    limits = _limits()
    if limits is None:
        yield
        return
    resource, before, room = limits
    resource.setrlimit(resource.RLIMIT_AS, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


_looked: tuple[float, int] = (0.0, 0)


def _limits() -> tuple[Any, tuple[int, int], int] | None:
    global _looked
    try:
        import resource

        now = time.monotonic()
        if not _looked[1] or now - _looked[0] > 1:
            with open("/proc/self/statm", "rb") as f:
                _looked = now, int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, ValueError):
        return None
    room = _looked[1] + MEMORY
    least = min((limit for limit in before if limit != resource.RLIM_INFINITY), default=room)
    return resource, before, min(room, least)
