"""A look at a source of rows: its files, its splits, and so many rows as tell what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.data import folders
from olivebuild.data.readers import READERS, read_file

MOST_ROWS = 50_000
"""Rows that are looked at."""
WILD = "*?["
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a source holds.

    `files` are those of the rows to train, `tests` those of a split that the source has itself;
    they are relative to the folder that was looked in.
    """

    files: tuple[str, ...]
    rows: Sequence[dict[str, Any]]
    is_whole: bool
    """Whether all rows were looked at."""
    split: str | None = None
    """The split of the rows, where the source has several."""
    test_split: str | None = None
    tests: tuple[str, ...] = ()
    test_rows: Sequence[dict[str, Any]] = ()
    notes: tuple[str, ...] = field(default=())
    """What was guessed, and what was not taken."""


def look(folder: Path, shown: str, subset: str | None = None) -> Look:
    """Return a look at a file, a folder or a pattern of files below `folder`.

    Raises InputError where nothing is there, or what is there can't be read.
    """
    path = folder / shown
    if path.is_dir():
        return look_in(path, shown, subset)
    if subset is not None:
        raise InputError(f"--subset {subset}: it is not a folder", hint="leave it out", where=shown)
    if path.suffix.lower() in SPREADSHEETS:
        raise InputError(
            f"a spreadsheet ({path.suffix}) is not read",
            where=shown,
            hint="save its sheet as CSV; any separator and encoding will do",
        )
    names = [shown] if path.is_file() else _matching(folder, shown)
    if not names:
        raise InputError(
            "there is no such file or folder",
            where=shown,
            hint="--data is relative to the folder of the recipe; a data set of the hub is "
            "written hf:OWNER/NAME",
        )
    notes: list[str] = []
    rows, is_whole = _rows([folder / name for name in names], names, notes)
    return Look(files=tuple(names), rows=rows, is_whole=is_whole, notes=tuple(notes))


def look_in(folder: Path, shown: str, subset: str | None = None) -> Look:
    """Return a look at a folder, which may have several subsets and splits."""
    if not folders.data_files_in(folder):
        raise InputError(
            "there are no data files in this folder",
            where=shown,
            hint=f"read are {', '.join(READERS)}",
        )
    _check_subset(folder, shown, subset)
    splits = folders.splits_of(folder, subset)
    split, tested = (splits[0], splits[1]) if len(splits) > 1 else (None, None)
    notes: list[str] = []
    files = _files(folder, subset, split)
    tests = _files(folder, subset, tested) if tested else []
    rows, is_whole = _rows(files, _shown(files, folder, shown), notes)
    test_rows, _ = _rows(tests, _shown(tests, folder, shown), []) if tests else ([], True)
    notes += [f"the split {name} is not used" for name in splits[2:]]
    others = {*folders.data_files_in(folder)} - {*files, *tests}
    for name in splits[2:]:
        others -= {*_files(folder, subset, name)}
    if others and subset is None:
        listed = sorted(p.relative_to(folder).as_posix() for p in others)
        notes.append(f"not read: {', '.join(listed[:5])}{' ...' if len(listed) > 5 else ''}")
    return Look(
        files=tuple(p.relative_to(folder).as_posix() for p in files),
        tests=tuple(p.relative_to(folder).as_posix() for p in tests),
        rows=rows,
        test_rows=test_rows,
        is_whole=is_whole,
        split=split,
        test_split=tested,
        notes=tuple(notes),
    )


def subsets(folder: Path) -> list[str]:
    """Return the subsets of a folder between which has to be chosen; none where one is meant."""
    names = folders.subsets_of(folder)
    return [] if len(names) < 2 or "default" in names else names


def _check_subset(folder: Path, shown: str, subset: str | None) -> None:
    names = subsets(folder)
    if subset is None and names:
        raise InputError(
            f"the folder has several subsets: {', '.join(names)}",
            where=shown,
            hint=f"choose one: --subset {names[0]}",
        )


def _files(folder: Path, subset: str | None, split: str | None) -> list[Path]:
    """Return the files that a build reads."""
    if subset is None and split is None:
        return folders.of_train(folders.data_files_in(folder), folder, lambda _: None)
    return folders.chosen(folder, subset, split)


def _matching(folder: Path, shown: str) -> list[str]:
    """Return the files of a pattern; none where the text is none."""
    if not any(c in shown for c in WILD):
        return []
    names = sorted(glob(shown, root_dir=folder, recursive=True))
    return [name for name in names if (folder / name).is_file()]


def _shown(files: Sequence[Path], folder: Path, shown: str) -> list[str]:
    return [f"{shown.rstrip('/')}/{p.relative_to(folder).as_posix()}" for p in files]


def _rows(
    files: Sequence[Path], names: Sequence[str], notes: list[str]
) -> tuple[list[dict[str, Any]], bool]:
    """Return the first rows of some files, and whether those are all.

    Raises InputError for what can't be read, and where there is no row.
    """

    def read() -> Iterator[dict[str, Any]]:
        for file, name in zip(files, names, strict=True):
            for row in read_file(file, name, notes.append):
                yield row.columns

    every = read()
    rows = list(islice(every, MOST_ROWS))
    if not rows:
        raise InputError("there are no rows", where=names[0], hint="is it a data file of rows?")
    return rows, next(every, None) is None
