"""Small files that stand for more than memory holds, and lines longer than any use: one error with its place, before the memory is taken."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.errors import InputError
from olivebuild.steps._reading import read_file

MOST = 400 << 20
"""Bytes that reading a file may take before it is refused."""


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST
        assert pa.total_allocated_bytes() - before < MOST
    finally:
        tracemalloc.stop()


def refused(path: Path, fact: str) -> InputError:
    with little_memory(), pytest.raises(InputError, match=fact) as caught:
        for _ in read_file(path, path.name):
            pass
    return caught.value


def repeated(value: str, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, "int32")), pa.array([value]))


PARQUET = {
    "many rows": lambda: {"text": repeated("x", 2_000_000)},
    "long values": lambda: {"text": repeated("x" * (1 << 20), 50_000)},
    "in structs in lists": lambda: {
        "messages": pa.ListArray.from_arrays(
            pa.array(np.arange(0, 50_001, 5, "int32")), pa.StructArray.from_arrays([repeated("x" * (1 << 20), 50_000)], ["content"])
        )
    },
    "a long list": lambda: {"numbers": pa.ListArray.from_arrays([0, 12_000_000], pa.array(np.zeros(12_000_000, "int8")))},
}


@pytest.mark.parametrize("what", PARQUET)
def test_a_parquet_file_whose_rows_would_fill_the_memory(tmp_path: Path, what: str) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table(PARQUET[what]()), file, compression="zstd")
    assert file.stat().st_size < 1 << 20
    error = refused(file, "the rows of the file take more than 200 times its size")
    assert str(error.where) == "rows.parquet"


def test_rows_of_parquet_that_repeat_themselves_are_read(tmp_path: Path) -> None:
    """A system prompt that all rows share, roles, labels: written once, and read as often as they stand there."""
    rows = [
        {"label": "ab"[i % 2], "raw": b"%d" % i, "messages": [{"role": "system", "content": "s" * 3000}, {"role": "user", "content": f"{i} ä"}]}
        for i in range(5000)
    ]
    rows[7] |= {"label": None, "messages": []}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert [row.columns for row in read_file(tmp_path / "rows.parquet", "rows.parquet")] == rows


def test_rows_that_a_packed_file_repeats(tmp_path: Path) -> None:
    """Each row takes more than its text."""
    with pa.CompressedOutputStream(tmp_path / "rows.jsonl.zst", "zstd") as out:
        for _ in range(20):
            out.write(b"{}\n" * 10_000)
    refused(tmp_path / "rows.jsonl.zst", "unpacks to more than 200 times its size")


@pytest.mark.parametrize("start", [b'{"text": "', b"\xe9"])
def test_a_line_longer_than_any_row(tmp_path: Path, start: bytes) -> None:
    """Also where the file is no UTF-8, and its encoding is looked for line by line."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(json.dumps({"text": "a"}).encode() + b"\n" + start)
    os.truncate(file, 200 << 20)
    assert str(refused(file, "a line of more than 64 MiB").where) == "rows.jsonl:2"


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,label\na,b\n"open,' + ("a" * 9999 + "\n") * 7000)
    error = refused(tmp_path / "rows.csv", "a value of more than 64 MiB")
    assert (str(error.where), error.hint) == ("rows.csv:3", "is its quote never closed?")
