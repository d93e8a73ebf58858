"""Parts of a remote source that a step wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Look = Callable[[Path], None]
"""Raises InputError for a folder that may not be used."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Parts of a source that a step reads.

    `dataset`: files of rows, else a model's. `also`: patterns of files wanted besides a model's.
    `look` checks a folder before its large files come.
    """

    dataset: bool = False
    also: Sequence[str] = ()
    look: Look | None = None
