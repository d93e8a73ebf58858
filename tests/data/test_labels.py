"""Values as the text of labels: what a person would write, and labels that look alike."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.data.readers import read_file
from olivebuild.ml.kinds.dataset import look_alikes
from tests.support.rendering import render
from tests.support.rows import ASKED, labels, plain, read, run

NOON = datetime.datetime(2024, 5, 1, 12, 0, 30)


@pytest.mark.parametrize(
    ("values", "kind", "texts", "why"),
    [
        ([0.0, 1.0, None, 2.0], None, ["0", "1", "2"], ["no value for l"]),
        ([0.0, float("nan"), 2.0], None, ["0", "2"], ["no value for l"]),
        ([0.5, 1.0, float("inf")], None, ["0.5", "1.0"], ["l is infinite"]),
        ([0.1, 2.5], pa.float32(), ["0.1", "2.5"], []),
        ([1, 2**62], None, ["1", str(2**62)], []),
        ([True, False], None, ["true", "false"], []),
        ([Decimal("1.10"), Decimal("2.00")], None, ["1.10", "2.00"], []),
        ([datetime.date(2024, 5, 1)], None, ["2024-05-01"], []),
        (
            [datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 2), None],
            None,
            ["2024-05-01", "2024-05-02"],
            ["no value for l"],
        ),
        (
            [datetime.datetime(2024, 5, 1), NOON],
            None,
            ["2024-05-01T00:00:00", "2024-05-01T12:00:30"],
            [],
        ),
        ([datetime.time(8, 30)], None, ["08:30:00"], []),
        ([b"x"], None, [], ["l is not text but bytes"]),
        ([["x"]], None, [], ["l is not text but a list"]),
        ([{"x": 1}], None, [], ["l is not text but an object"]),
        ([datetime.timedelta(1)], None, [], ["l is not text but a duration"]),
    ],
)
def test_values_are_the_text_that_a_person_would_write(
    tmp_path: Path, values: list[Any], kind: Any, texts: list[str], why: list[str]
) -> None:
    assert labels(*values, kind=kind, tmp_path=tmp_path) == (texts, why)


def test_a_number_keeps_all_its_digits(tmp_path: Path) -> None:
    given = [
        "12345678901234567890",
        "0.12345678901234567890",
        "-1.00000000000000000001",
        "0.1",
        "100000000000000000000.5",
    ]
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"t": "row {i}", "l": {text}}}\n' for i, text in enumerate(given))
    )
    rows, _ = render(
        [r.columns for r in read_file(tmp_path / "a.jsonl", "a.jsonl")],
        prompt="{t}",
        completion="{l}",
    )
    assert [r.label for r in rows] == given
    # Elsewhere it is the number that it is.
    assert (
        json.dumps(read(tmp_path / "a.jsonl")[0][1]) == '{"t": "row 1", "l": 0.12345678901234568}'
    )


def test_labels_that_look_alike_are_found() -> None:
    found = look_alikes(
        [
            "joy",
            "Joy",
            " joy",
            "sad",
            "caf\u00e9",
            "cafe\u0301",
            "\uff46ear",
            "fear",
            "zero\u200bwidth",
            "zerowidth",
            "",
        ]
    )
    assert found == [
        [" joy", "Joy", "joy"],
        ["cafe\u0301", "caf\u00e9"],
        ["fear", "\uff46ear"],
        ["zerowidth", "zero\u200bwidth"],
    ]


def test_labels_of_missing_values_and_numbers_that_have_names_are_told(tmp_path: Path) -> None:
    rows = [row | {"a": "nan" if n % 2 else "NA"} for n, row in enumerate(plain(8))]
    _, notes = run(tmp_path, rows, **ASKED)
    assert (
        "labels that programs write where a value is missing: 'NA' (4 rows), 'nan' (4 rows)"
        in notes
    )
    features = {
        "q": {"dtype": "string", "_type": "Value"},
        "a": {"names": ["no", "yes"], "_type": "ClassLabel"},
    }
    table = pa.table({"q": ["x", "y"], "a": [0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (
        [{"q": "x", "a": 0}, {"q": "y", "a": 1}],
        ["a.parquet: the numbers of a stand for no, yes; they are read as numbers"],
    )
