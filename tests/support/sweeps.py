"""Caches with results of a given age and size, to be swept."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olivebuild.cache import gc_roots
from olivebuild.cache.gc import DAY, Limits
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.fs.locks import locked
from olivebuild.core.hashing import of_bytes

SIZE = 10_000


MONTH = Limits(30 * DAY)


def data(seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(SIZE)


def result(store: Store, tmp_path: Path, *seeds: object, days: float = 0.0) -> str:
    """The key of a result with a file for each seed, stored and last used so many days ago."""
    folder = tmp_path / f"made-{'-'.join(map(str, seeds))}"
    folder.mkdir()
    for seed in seeds:
        (folder / f"{seed}.bin").write_bytes(data(seed))
    manifest, blob = store.put_folder(folder)
    key = of_bytes(folder.name)
    Traces(store).put(Trace(key, "command", (), {"": manifest.digest}, blob, size=manifest.size))
    for name in [blob, *(entry.digest for entry in manifest.files)]:
        age(store.path(name), days)
    age(Traces(store).file(key), days)
    return key


def age(path: Path, days: float) -> None:
    when = time.time() - days * DAY
    os.utime(path, (when, when))


def register(store: Store, tmp_path: Path, *keys: str) -> Path:
    recipe = tmp_path / "work/olivebuild.yaml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.touch()
    gc_roots.register(
        store,
        recipe,
        gc_roots.registered(store, recipe),
        {f"t{i}": key for i, key in enumerate(keys)},
        (),
    )
    return recipe


def has(store: Store, *seeds: object) -> list[bool]:
    return [store.path(of_bytes(data(seed))).exists() for seed in seeds]


def files(store: Store) -> set[str]:
    return {
        p.relative_to(store.root).as_posix()
        for p in store.root.rglob("*")
        if p.is_file() and "traces" not in p.parts and "derived" not in p.parts
    }


@contextmanager
def building(store: Store) -> Iterator[None]:
    with locked(store.builds_lock, shared=True):
        yield
