"""Data files as they are found: formats, packing, encodings and delimiters."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.core.errors import InputError
from tests.data.test_conversation import CALL, Q
from tests.support.rows import read


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


ROWS = [{"text": f"Zoë sent {n}", "label": "a"} for n in range(3)]


JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.ndjson", JSONL.encode(), ""),
        ("a.json", json.dumps({"data": ROWS}).encode(), ""),
        (
            "a.json",
            json.dumps({"features": ["text"], "data": ROWS}).encode(),
            "features is not read",
        ),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0), ""),
        ("A.JSONL.GZ", gzip.compress(JSONL.encode(), mtime=0) + gzip.compress(b"", mtime=0), ""),
        ("a.csv.zst", zstd(CSV.encode()), ""),
        ("a.json.zst", zstd(json.dumps(ROWS).encode()), ""),
        ("a.tsv.gz", gzip.compress(CSV.replace(",", "\t").encode(), mtime=0), ""),
        ("a.csv", CSV.replace(",", ";").encode(), "separated by semicolons"),
        ("a.csv", CSV.replace(",", "\t").encode(), "separated by tabs"),
        ("a.tsv", CSV.encode(), "separated by commas"),
        ("a.csv", b"sep=;\r\n" + CSV.replace(",", ";").encode(), "separated by semicolons"),
        ("a.csv", codecs.BOM_UTF8 + CSV.encode(), ""),
        ("a.csv", CSV.encode("utf-16"), "UTF-16"),
        ("a.csv", codecs.BOM_UTF16_BE + CSV.encode("utf-16-be"), "UTF-16"),
        ("a.jsonl", JSONL.encode("utf-16"), "UTF-16"),
        ("a.csv", CSV.encode("cp1252"), "Windows-1252"),
        (
            "a.csv.gz",
            gzip.compress(CSV.replace(",", ";").encode("cp1252"), mtime=0),
            "Windows-1252",
        ),
    ],
)
def test_rows_are_read_as_programs_write_them(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    rows, notes = read(tmp_path / name)
    assert rows == ROWS
    assert said in " ".join(notes)
    assert bool(notes) == bool(said)


@pytest.mark.parametrize(
    ("name", "data", "fact"),
    [
        (
            "a.csv",
            "text,label\n\u043f\u0440\u0438\u0432\u0435\u0442,a\n".encode("cp1251"),
            "not UTF-8 text",
        ),
        ("a.csv", "text,label\n日本語のテキスト,a\n".encode("shift-jis"), "not UTF-8 text"),
        ("a.csv", "text,label\nZoë,a\n".encode() + b"Zo\xeb,b\n", "not UTF-8 text"),
        ("a.csv", CSV.encode()[:-10] + b"\xc3", "not UTF-8 text"),
        ("a.csv", codecs.BOM_UTF16_LE + b"a\0b", "not UTF-16 text"),
        (
            "a.jsonl.gz",
            gzip.compress(JSONL.encode(), mtime=0)[:-12],
            "the packed file can't be read",
        ),
        ("a.jsonl.gz", JSONL.encode(), "the packed file can't be read"),
        ("a.jsonl.zst", zstd(JSONL.encode())[:-9], "the packed file can't be read"),
        ("a.jsonl.zst", b"no zstd at all", "the packed file can't be read"),
        ("a.json", b'{"a": 1e400}', "not valid JSON: the number 1e400 is too large"),
        ("a.jsonl", b'{"a": [-1e999]}', "not valid JSON: the number -1e999 is too large"),
        (
            "a.json",
            b'{"text": ["a"], "label": ["b"]}',
            "not a list of rows but of columns: text, label",
        ),
        (
            "a.jsonl",
            gzip.compress(JSONL.encode(), mtime=0),
            "the file is packed, and its name does not say so",
        ),
        ("a.csv", zstd(CSV.encode()), "the file is packed, and its name does not say so"),
        ("a.jsonl", JSONL.encode("utf-16-le"), "it may be UTF-16 without a byte order mark"),
        ("a.csv", CSV.encode("utf-16-be"), "it may be UTF-16 without a byte order mark"),
        ("a.parquet.gz", b"", "files of type .gz are not read"),
    ],
)
def test_what_can_not_be_read_rightly_is_an_error(
    tmp_path: Path, name: str, data: bytes, fact: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=fact) as caught:
        read(tmp_path / name)
    assert str(caught.value.where).startswith(name)


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.json.zst", zstd)])
def test_a_packed_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack(b" " * (100 << 20)))
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        read(tmp_path / name)


def test_a_comma_in_a_text_makes_no_other_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nfirst; second\nthird; fourth\n")
    assert read(tmp_path / "a.csv") == ([{"text": "first; second"}, {"text": "third; fourth"}], [])


def test_structs_of_parquet_lose_what_stands_there_for_other_rows(tmp_path: Path) -> None:
    chat = [
        Q | {"content": None, "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    pq.write_table(pa.table({"m": [chat]}), tmp_path / "a.parquet")
    (row,), _ = read(tmp_path / "a.parquet")
    assert row["m"] == [{"role": "user"}, {"role": "assistant", "tool_calls": [CALL]}]
