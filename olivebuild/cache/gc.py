"""Garbage collection of the cache.

It takes results that no recipe has now, by age and by size, and what crashes have left.

The roots are the results of every registered recipe (cache/gc_roots.py), what running steps read
and make, and, while any build runs, all that was stored or used within a day. Recipes themselves
are not read. Results go before their blobs, so that a sweep that is killed leaves blobs without a
result, which the next one takes.

Two locks make it safe beside builds. `builds.lock` is shared by all builds: a process that holds it
alone knows that none runs. `sweep.lock` is shared for the moment in which a build marks a stored
file as used, and a sweep holds it alone from its first look to its last deletion. So a file that is
used before counts as used, and one that is used after is seen to be gone.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from olivebuild.cache import compiled, gc_roots
from olivebuild.cache.gc_roots import Registered
from olivebuild.cache.leftovers import Leftovers, time_of
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.errors import StoreError
from olivebuild.core.fs import opening, trees
from olivebuild.core.fs.locks import locked, try_lock
from olivebuild.core.fs.small_files import read_json

DAY = 86400
GRACE = 7 * DAY
"""How long the results of a recipe are kept that is gone: it may lie on a disk that comes back."""


@dataclass(frozen=True)
class Limits:
    """`age` in seconds since the last use; `size` of all blobs, or None for no limit."""

    age: float
    size: int | None = None


@dataclass(frozen=True)
class Result:
    """A result to be swept.

    What it was, when it was used last, and the bytes that go with it, in the order of sweeping.
    """

    key: str
    kind: str
    target: str
    recipe: str
    used: float
    size: int


@dataclass(frozen=True)
class Sweep:
    """The results and blobs of a sweep.

    `total` is the size of all blobs before, `needed` of those that have to stay.
    """

    results: tuple[Result, ...]
    blobs: dict[str, int]
    """Of these results, of computed tensors and of nothing at all."""
    derived: tuple[str, ...]
    """Keys of computed tensors that go with their blobs."""
    files: dict[Path, int]
    """What crashes left, old quarantine, places that hold no more."""
    gone: tuple[Registered, ...]
    """Recipes that are missing, for the first time or for too long."""
    total: int
    needed: int
    building: bool

    @property
    def freed(self) -> int:
        return sum(self.blobs.values()) + sum(self.files.values())

    @property
    def unowned(self) -> int:
        """Bytes of blobs that go and belong to no result."""
        return sum(self.blobs.values()) - sum(result.size for result in self.results)


def _nothing(_recipe: Path) -> Iterable[tuple[str, str]]:
    return ()


def collect(
    store: Store,
    limits: Limits,
    *,
    delete: bool,
    targets_of: Callable[[Path], Iterable[tuple[str, str]]] = _nothing,
) -> Sweep:
    """Find what can go, and with `delete` let it go.

    `targets_of` yields (key, target) of what a recipe has made, to name results by.
    Raises StoreError when the cache can't be written.
    """
    if not delete:
        with _alone(store) as building:
            return _Survey(store, limits, building, targets_of).sweep()
    store.check_writable("nothing in it can be deleted")
    with _alone(store) as building, locked(store.sweep_lock):
        sweep = _Survey(store, limits, building, targets_of).sweep()
        _delete(store, sweep)
    return sweep


@contextmanager
def _alone(store: Store) -> Iterator[bool]:
    """Hold off new builds if none runs now; whether one does."""
    handle = None if store.read_only else try_lock(store.builds_lock)
    try:
        yield handle is None
    finally:
        if handle:
            handle.close()


class _Survey:
    """One look at the cache."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        building: bool,
        targets_of: Callable[[Path], Iterable[tuple[str, str]]],
    ) -> None:
        self.store, self.limits, self.building = store, limits, building
        self.targets_of = targets_of
        self.now = time.time()
        self.registered = gc_roots.all_registered(store)
        self.running = list(_running(store))
        # Without builds nothing is on its way into the cache.
        self.young = (
            min([self.now - DAY, *(time_of(folder) for folder in self.running)])
            if building
            else math.inf
        )
        self.blobs = {path.name: path.stat() for path in store.blobs()}
        self.traces: dict[str, Trace] = {}
        self.used: dict[str, float] = {}
        self._closures: dict[str, frozenset[str]] = {}
        traces = Traces(store)
        for key in traces.keys():  # noqa: SIM118
            if trace := traces.read(key):
                self.traces[key], self.used[key] = trace, time_of(traces.file(key))
            elif traces.is_later(key):
                # Which blobs it needs, only that version knows.
                hint = "sweep it with the latest version that uses it"
                raise StoreError(
                    "the cache holds results of a later version of olivebuild",
                    where=str(traces.file(key)),
                    hint=hint,
                )
        self.derived = Derived(store).rows()

    def sweep(self) -> Sweep:
        kept = self._kept()
        needed = self._needed(kept)
        others = sorted(
            (key for key in self.traces if key not in kept), key=lambda key: self.used[key]
        )
        chosen, loose = self._choose(others, needed)
        results, gone = self._results(others, chosen, needed)
        swept = gone | {name: self._size(name) for name in loose}
        remaining = self.blobs.keys() - swept.keys()
        derived = tuple(
            key
            for key, blobs in self.derived.items()
            if not blobs or not remaining.issuperset(blob for blob, _ in blobs)
        )
        total, held = (sum(map(self._size, names)) for names in (self.blobs, needed))
        return Sweep(
            results,
            swept,
            derived,
            self._leftovers().files(),
            tuple(self._gone()),
            total,
            held,
            self.building,
        )

    def _needed(self, kept: set[str]) -> set[str]:
        """Return the blobs of the results that stay, of running steps and of the last day."""
        needed = self._read_by_steps()
        for key in kept:
            needed |= self._blobs_of(self.traces[key].manifest)
        return needed | {name for name, stat in self.blobs.items() if stat.st_mtime >= self.young}

    def _kept(self) -> set[str]:
        """The keys of results that are needed."""
        keys = {
            key for one in self.registered if not self._is_over(one) for key in one.keys.values()
        }
        keys |= {folder.name[:32] for folder in self.running}
        return {key for key in self.traces if key in keys or self.used[key] >= self.young}

    def _is_over(self, one: Registered) -> bool:
        return not one.exists and bool(one.gone) and self.now - one.gone > GRACE

    def _gone(self) -> Iterator[Registered]:
        for one in self.registered:
            if self._is_over(one) or (not one.exists and not one.gone):
                yield one

    def _read_by_steps(self) -> set[str]:
        manifests: set[str] = set()
        for folder in self.running:
            with suppress(OSError, ValueError, TypeError, KeyError):
                # The action that runs there, as its worker was handed it.
                action = read_json(folder / "out.json")
                manifests |= {
                    blob
                    for entry in action["inputs"].values()
                    for blob in self._blobs_of(entry["manifest"])
                }
        return manifests

    def _blobs_of(self, manifest: str) -> frozenset[str]:
        """A manifest, and every blob that it takes to make its folder."""
        if manifest and manifest not in self._closures:
            blobs = {manifest}
            # Against a manifest that names itself.
            self._closures[manifest] = frozenset(blobs)
            with suppress(OSError, ValueError):
                read = Manifest.from_json(opening.read(self.store.path(manifest)))
                blobs |= {blob for entry in read.files for blob, _ in entry.runs()}
                for merge in read.merges:
                    blobs |= self._blobs_of(merge.adapter)
            self._closures[manifest] = frozenset(blobs)
        return self._closures.get(manifest, frozenset())

    def _choose(self, others: list[str], needed: set[str]) -> tuple[set[str], set[str]]:
        """Return what goes: (keys of results, blobs of none).

        What is old goes first; then, while the rest is too large, what was not used for longest.
        """
        old = {key for key in others if self.now - self.used[key] > self.limits.age}
        owned = {blob for key in self.traces for blob in self._blobs_of(self.traces[key].manifest)}
        computed = {blob for blobs in self.derived.values() for blob, _ in blobs} - owned - needed
        loose = self.blobs.keys() - owned - computed - needed
        for name in computed & self.blobs.keys():
            if self.now - self.blobs[name].st_mtime > self.limits.age:
                loose.add(name)
        if self.limits.size is not None:
            self._shrink(self.limits.size, others, needed, computed, (old, loose))
        return old, loose

    def _shrink(
        self,
        limit: int,
        others: list[str],
        needed: set[str],
        computed: set[str],
        chosen: tuple[set[str], set[str]],
    ) -> None:
        """Add to `chosen` (keys, blobs) until what is left has at most `limit` bytes."""
        old, loose = chosen
        left = (
            sum(map(self._size, self.blobs))
            - sum(map(self._size, loose))
            - sum(result.size for result in self._results(others, old, needed)[0])
        )
        # A computed tensor costs less to make again than any result.
        for name in sorted(
            computed & self.blobs.keys() - loose, key=lambda name: self.blobs[name].st_mtime
        ):
            if left > limit:
                loose.add(name)
                left -= self._size(name)
        rest = [key for key in others if key not in old]
        for result in self._results(others, {*old, *rest}, needed)[0]:
            if left > limit and result.key not in old:
                old.add(result.key)
                left -= result.size

    def _results(
        self, others: list[str], chosen: set[str], needed: set[str]
    ) -> tuple[tuple[Result, ...], dict[str, int]]:
        """Return the chosen ones in order, each with what goes when it does.

        These are blobs that neither the needed nor the remaining ones have.
        """
        holders = Counter(
            blob for key in others for blob in self._blobs_of(self.traces[key].manifest)
        )
        names, results, gone = self._names, [], {}
        for key in (key for key in others if key in chosen):
            freed = 0
            for blob in self._blobs_of(self.traces[key].manifest):
                holders[blob] -= 1
                if not holders[blob] and blob not in needed and blob in self.blobs:
                    gone[blob] = self._size(blob)
                    freed += gone[blob]
            target, recipe = names.get(key, ("", ""))
            results.append(
                Result(key, self.traces[key].kind, target, recipe, self.used[key], freed)
            )
        return tuple(results), gone

    @cached_property
    def _names(self) -> dict[str, tuple[str, str]]:
        """Return key -> (target, recipe), as far as the registered recipes' histories tell."""
        return {
            key: (target, one.recipe)
            for one in self.registered
            for key, target in self.targets_of(Path(one.recipe))
        }

    def _size(self, blob: str) -> int:
        return self.blobs[blob].st_size if blob in self.blobs else 0

    def _leftovers(self) -> Leftovers:
        return Leftovers(
            store=self.store,
            running=tuple(self.running),
            downloads={Path(self.traces[key].reference).parent for key in self._kept()},
            age=self.limits.age,
            young=self.young,
            now=self.now,
        )


def _running(store: Store) -> Iterator[Path]:
    """The scratch folders of steps that run: their keys are locked."""
    for folder in (store.root / "tmp").glob("*-*"):
        key = folder.name.partition("-")[0]
        if len(key) == 32 and not store.read_only:
            handle = try_lock(store.lock_file(key))
            if handle:
                handle.close()
            else:
                yield folder


def _delete(store: Store, sweep: Sweep) -> None:
    traces = Traces(store)
    for result in sweep.results:
        traces.forget(result.key)
    Derived(store).drop(sweep.derived)
    for blob in sweep.blobs:
        # What can't be deleted must not count as freed.
        trees.delete(store.root, store.path(blob), ignore_errors=False)
    for path in sweep.files:
        trees.delete(
            next(root for root in (store.root, compiled.root()) if path.is_relative_to(root)), path
        )
    for one in sweep.gone:
        if one.gone:
            gc_roots.file_of(store, one.recipe).unlink(missing_ok=True)
        else:
            gc_roots.write(store, replace(one, gone=int(time.time())))
