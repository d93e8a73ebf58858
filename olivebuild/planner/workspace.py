"""The workspace of a recipe: the results in build/, and the state in .olivebuild/.

It knows manifests, not recipes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from olivebuild.cache.key import Reason
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.core.fs import modes, portable_names, swap, trees
from olivebuild.core.fs.files import files_below, stat_of, sweep_abandoned, wait_for_tick
from olivebuild.core.fs.locks import locked
from olivebuild.core.hashing import StatMemo
from olivebuild.core.journal import Journal
from olivebuild.core.values.strict_json import decode

LAST, STATS = "last.jsonl", "stats.jsonl"


class LastBuild(msgspec.Struct, frozen=True):
    """The last result of a node in this workspace: its key, the reasons for it, and a note."""

    key: str
    reasons: tuple[Reason, ...] = ()
    note: str = ""


class LastBuilds(MutableMapping[str, LastBuild]):
    """The last results of nodes by name, read when asked for, and written when changed."""

    def __init__(self, file: Path) -> None:
        self.journal = Journal(file)

    def __getitem__(self, node: str) -> LastBuild:
        data = self.journal.get(node)
        if data is None:
            raise KeyError(node)
        try:
            return decode(data, LastBuild)
        except ValueError:
            raise KeyError(node) from None

    def __setitem__(self, node: str, last: LastBuild) -> None:
        self.journal.set(node, msgspec.json.encode(last))

    def __delitem__(self, node: str) -> None:
        self.journal.forget(node)

    def __iter__(self) -> Iterator[str]:
        return (node for node in self.journal if node in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Workspace:
    """The folders of a recipe: `build` has results, `state` may be deleted when no build runs.

    `results`: the path of build/, if it is not in `folder`.
    """

    def __init__(self, folder: Path, stem: str = "", results: Path | None = None) -> None:
        self.folder = folder
        self._stem = stem
        self._results = results or folder / "build"
        self.build = self._results / stem
        self.state = folder / ".olivebuild" / stem
        # Next to what it is swapped with, since names are exchanged within a file system only.
        self.staging = (
            self.state / "tmp"
            if results is None
            else self._results / f".staging{stem and '-'}{stem}"
        )
        self.logs = self.state / "logs"
        self.memo = StatMemo(self.state / STATS)
        self.last = LastBuilds(self.state / LAST)

    def check(self) -> None:
        """Raise StoreError for a link, pipe or device in the place of a folder or file of ours.

        The target of a link is not ours to write or delete.
        """
        trees.check(self.folder, self.state, self.logs, self.state / "tmp")
        trees.check(self._results.parent, self.build, self.staging)
        for folder in {self.folder / ".olivebuild", self.state}:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as inside:
                entries = sorted(inside, key=lambda entry: entry.path)
                for entry in entries:
                    if entry.is_symlink():
                        raise trees.link_found(Path(entry.path))
                for entry in entries:
                    if not (entry.is_file() or entry.is_dir()):
                        raise _special_file(entry.path)

    def delete(self, path: Path) -> None:
        """Delete one of the paths of `own`. Raises OSError."""
        trees.delete(
            self._results.parent if self._results in (path, *path.parents) else self.folder,
            path,
            ignore_errors=False,
        )

    def own(self) -> list[Path]:
        """Return the paths in build/ and .olivebuild/ that belong to this recipe, to be deleted.

        The folders of other recipes there are left out.
        """
        others = self._other_recipes()
        paths: list[Path] = []
        for folder in (self.build, self.state):
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            mine = [path for path in entries if path.name not in others]
            if len(mine) < len(entries):
                paths += mine
            elif folder.exists():
                paths.append(folder)
        return paths

    def _other_recipes(self) -> set[str]:
        """Return the stems of the other recipes that have folders in those of the default one."""
        if self._stem:
            return set()
        stems = {path.parent.name for path in self.state.glob(f"*/{LAST}")}
        for path in self.folder.glob("*.yaml"):
            if (self.build / path.stem).is_dir() and path.stem not in self.last:
                stems.add(path.stem)
        return stems

    def shared_with_another(self, targets: Container[str]) -> str | None:
        """Return a target whose folder in build/ is also that of another recipe, if any."""
        with contextlib.suppress(OSError), os.scandir(self.state) as inside:
            for entry in inside:
                if (
                    entry.name in targets
                    and entry.is_dir()
                    and (self.folder / f"{entry.name}.yaml").is_file()
                ):
                    return entry.name
        return None

    def output_folder(self, target: str) -> Path:
        return self.build / target

    def differs(self, target: str, manifest: Manifest) -> Reason | None:
        """Return how build/<target> differs from a manifest; None if it does not."""
        place = self.output_folder(target)
        shown = place.relative_to(self.folder) if place.is_relative_to(self.folder) else place
        if place.is_symlink() or not place.is_dir():
            return Reason("output", shown.as_posix(), manifest.digest, "missing")
        there = {p.relative_to(place).as_posix(): p for p in files_below(place)}
        for entry in manifest.files:
            path, name = there.pop(entry.name, None), (shown / entry.name).as_posix()
            if path is None:
                return Reason("output", name, entry.digest, "missing")
            if path.is_symlink() or not path.is_file():
                return Reason("output", name, entry.digest, "not a file")
            if difference := self._file_differs(path, name, entry):
                return difference
        if there:
            return Reason(
                "output", (shown / min(there)).as_posix(), "nothing", "a file that no step made"
            )
        return None

    def _file_differs(self, path: Path, name: str, entry: Entry) -> Reason | None:
        """Return how a file differs from its entry, by size, mode and content."""
        stat = path.stat()
        if stat.st_size != entry.size:
            return Reason("output", name, f"{entry.size} bytes", f"{stat.st_size} bytes")
        if os.name == "posix" and bool(stat.st_mode & 0o100) != entry.executable:
            wanted = "executable" if entry.executable else "not executable"
            if modes.kept_in(self.build):
                return Reason("output", name, wanted, "mode changed")
        digest = self.memo.digest(path, entry.digest_of, entry.digest_kind)
        return None if digest == entry.digest else Reason("output", name, entry.digest, digest)

    def publish(self, target: str, manifest: Manifest, store: Store) -> None:
        """Put the manifest's files into build/<target>.

        Raises Damaged when the store can't give them.
        """
        staging = self.staging / target
        with self.lock():
            self._sweep()
            # Says why, where what an earlier one has left could not be swept.
            trees.delete(self.staging.parent, staging, ignore_errors=False)
            staging.mkdir(parents=True)
            try:
                self._swap_in(target, manifest, store, staging)
            finally:
                trees.delete(self.staging.parent, staging)

    def _swap_in(self, target: str, manifest: Manifest, store: Store, staging: Path) -> None:
        # What lies in build/ can be had again: where a boot can be told from the last, it is looked
        # at anew after one, and need not be synced.
        unsynced = hashing.boot() != ""
        store.restore(manifest, staging, sync=not unsynced)
        _check_apart(manifest, staging, self.output_folder(target))
        if self.differs(target, manifest) is None:
            # Another build was here first; a reader of its folder is not disturbed for an equal
            # one.
            return
        # Once the clock has ticked past the last write, a later change can't hide, and the digests
        # may be remembered.
        stats = {e.name: stat_of(staging / e.name) for e in manifest.files}
        wait_for_tick(self.state, max((max(s[3:]) for s in stats.values()), default=0))
        self.memo.start_scan()
        swap.replace_folder(staging, self.output_folder(target), self.staging / f"{target}.aside")
        for entry in manifest.files:
            self.memo.remember(
                self.output_folder(target) / entry.name,
                stats[entry.name],
                entry.digest,
                entry.digest_kind,
                until_boot=unsynced,
            )

    def _sweep(self) -> None:
        """Finish a swap that a crash interrupted, and delete incomplete files. The lock is held."""
        self.check()
        swap.finish(self.build, self.staging)
        for left in self.staging.glob("*"):
            trees.delete(self.staging.parent, left)

    def lock(self) -> AbstractContextManager[None]:
        """Lock build/ and .olivebuild/ against other builds."""
        return locked(self.state / "publish.lock")

    def recover(self) -> None:
        """Finish a swap that a crash interrupted, and delete incomplete files."""
        if self.staging.is_dir():
            with self.lock():
                self._sweep()
        sweep_abandoned(self.state)

    def log_of(self, node: str) -> Path:
        return self.logs / f"{node.replace(':', '.')}.log"

    def log_file(self, node: str) -> Path:
        """Return the log of a node's step, its folder made. Raises StoreError for a link there."""
        self.logs.mkdir(parents=True, exist_ok=True)
        file = self.log_of(node)
        if file.is_symlink():
            raise trees.link_found(file)
        if file.exists() and not file.is_file():
            raise _special_file(str(file))
        return file

    def remember(self, node: str, last: LastBuild) -> None:
        self.last[node] = last

    def save(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        ignore = self.folder / ".olivebuild" / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        with self.lock():
            self.last.journal.save(alone=True)
            self.memo.save(alone=True)


def _special_file(path: str) -> StoreError:
    return StoreError(
        "a pipe or a device stands where olivebuild keeps a file of its own",
        where=path,
        hint="delete it",
    )


def _check_apart(manifest: Manifest, folder: Path, place: Path) -> None:
    """Raise StoreError where two files of a manifest have become one in `folder`.

    Some file systems take names for equal that differ in case, or in how an accent is written.
    """
    alike = portable_names.clash(entry.name for entry in manifest.files)
    if alike and any(Path(n).name not in os.listdir((folder / n).parent) for n in alike):
        raise StoreError(
            f"{alike[0]!r} and {alike[1]!r} are one file on this file system",
            where=str(place),
            hint="call one of them something else, or let OLIVEBUILD_BUILD name a folder on a "
            "disk that tells them apart",
        )
