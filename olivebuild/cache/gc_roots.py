"""Roots of garbage collection: the recipes that use the cache, and the keys that each has now.

Knows no recipes and no plans.

A file for each recipe: workspaces/<digest of its path>.json, written when a build ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.values.strict_json import decode

KEY = re.compile("[0-9a-f]{32}")


class Registered(msgspec.Struct, frozen=True):
    """A recipe that uses the cache.

    `recipe`: its path; `keys`: of each node; `gone`: when a sweep first missed it, in seconds since
    1970, or 0.
    """

    recipe: str
    keys: Mapping[str, str] = {}
    gone: int = 0

    @property
    def exists(self) -> bool:
        return Path(self.recipe).is_file()


def file_of(store: Store, recipe: str) -> Path:
    return store.root / "workspaces" / f"{hashing.of_bytes(recipe)}.json"


def registered(store: Store, recipe: Path) -> Registered | None:
    """Return what is registered of a recipe; None if nothing readable is."""
    return _load(file_of(store, str(recipe.resolve())))


def register(
    store: Store,
    recipe: Path,
    before: Registered | None,
    keys: Mapping[str, str],
    nodes: Container[str],
) -> None:
    """Say what a recipe has now, beside what it had; `nodes`: all that it could have.

    What is replaced counts as used until this moment.
    """
    if store.read_only:
        return
    # A workspace that has lost its memory still has what it had.
    kept = {node: key for node, key in before.keys.items() if node in nodes} if before else {}
    now = Registered(str(recipe.resolve()), {**kept, **keys})
    if before == now:
        return
    with store.in_use():
        for key in set(before.keys.values()) - set(now.keys.values()) if before else ():
            with suppress(OSError):
                os.utime(store.path(key).with_suffix(".trace"))
    write(store, now)


def write(store: Store, registered: Registered) -> None:
    file = file_of(store, registered.recipe)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, msgspec.json.encode(registered))


def all_registered(store: Store) -> list[Registered]:
    """Return what is registered of all recipes, without files that can't be read."""
    files = sorted((store.root / "workspaces").glob("*.json"))
    return [entry for entry in map(_load, files) if entry]


def _load(file: Path) -> Registered | None:
    try:
        entry = decode(opening.read(file), Registered, strict=False)
    except (OSError, ValueError):
        return None
    # Others may write here, and keys become paths.
    return entry if all(KEY.fullmatch(key) for key in entry.keys.values()) else None
