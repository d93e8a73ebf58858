"""Models in their own folders that lend tensors to results of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from olivebuild.api.node import Node
from olivebuild.cache.key import Part, key_of
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing
from olivebuild.engine.remote.lenders import Lenders
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import State, Verdict

MODEL = "ab" * 16
PARTS = (Part("step", "kind", "merged"),)


def result(store: Store, tensor: bytes, base: str) -> State:
    """Return the state of a merged model that has come, and is one tensor of its base."""
    runs = [(hashing.of_bytes(tensor), len(tensor))]
    entry = Entry.of_runs("model.safetensors", runs, executable=False)
    blob = store.put_manifest(Manifest((entry,), base=base))
    key = key_of(PARTS)
    return State(
        node=Node("merged", "merged", "merged", 1, {}),
        verdict=Verdict.STALE,
        key=key,
        trace=Trace(key, "merged", PARTS, {"": "cd" * 16}, manifest=blob),
    )


def plan_with(folder: Path | None) -> Plan:
    """Return a plan whose base is in a folder, or is not here yet."""
    base = State(
        node=Node("base", "base", "model", 1, {}, referenced_folder="base" if folder else None),
        verdict=Verdict.FRESH if folder else Verdict.STALE,
        outputs={"": MODEL} if folder else None,
        folder=folder,
    )
    return Plan(goals=["merged"], states={"base": base})


def test_a_lender_is_looked_for_when_it_is_here(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "cache"), tmp_path / "base"
    folder.mkdir()
    weights = np.arange(64, dtype=np.float32)
    save_file({"w": weights}, folder / "model.safetensors")
    state = result(store, weights.tobytes(), MODEL)
    assert state.trace
    manifest = store.manifest(state.trace.manifest)
    lenders = Lenders(store)
    lenders.expect([state])
    assert lenders.find(plan_with(None)) == set()
    assert store.missing(manifest) is not None
    assert lenders.find(plan_with(folder)) == {state.key}
    assert store.missing(manifest) is None
    # Once.
    lenders.expect([state])
    assert lenders.find(plan_with(folder)) == set()


def test_what_borrows_nothing_or_can_not_be_read_has_no_lender(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "cache"), tmp_path / "base"
    lenders = Lenders(store)
    lenders.expect([result(store, b"tensor", "")])
    assert lenders.find(plan_with(folder)) == set()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"no weights")
    state = result(store, b"tensor", MODEL)
    lenders.expect([state])
    assert lenders.find(plan_with(folder)) == {state.key}
    assert store.borrowed(MODEL) == {}
