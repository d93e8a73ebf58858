"""The rows of parquet files, with values as a JSON file would have them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError, first_line
from olivebuild.data.limits import ROW_BYTES, share_of_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

VALUE_BYTES = 8


def rows_of(path: Path, shown: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of a file, in its order; `say` gets what numbers stand for.

    Raises InputError; also for a file whose rows would take far more memory than it is long.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    share = share_of_parquet(path, shown)
    try:
        with pq.ParquetFile(path) as file:
            share.take(_least(file.metadata))
            # What the file says once stays so until it is known how often it stands there.
            texts = [
                column.path
                for column in file.schema
                if column.physical_type == "BYTE_ARRAY"
                and column.logical_type.type in ("STRING", "NONE")
            ]
            for name, names in _named_values(file.schema_arrow.metadata or {}):
                say(
                    f"{shown}: the numbers of {name} stand for "
                    f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}; they are read as "
                    "numbers"
                )
            short = {
                field.name
                for field in file.schema_arrow
                if pa.types.is_float16(field.type) or pa.types.is_float32(field.type)
            }
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches():
                share.take(sum(_repeated(column) for column in batch.columns))
                for row in batch.to_pylist():
                    yield {name: _plain(value, name in short) for name, value in row.items()}
    except (pa.ArrowException, ValueError, OverflowError, OSError) as e:
        raise InputError(
            f"not a readable parquet file: {first_line(e)}",
            where=shown,
            hint="is the download complete?",
        ) from None


def _named_values(metadata: Mapping[bytes, bytes]) -> list[tuple[str, list[str]]]:
    """Columns whose whole numbers have names in what the library `datasets` keeps with a file."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [
            (name, [str(n) for n in f["names"]])
            for name, f in features.items()
            if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        ]
    return []


def _least(metadata: pq.FileMetaData) -> int:
    """Return what the rows take at least, as the file itself tells."""
    total = int(metadata.num_rows) * ROW_BYTES
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        total += sum(
            max(0, chunk.num_values) * VALUE_BYTES + max(0, chunk.total_uncompressed_size)
            for chunk in chunks
        )
    return total


def _repeated(column: pa.Array) -> int:
    """Bytes of the texts that a column names by their numbers, each as often as it stands there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.DictionaryArray):
        if not (
            pa.types.is_string(column.type.value_type) or pa.types.is_binary(column.type.value_type)
        ):
            return 0
        lengths = pc.cast(pc.binary_length(column.dictionary), pa.int64())
        return int(pc.sum(lengths.take(column.indices)).as_py() or 0)
    if isinstance(column, pa.StructArray):
        return sum(_repeated(column.field(i)) for i in range(column.type.num_fields))
    if isinstance(column, pa.MapArray):
        return _repeated(column.keys) + _repeated(column.items)
    if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _repeated(column.flatten())
    return 0


def _plain(value: Any, short: bool = False) -> Any:
    """Return a value as a JSON file would have it.

    NaN is none, and a number of few bits has few digits.
    """
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if short and math.isfinite(value):
            import numpy as np

            return float(str(np.float32(value)))
    if isinstance(value, list):
        return [_filled(v) for v in value]
    return _filled(value)


def _filled(value: Any) -> Any:
    """Structs without the fields that stand there because another row has them."""
    if isinstance(value, dict):
        return {k: _filled(v) for k, v in value.items() if v is not None and v == v}
    return [_filled(v) for v in value] if isinstance(value, list) else value
