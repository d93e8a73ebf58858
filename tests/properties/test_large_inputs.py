"""Small files that stand for more than memory holds, and lines longer than any use: one error with
its place, before the memory is taken.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.readers import read_file
from tests.conftest import RECIPE, Place, rows, write_rows

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
            pa.array(np.arange(0, 50_001, 5, dtype=np.int32)),
            pa.StructArray.from_arrays([repeated("x" * (1 << 20), 50_000)], ["content"]),
        )
    },
    "a long list": lambda: {
        "numbers": pa.ListArray.from_arrays([0, 12_000_000], pa.array(np.zeros(12_000_000, "int8")))
    },
}


@pytest.mark.parametrize("what", PARQUET)
def test_a_parquet_file_whose_rows_would_fill_the_memory(tmp_path: Path, what: str) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table(PARQUET[what]()), file, compression="zstd")
    assert file.stat().st_size < 1 << 20
    error = refused(file, "the rows of the file take more than 200 times its size")
    assert str(error.where) == "rows.parquet"


def test_rows_of_parquet_that_repeat_themselves_are_read(tmp_path: Path) -> None:
    """A system prompt that all rows share, roles, labels: written once, and read as often as they
    stand there.
    """
    rows_written: list[dict[str, Any]] = [
        {
            "label": "ab"[i % 2],
            "raw": b"%d" % i,
            "messages": [
                {"role": "system", "content": "s" * 3000},
                {"role": "user", "content": f"{i} ä"},
            ],
        }
        for i in range(5000)
    ]
    rows_written[7] |= {"label": None, "messages": []}
    pq.write_table(pa.Table.from_pylist(rows_written), tmp_path / "rows.parquet")
    assert [
        row.columns for row in read_file(tmp_path / "rows.parquet", "rows.parquet")
    ] == rows_written


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


# The small files of a project and of a model

DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
SMALL = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


@pytest.fixture
def model(place: Place, tiny_model: Path) -> Place:
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE)
    return place


def planned(place: Place) -> tuple[int, str]:
    done = place.run("plan")
    assert "Traceback" not in done.err
    return done.code, done.err


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_of_a_model_that_is_not_small(model: Place, name: str) -> None:
    """8 GB of zeros, which take no room."""
    file = model.folder / "tiny" / name
    if name.endswith(".index.json"):
        (model.folder / "tiny/model.safetensors").rename(
            model.folder / "tiny/model-00001-of-00001.safetensors"
        )
    file.write_bytes(b"")
    os.truncate(file, 8 << 30)
    code, said = planned(model)
    assert code == 1
    assert "olivebuild.yaml:3:" in said
    assert name in said
    assert "8192 MiB, which is more than any such file needs" in said


@pytest.mark.parametrize("name", [*SMALL, "special_tokens_map.json", "model.safetensors"])
def test_a_file_of_a_model_that_is_nested_without_end(model: Place, name: str) -> None:
    """Readers that take no such file say so at once; what others would not take is left to them."""
    file = model.folder / "tiny" / name
    if name.endswith(".index.json"):
        (model.folder / "tiny/model.safetensors").rename(
            model.folder / "tiny/model-00001-of-00001.safetensors"
        )
    text = DEEP.encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text if name.endswith(".safetensors") else text)
    code, said = planned(model)
    if name in ("config.json", "model.safetensors.index.json", "model.safetensors"):
        assert code == 1
        assert "nested too deep" in said


@pytest.mark.parametrize("name", ["olivebuild.yaml", "olivebuild.lock"])
def test_a_recipe_and_a_lock_file_are_not_read_when_they_are_long(model: Place, name: str) -> None:
    (model.folder / name).touch()
    os.truncate(model.folder / name, 8 << 30)
    code, said = planned(model)
    assert code == 2
    assert said.startswith(f"{name}: error: ")
    assert "8192 MiB" in said
    if name.endswith(".lock"):
        (model.folder / name).write_text(DEEP)
        code, said = planned(model)
        assert (code, "nested too deep" in said) == (2, True)
