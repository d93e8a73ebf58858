"""Sweeps while builds run: what is in use stays."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.cache import gc
from olivebuild.cache.gc import Limits
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.core.fs.locks import locked, try_lock
from tests.conftest import Place
from tests.properties.test_disks import chain, content, everything
from tests.support.sweeps import SIZE, age, building, data, has, result

__all__ = ["chain"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_while_a_build_runs_what_is_young_stays(store: Store, tmp_path: Path) -> None:
    young, old = store.put_bytes(data("young")), store.put_bytes(data("old"))
    age(store.path(old), 2)
    key = result(store, tmp_path, "result", days=0.5)
    with building(store):
        found = gc.collect(store, Limits(0), delete=True)
        assert (found.building, found.blobs, found.results) == (True, {old: SIZE}, ())
    assert gc.collect(store, Limits(0), delete=True).results[0].key == key
    assert not store.path(young).exists()


def test_what_is_found_there_while_a_build_runs_is_in_use(store: Store, tmp_path: Path) -> None:
    key = result(store, tmp_path, "found", days=50)
    trace = Traces(store).get(key)
    assert trace
    with building(store):
        store.put_bytes(data("found"))
        Traces(store).use([trace])
        assert gc.collect(store, Limits(0), delete=True).blobs == {}
        age(Traces(store).file(key), 50)
        # The blob is still young; its result and manifest are not.
        gc.collect(store, Limits(0), delete=True)
        assert (has(store, "found"), Traces(store).get(key)) == ([True], None)
        # Who still believes in the result says so again, and then misses its blobs.
        Traces(store).use([trace])
        assert Traces(store).get(key) == trace


def test_a_running_step_keeps_its_folder_and_what_it_reads(store: Store, tmp_path: Path) -> None:
    key, of_step = result(store, tmp_path, "input", days=50), "e" * 32
    trace = Traces(store).get(key)
    assert trace
    scratch = store.scratch(of_step)
    given = ActionInput("", "", "command", "t", manifest=trace.manifest)
    (scratch / "out.json").write_text(
        Action(
            "n", "t", "command", of_step, {}, {"x": given}, {}, "", str(scratch / "out")
        ).to_json()
    )
    age(scratch, 3)
    with building(store), locked(store.lock_file(of_step)):
        stored = store.put_bytes(data("stored two days ago by the step"))
        age(store.path(stored), 2)
        gc.collect(store, Limits(0), delete=True)
        assert (has(store, "input"), store.path(stored).exists(), scratch.exists()) == (
            [True],
            True,
            True,
        )
    gc.collect(store, Limits(0), delete=True)
    assert (has(store, "input"), store.path(stored).exists(), scratch.exists()) == (
        [False],
        False,
        False,
    )


def test_builds_that_find_and_store_while_sweeps_run_lose_nothing(
    store: Store, tmp_path: Path
) -> None:
    """Old blobs of nobody are found again by a build just when they are being swept."""
    stop, swept = threading.Event(), [0]

    def sweep() -> None:
        while not stop.is_set():
            swept[0] += len(gc.collect(store, Limits(0), delete=True).blobs)
            time.sleep(0.002)

    with building(store):
        sweeper = threading.Thread(target=sweep)
        sweeper.start()
        try:
            for i in itertools.count():
                if swept[0] >= 10 or not sweeper.is_alive():
                    break
                name = store.put_bytes(data(i % 5))
                assert store.read(name) == data(i % 5)
                age(store.path(name), 2)
                # Sweeps have their turn, too.
                time.sleep(0.002)
        finally:
            stop.set()
            sweeper.join()
    assert swept[0] >= 10


def test_a_new_build_waits_for_a_sweep_and_a_sweep_for_no_build(store: Store) -> None:
    with gc._alone(store) as runs:
        assert not runs
        assert try_lock(store.builds_lock, shared=True) is None
    with building(store), gc._alone(store) as runs:
        assert runs


@pytest.mark.scenario
def test_builds_are_right_while_sweeps_run(chain: Place) -> None:
    """Edits go back and forth, so that each build wants to restore what a sweep may be taking."""
    stop = threading.Event()
    codes: list[int] = []

    def sweep() -> None:
        while not stop.is_set():
            codes.append(chain.run("gc", "--delete", "--older-than", "0d").code)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for i in range(8):
            (chain.folder / "in.bin").write_bytes(content(i % 2))
            assert chain.run().code == 0
            assert chain.everything() == everything(chain, i % 2)
            assert chain.build().ran == []
    finally:
        stop.set()
        sweeper.join()
    assert set(codes) == {0}
