"""Rows: read with their lines, rendered by templates, and what is dropped is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivebuild.core.errors import InputError
from olivebuild.data.readers import read_file
from olivebuild.ml.data.rows import read_all
from olivebuild.steps.dataset import DatasetFields
from tests.support.rendering import job_of, read


@pytest.mark.parametrize(
    ("name", "data", "rows"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n\n  \n{"a": "x"}\n',
            [({"a": 1}, "a.jsonl:1"), ({"a": "x"}, "a.jsonl:4")],
        ),
        (
            "a.jsonl",
            '\ufeff{"a": 1}\r\n{"a": 2}',
            [({"a": 1}, "a.jsonl:1"), ({"a": 2}, "a.jsonl:2")],
        ),
        (
            "a.jsonl",
            '{"a": "x\u2028y\x85z"}\n{"a": 2}\n',
            [({"a": "x\u2028y\x85z"}, "a.jsonl:1"), ({"a": 2}, "a.jsonl:2")],
        ),
        ("a.ndjson", '{"a": 1}\n', [({"a": 1}, "a.ndjson:1")]),
        ("a.JSONL", '{"a": 1}\n', [({"a": 1}, "a.JSONL:1")]),
        (
            "a.json",
            '[{"a": 1}, {"b": null}]',
            [({"a": 1}, "a.json[0]"), ({"b": None}, "a.json[1]")],
        ),
        ("a.json", '{"version": 1, "rows": [{"a": 1}]}', [({"a": 1}, "a.json[0]")]),
        ("a.json", '{"a": 1}\n{"a": 2}\n', [({"a": 1}, "a.json:1"), ({"a": 2}, "a.json:2")]),
        ("a.json", "[]", []),
        ("a.csv", "a,b c\n1,2\n", [({"a": "1", "b c": "2"}, "a.csv:2")]),
        (
            "a.csv",
            '\ufeffa,b\r\n"x, y","say ""hi"""\r\n',
            [({"a": "x, y", "b": 'say "hi"'}, "a.csv:2")],
        ),
        (
            "a.csv",
            'a\n"two\nlines"\nnext\n',
            [({"a": "two\nlines"}, "a.csv:2"), ({"a": "next"}, "a.csv:4")],
        ),
        ("a.csv", "a,b\n\n1,2\n", [({"a": "1", "b": "2"}, "a.csv:3")]),
        ("a.csv", "", []),
        ("a.tsv", "a\tb\n1,5\t2\n", [({"a": "1,5", "b": "2"}, "a.tsv:2")]),
        ("a.TSV", "a\tb\n1,5\t2\n", [({"a": "1,5", "b": "2"}, "a.TSV:2")]),
        ("a.csv", "a\n" + "x" * 200_000 + "\n", [({"a": "x" * 200_000}, "a.csv:2")]),
    ],
)
def test_rows_are_read_with_their_lines(
    tmp_path: Path, name: str, data: str, rows: list[tuple[dict[str, object], str]]
) -> None:
    assert [(r.columns, str(r.where)) for r in read(tmp_path, name, data)] == rows


def test_parquet_is_read_with_the_number_of_the_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, None], "b c": ["x", "y"]}), tmp_path / "a.parquet")
    rows = [(r.columns, str(r.where)) for r in read_file(tmp_path / "a.parquet", "a.parquet")]
    assert rows == [
        ({"a": 1, "b c": "x"}, "a.parquet[0]"),
        ({"a": None, "b c": "y"}, "a.parquet[1]"),
    ]


ONE_A_LINE = "each line of a .jsonl file is one JSON object"


COMMA = "a value that holds a comma needs quotes"


QUOTE = "a quote inside a quoted value is doubled"


A_LIST = "a .json data file holds a list of objects"


UTF8 = "save the file as UTF-8"


FORMATS = (
    "known are .jsonl, .ndjson, .json, .csv, .tsv, .parquet; all but parquet also packed, as "
    ".gz or .zst"
)


@pytest.mark.parametrize(
    ("name", "data", "where", "fact", "hint"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n{"a" 2}\n',
            "a.jsonl:2:6",
            "not valid JSON: Expecting ':' delimiter",
            ONE_A_LINE,
        ),
        (
            "a.jsonl",
            '{"a": 1}\n\n{"a": 2\n',
            "a.jsonl:3:8",
            "not valid JSON: Expecting ',' delimiter",
            ONE_A_LINE,
        ),
        (
            "a.jsonl",
            '{"a": 1} {"a": 2}\n',
            "a.jsonl:1:10",
            "not valid JSON: Extra data",
            ONE_A_LINE,
        ),
        (
            "a.json",
            '[{"a": 1},\n {"a" 2}]',
            "a.json:2:7",
            "not valid JSON: Expecting ':' delimiter",
            "is the file whole?",
        ),
        (
            "a.json",
            '{"a": 1}\n{"a" 2}\n',
            "a.json:2:6",
            "not valid JSON: Expecting ':' delimiter",
            ONE_A_LINE,
        ),
        (
            "a.json",
            '[{"a": 1}]\n[{"a": 2}]\n',
            "a.json:2:1",
            "not valid JSON: Extra data",
            "is the file whole?",
        ),
        (
            "a.json",
            "3",
            "a.json",
            "not a list of rows",
            "a .json data file holds a list of objects",
        ),
        (
            "a.json",
            '{"x": [1], "y": [2]}',
            "a.json",
            "not a list of rows but of columns: x, y",
            A_LIST + ", each a row with its columns",
        ),
        (
            "a.json",
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            "a.json",
            "not a list of rows but 2: train, test",
            "make a file of one of train, test",
        ),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv:3", "1 values, the header has 2 columns", COMMA),
        ("a.csv", 'a,b\n"x\ny",2\n1,2,3\n', "a.csv:4", "3 values, the header has 2 columns", COMMA),
        ("a.csv", 'a,b\n1,2\n"x,2\n', "a.csv:3", "not valid CSV: unexpected end of data", QUOTE),
        ("a.csv", 'a,b\n1,"2"x\n', "a.csv:2", "not valid CSV: ',' expected after '\"'", QUOTE),
        (
            "a.csv",
            "a,a\n1,2\n",
            "a.csv:1",
            "a column name stands twice in the header",
            "rename one of them",
        ),
        ("a.txt", "x", "a.txt", "files of type .txt are not read", FORMATS),
        ("a", "x", "a", "files of type none are not read", FORMATS),
    ],
)
def test_a_malformed_file_is_told_with_its_line(
    tmp_path: Path, name: str, data: str, where: str, fact: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, data)
    assert (str(caught.value.where), caught.value.fact, caught.value.hint) == (where, fact, hint)


@pytest.mark.parametrize(
    ("name", "data", "where", "fact"),
    [
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl:2", "a row must be a JSON object"),
        ("a.jsonl", '{"a": 1}\n{"a": NaN}\n', "a.jsonl:2", "not valid JSON: NaN is not JSON"),
        (
            "a.jsonl",
            '{"a": 1, "a": 2}\n',
            "a.jsonl:1",
            "not valid JSON: the key 'a' is given twice",
        ),
        ("a.json", '[{"a": 1}, 2]', "a.json[1]", "a row must be a JSON object"),
        ("a.json", '[{"a": -Infinity}]', "a.json", "not valid JSON: -Infinity is not JSON"),
    ],
)
def test_an_odd_row_is_told(tmp_path: Path, name: str, data: str, where: str, fact: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, data)
    assert (str(caught.value.where), caught.value.fact) == (where, fact)


@pytest.mark.parametrize(("name", "lead"), [("a.jsonl", b'{"a": 1}\n'), ("a.csv", b"a\n1\n")])
@pytest.mark.parametrize("times", [1, 4000])
def test_bytes_that_are_no_text_are_told_with_their_line(
    tmp_path: Path, name: str, lead: bytes, times: int
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, lead * times + b"\xff\n")
    error = caught.value
    lines = (lead * times).count(b"\n") + 1
    assert error.fact.startswith("not UTF-8 text")
    assert (str(error.where).partition(":")[0], error.where and error.where.line, error.hint) == (
        name,
        lines,
        UTF8,
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_half_a_surrogate_pair_is_told(tmp_path: Path, name: str) -> None:
    text = '{"a": "\\ud83d"}'
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, text + "\n" if name == "a.jsonl" else f"[{text}]")
    assert str(caught.value.where).startswith(name)


@pytest.mark.parametrize("data", [b"", b"x", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_damaged_parquet_file_is_told(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, "a.parquet", data)
    assert str(caught.value.where) == "a.parquet"
    assert caught.value.fact.startswith("not a readable parquet file: ")


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("ms")])
def test_a_date_that_python_does_not_have_is_told(tmp_path: Path, kind: Any) -> None:
    pq.write_table(
        pa.table({"a": pa.array([2**31 - 1 if kind == pa.date32() else 2**62], kind)}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(InputError, match="not a readable parquet file: "):
        list(read_file(tmp_path / "a.parquet", "a.parquet"))


@settings(database=None, max_examples=200)
@given(st.sampled_from([".jsonl", ".json", ".csv", ".tsv"]), st.binary(max_size=60))
def test_arbitrary_bytes_are_rows_or_an_error_of_the_input(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: bytes
) -> None:
    try:
        rows = read(tmp_path_factory.getbasetemp(), "fuzz" + ending, data)
    except InputError:
        return
    assert all(isinstance(r.columns, dict) for r in rows)


@pytest.mark.parametrize("files", [["b.csv", "a.jsonl"], ["a.jsonl", "b.csv"]])
def test_all_rows_come_in_the_order_of_the_files(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "1"}\n{"a": "2"}\n')
    (tmp_path / "b.csv").write_text("a\n3\n")
    rows = read_all(
        job_of(tmp_path, source_0=files),
        DatasetFields.model_validate({"source": "x", "text": "{a}"}),
        "source",
    )
    assert [r.columns["a"] for r in rows] == {"a.jsonl": ["1", "2", "3"], "b.csv": ["3", "1", "2"]}[
        files[0]
    ]


def test_of_a_folder_the_train_files_are_read(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "notes.txt", "dataset_info.json", ".hidden.jsonl"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(json.dumps({"a": name}) + "\n")
    rows = read_all(
        job_of(tmp_path, source_0=["data"]),
        DatasetFields.model_validate({"source": "data", "text": "{a}"}),
        "source",
    )
    assert [(r.columns["a"], str(r.where)) for r in rows] == [("train.jsonl", "data/train.jsonl:1")]


def test_no_rows_at_all_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InputError) as caught:
        read_all(
            job_of(tmp_path, source_0=["a.jsonl"]),
            DatasetFields.model_validate({"source": "x", "text": "{a}"}),
            "source",
        )
    assert (caught.value.fact, str(caught.value.where)) == (
        "there are no rows",
        "olivebuild.yaml:2:3",
    )
