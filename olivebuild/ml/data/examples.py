"""Rows of a data set: as read from a Parquet file, and as token ids to train on or to judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Table:
    """A split of a data set.

    `labels` are (label, completion) pairs; empty where labels are not a closed set. `path` is the
    file it was read from.
    """

    format: str
    rows: list[dict[str, str]]
    labels: list[tuple[str, str]]
    path: str = ""


@dataclass(frozen=True)
class Flaw:
    """The reason why a row is not trained on, or not as a whole.

    In the second case `length` is how many tokens the row has. A flaw that the data asks for itself
    is no fault.
    """

    why: str
    length: int = 0
    fault: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and a completion.

    Loss and likelihood count the completion alone, whose end token is part of it.
    """

    prompt: list[int]
    completion: list[int]
    flaw: Flaw | None = None


@dataclass(frozen=True)
class Tokens:
    """A row to train on: its ids (int32), and which of them the loss counts (bool).

    The first is never predicted. `attended` (bool) are the tokens that others attend to, where not
    all are.
    """

    ids: np.ndarray
    counted: np.ndarray
    flaw: Flaw | None = None
    attended: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def first(self) -> int:
        """The index of the first counted token, or the row's length."""
        indices = np.flatnonzero(self.counted)
        return int(indices[0]) if len(indices) else len(self)

    @property
    def end(self) -> int:
        """The index after the last counted token, or the row's length."""
        indices = np.flatnonzero(self.counted)
        return int(indices[-1]) + 1 if len(indices) else len(self)

    @property
    def labels(self) -> int:
        """The number of tokens that are predicted and counted."""
        return int(self.counted[1:].sum())

    @staticmethod
    def of(example: Example) -> Tokens:
        """Return an example as one row, of which the completion is counted."""
        ids = np.array([*example.prompt, *example.completion], np.int32)
        return Tokens(ids, np.arange(len(ids)) >= len(example.prompt), example.flaw)

    @staticmethod
    def none(flaw: Flaw) -> Tokens:
        """Return the empty row that stands for one with a flaw."""
        return Tokens(np.zeros(0, np.int32), np.zeros(0, bool), flaw)


def read_table(path: str | Path) -> Table:
    """Read a split of a data set from the Parquet file of a `dataset` step."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    labels = [(str(a), str(b)) for a, b in json.loads(metadata.get("labels", "[]"))]
    return Table(metadata["format"], table.to_pylist(), labels, str(path))
