"""The rows of parquet files, with values as a JSON file would have them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.parquet import rows_of


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    notes: list[str] = []
    return list(rows_of(path, path.name, notes.append)), notes


def test_values_are_those_that_json_would_have(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    columns = {
        "short": pa.array([0.1, float("nan")], pa.float32()),
        "double": pa.array([0.1, None], pa.float64()),
        "turns": [[{"role": "user", "tools": None}, {"role": "tool", "tools": "x"}], []],
        "text": ["a", None],
        "day": [datetime.date(2026, 11, 28), None],
    }
    pq.write_table(pa.table(columns), file)
    rows, notes = read(file)
    assert rows == [
        {
            "short": 0.1,
            "double": 0.1,
            # Without the fields that stand there because another one has them.
            "turns": [{"role": "user"}, {"role": "tool", "tools": "x"}],
            "text": "a",
            "day": datetime.date(2026, 11, 28),
        },
        {"short": None, "double": None, "turns": [], "text": None, "day": None},
    ]
    assert notes == []


def test_numbers_that_have_names_are_told(tmp_path: Path) -> None:
    names = ["joy", "sad", "fear", "rage", "love", "none"]
    features = {"label": {"_type": "ClassLabel", "names": names}, "text": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"label": [0, 1], "text": ["a", "b"]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "rows.parquet")
    rows, notes = read(tmp_path / "rows.parquet")
    assert [row["label"] for row in rows] == [0, 1]
    assert notes == [
        "rows.parquet: the numbers of label stand for joy, sad, fear, rage, love ...; they are "
        "read as numbers"
    ]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(data)
    with pytest.raises(InputError, match="not a readable parquet file"):
        read(tmp_path / "rows.parquet")
