"""The disk and the machine as they are now.

Digests of the files a recipe names, library versions, the machine.

One scan is one view: what was looked at once is not looked at again, so that all keys of a build
speak of the same moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.api.node import FileInput, Node
from olivebuild.core import hashing, host, numerics
from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs import links, portable_names
from olivebuild.core.fs.files import Stat, files_below, stat_of
from olivebuild.core.fs.small_files import special
from olivebuild.core.hashing import StatMemo
from olivebuild.formats.mlflow import view
from olivebuild.formats.weight_files import folders_in, model_digest
from olivebuild.planner.patterns import matching, plain, split, where_more_may_come
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.lockfile import Lockfile

if TYPE_CHECKING:
    from olivebuild.planner.scripts import Reading


BROUGHT = ("adapter", "onnx", "onnx-adapter", "dataset")
"""Kinds whose folders are published or learnt from: no link may lead out of one.

A command's files are its own affair.
"""


class Scan:
    def __init__(
        self, recipe: Recipe, memo: StatMemo, lock: Lockfile, state: Path | None = None
    ) -> None:
        """Begin a scan; `state`: the folder for what may be deleted when no build runs."""
        self.recipe = recipe
        self._state = state or recipe.folder / ".olivebuild"
        self.memo = memo
        self.lock = lock
        self._files: dict[Path, str] = {}
        self._paths: dict[tuple[str, str], list[Path]] = {}
        self._matches: dict[tuple[str, bool], list[Path]] = {}
        self._stats: dict[Path, Stat] = {}
        self._read: dict[str, set[Path]] = {}
        self._models: dict[tuple[str, Path], str] = {}
        self._places: dict[tuple[str, Path], Path] = {}
        self._libraries: dict[str, str] = {}
        self._machine: dict[str, str] = {}
        self._folders: set[Path] = set()
        self._programs: dict[str, Reading] = {}
        self._commands: dict[str, Node] = {}
        self._now: float | None = None
        self._asked: dict[str, set[Path]] = {}
        """node -> what the paths and patterns of its fields name, and where more may come."""

    @property
    def now(self) -> float:
        """The time of the first question for it, in seconds since 1970."""
        if self._now is None:
            self._now = time.time()
        return self._now

    def files(self, node: Node) -> list[tuple[str, str, str]]:
        """(label, value, path as the user wrote it) of each file that the node reads.

        Raises InputError when one is missing.
        """
        result = []
        for wanted in node.files:
            with self._readable(node, wanted.field):
                for i, path in enumerate(self.paths(node, wanted)):
                    if node.source and node.source.scheme == "gguf" and path.is_dir():
                        hint = (
                            "name a .gguf file; a Hugging Face folder is named without the scheme"
                        )
                        raise InputError(
                            f"{self.shown(path)} is a folder, not a file",
                            where=self._where(node, path),
                            hint=hint,
                        )
                    value = (
                        self._tree(node, path)
                        if path.is_dir()
                        else path.suffix.lower() + ":" + self._file(node, path)
                    )
                    result.append((f"{wanted.label}[{i}]", value, self.shown(path)))
        if node.program:
            with self._readable(node, ("run",)):
                modules = self.program(node).modules
                result += [
                    (f"module[{i}]", path.suffix + ":" + self._file(node, path), self.shown(path))
                    for i, path in enumerate(modules)
                ]
        return result

    def check(self, node: Node, wanted: FileInput) -> None:
        """Raises InputError when what a path or glob names is missing or is no file.

        Reads nothing: its content may change until the node's turn.
        """
        with self._readable(node, wanted.field):
            for path in self.paths(node, wanted):
                self._check_kind(node, path)

    def paths(self, node: Node, wanted: FileInput) -> list[Path]:
        """The files that a path or glob of the recipe names, sorted, as first seen.

        Raises InputError when there are none.
        """
        key = (node.name, wanted.label)
        if key not in self._paths:
            self._paths[key] = self._find(node, wanted)
        return self._paths[key]

    def _find(self, node: Node, wanted: FileInput) -> list[Path]:
        pattern, folder = wanted.pattern, self.recipe.folder
        matches = self._matches[pattern, wanted.optional] = matching(
            folder, pattern, literal=wanted.optional
        )
        fixed, wild = split(pattern)
        # Where a file may come that is not there yet.
        may_come = {folder / (pattern if wanted.optional else fixed)}
        if wild and not wanted.optional and matches != [folder / pattern]:
            may_come |= where_more_may_come(folder / fixed, wild)
        self._folders |= may_come
        self._asked[node.name] = self._asked.get(node.name, set()) | may_come | set(matches)
        if not matches and not wanted.optional:
            fact = "matches no file" if wild else "does not exist"
            where = self.recipe.where(node.target, wanted.field)
            raise InputError(
                f"{pattern} {fact}", where=where, hint=f"paths start at {plain(folder)}"
            )
        return matches

    def referenced(self, node: Node) -> Path:
        """Return the folder of a node's own model that is used where it lies.

        Raises InputError.
        """
        assert node.referenced_folder is not None
        folder = self.recipe.folder / node.referenced_folder
        if (node.name, folder) not in self._places:
            where = self.recipe.where(node.target, ("source",))
            with self._readable(node, ("source",)):
                place = view.plain(
                    folder,
                    self._state / links.VIEWS,
                    trust=node.trusts_remote_code,
                    where=where,
                    note=lambda path: self._note(node, path),
                )
            self._places[node.name, folder] = place
        return self._places[node.name, folder]

    def model(
        self, node: Node, folder: Path, *, code: bool, field: tuple[str | int, ...] = ("source",)
    ) -> str:
        """Return the content digest of a model folder that is referenced where it lies.

        `code`: its Python files are read, too.
        """
        if not folder.is_dir():
            self._matches[str(folder), False] = matching(folder, str(folder))
            self._folders.add(folder)
            where = self.recipe.where(node.target, field)
            raise InputError(
                f"{self.shown(folder)} is not a folder",
                where=where,
                hint=f"paths start at {plain(self.recipe.folder)}",
            )
        if (node.name, folder) not in self._models:
            with self._readable(node, field):
                # A file that is added changes the folder's own times.
                for parent in (folder, *folders_in(folder)):
                    links.check(
                        folder, sorted(parent.iterdir()), self.recipe.where(node.target, field)
                    )
                    self._note(node, parent)
                    for path in filter(Path.is_file, parent.iterdir()):
                        self._note(node, path)
                self._models[node.name, folder] = self.model_at(folder, code=code)
        return self._models[node.name, folder]

    @contextlib.contextmanager
    def _readable(self, node: Node, field: tuple[str | int, ...]) -> Iterator[None]:
        """Tell what can't be read with the place in the recipe that names it.

        The fact has the file.
        """
        try:
            yield
        except InputError as e:
            where = self.recipe.where(node.target, field)
            if e.where is None or e.where.file != where.file:
                place = self.shown(Path(e.where.file)) if e.where else ""
                raise InputError(
                    f"{place}: {e.fact}" if place else e.fact, where=where, hint=e.hint
                ) from None
            raise
        except OSError as e:
            where = self.recipe.where(node.target, field)
            place = (
                self.shown(Path(os.fsdecode(e.filename)))
                if isinstance(e.filename, str | bytes)
                else "a file"
            )
            hint = (
                "may you read it?"
                if isinstance(e, PermissionError)
                else "was it deleted meanwhile, or is the disk failing?"
            )
            raise InputError(
                f"{place} can't be read: {(e.strerror or str(e)).lower()}", where=where, hint=hint
            ) from None

    def forget(self, node: Node) -> None:
        """A step has just made this node anew: what was seen of it before says nothing now."""
        for path in self._read.pop(node.name, set()):
            self._stats.pop(path, None)
        self._models = {key: value for key, value in self._models.items() if key[0] != node.name}

    def model_at(self, folder: Path, *, code: bool) -> str:
        """The content digest of a model folder as it is now."""
        return model_digest(folder, self.memo, code=code)

    def pin(self, node: Node) -> str | None:
        """Return the source part of a node with a remote source.

        "" when the source is not pinned yet; None without such a source.
        """
        source = node.source
        if source is None or not source.remote:
            return None
        pinned = self.lock.sources.get(source.text, "")
        return f"{pinned}!{source.member}" if pinned and source.member else pinned

    def libraries(self, node: Node) -> dict[str, str]:
        return {name: self.library(name) for name in node.libraries}

    def library(self, name: str) -> str:
        if name not in self._libraries:
            self._libraries[name] = host.installed(name) or self.lock.libraries.get(
                name, "not installed"
            )
        return self._libraries[name]

    def machine(self, node: Node) -> dict[str, str]:
        """Return what of the machine is in the node's key.

        For latency all of it, for `numerics: strict` what the bytes depend on.
        """
        if node.machine_bound and not self._machine:
            self._machine = host.timing_facts()
        strict = (
            {f"numerics.{name}": value for name, value in numerics.here(gpu=node.gpu).items()}
            if node.strict
            else {}
        )
        return (self._machine if node.machine_bound else {}) | strict

    def variables(self, node: Node) -> dict[str, str]:
        """Return what of the environment is in the node's key.

        Text of JSON, so that no value looks like none.
        """
        return {
            name: json.dumps(os.environ[name]) if name in os.environ else "not set"
            for name in node.keyed
        }

    def program(self, node: Node) -> Reading:
        """Return what the scripts of the node's command line read, as first seen."""
        if node.name not in self._programs:
            reading = self._programs[node.name] = self._read_program(node)
            self._commands[node.name] = node
            self._folders |= reading.looked
            self._asked[node.name] = (
                self._asked.get(node.name, set()) | reading.looked | {*reading.modules}
            )
        return self._programs[node.name]

    def _read_program(self, node: Node) -> Reading:
        # Only recipes with commands need it.
        from olivebuild.planner import scripts

        assert node.program
        return scripts.look(
            self.recipe.folder, node.program, str(node.fields["run"]), self.memo.digest
        )

    def seen_for(self, node: Node) -> dict[Path, Stat | None]:
        """Return the stats of all files and folders on which this scan's answers for a node depend.

        As they were when it looked.
        """
        stats: dict[Path, Stat | None] = {
            path: self._stats[path] for path in self._read.get(node.name, ())
        }
        for path in self._asked.get(node.name, set()) - stats.keys():
            try:
                stats[path] = stat_of(path)
            except OSError:
                stats[path] = None
        return stats

    def changed(self, node: Node) -> Path | None:
        """A file that the node reads and that is no longer as this scan saw it; None if all are."""
        for path in self._read.get(node.name, ()):
            try:
                if self._stats[path] != stat_of(path):
                    return path
            except OSError:
                return path
        return None

    def outdated(self) -> Path | None:
        """Something that is no longer as this scan saw it, found or missing; None if all is.

        A pattern counts by what it matches.
        """
        for path, seen in self._stats.items():
            try:
                if stat_of(path) != seen:
                    return path
            except OSError:
                return path
        for (pattern, literal), paths in self._matches.items():
            if (now := matching(self.recipe.folder, pattern, literal=literal)) != paths:
                return next(iter({*paths} ^ {*now}))
        for name, read in self._programs.items():
            if more := {*self._read_program(self._commands[name]).modules} ^ {*read.modules}:
                return next(iter(more))
        return None

    def depends_on(self) -> set[Path]:
        """Return all files and folders on which this scan's answers depend.

        Apart from libraries and the machine.
        """
        return (
            self._folders | set(self._stats) | {p for paths in self._paths.values() for p in paths}
        )

    def shown(self, path: Path) -> str:
        """Return a path as people write it.

        Relative to the recipe when it lies below, and without `..` where it can be said without.
        """
        if ".." in path.parts and (short := plain(path)).is_relative_to(
            folder := plain(self.recipe.folder)
        ):
            return short.relative_to(folder).as_posix()
        if path.is_relative_to(self.recipe.folder):
            return path.relative_to(self.recipe.folder).as_posix()
        return str(plain(path))

    def _note(self, node: Node, path: Path) -> None:
        """Remember how a file was before it is read.

        Raises InputError for what never ends, or may not be there to be read again.
        """
        self._check_kind(node, path)
        self._stats.setdefault(path, stat_of(path))
        self._read.setdefault(node.name, set()).add(path)

    def _check_kind(self, node: Node, path: Path) -> None:
        mode = path.stat().st_mode
        if kind := special(mode):
            raise InputError(
                f"{self.shown(path)} is {kind}, not a file",
                where=self._where(node, path),
                hint="write what it gives into a file",
            )
        if not portable_names.is_text(str(path)):
            hint = "rename it: its name goes into logs and reports"
            raise InputError(
                f"the name {str(path)!r} is not UTF-8 text",
                where=self._where(node, path),
                hint=hint,
            )

    def _where(self, node: Node, path: Path) -> Where:
        """The field of the recipe that a path belongs to."""
        shown = self.shown(path)
        field = next(
            (
                f.field
                for f in node.files
                if shown == f.pattern or shown.startswith(f"{split(f.pattern)[0].as_posix()}/")
            ),
            (),
        )
        return self.recipe.where(node.target, field)

    def _file(self, node: Node, path: Path) -> str:
        self._note(node, path)
        if path not in self._files:
            self._files[path] = self.memo.digest(path)
        return self._files[path]

    def _tree(self, node: Node, folder: Path) -> str:
        if node.kind in BROUGHT:
            links.check(folder, files_below(folder), self._where(node, folder))
        # A file that is added or removed changes its folder's own times.
        for parent in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            self._note(node, parent)
        # What lies behind a link to a folder is read, so it counts.
        files = files_below(folder)
        return hashing.of_json(
            [
                [
                    p.relative_to(folder).as_posix(),
                    self._tree(node, p) if p.is_dir() else self._file(node, p),
                ]
                for p in files
            ]
        )
