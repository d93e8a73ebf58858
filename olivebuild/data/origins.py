"""Origins of the rows of a data set in its files, for what is told of rows.

And how many of them may be dropped.

They lie in a file of their own that no digest counts: a row that moves is the same row, and nothing
is trained anew for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from olivebuild.core.errors import Where

NAME = "origins.parquet"
DEFAULT_MAX_DROPPED = 0.05


@dataclass(frozen=True)
class Origins:
    """The origins of a split's rows, in their order: `data/rows.jsonl:12`.

    None for a data set that does not tell.
    """

    rows: Sequence[str] = ()
    max_dropped: float = DEFAULT_MAX_DROPPED

    def of(self, row: int) -> Where | None:
        return Where(self.rows[row]) if row < len(self.rows) else None


def write(folder: Path, splits: Mapping[str, Sequence[str]], max_dropped: float) -> None:
    """`splits`: the origins of train's rows and of test's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "split": [name for name, rows in splits.items() for _ in rows],
        "origin": [origin for rows in splits.values() for origin in rows],
    }
    schema = pa.schema(
        [(name, pa.string()) for name in columns], metadata={"max_dropped": repr(max_dropped)}
    )
    pq.write_table(pa.table(columns, schema=schema), folder / NAME, compression="zstd")


def origins_of(path: str | Path) -> Origins:
    """The origins of the rows in a data set's train.parquet or test.parquet."""
    import pyarrow.parquet as pq

    file = Path(path).with_name(NAME)
    if not file.is_file():
        return Origins()
    table = pq.read_table(file, filters=[("split", "=", Path(path).stem)])
    return Origins(
        table.column("origin").to_pylist(), float((table.schema.metadata or {})[b"max_dropped"])
    )
