"""Rows for tests of data: files with their notes, rendered columns, and the step run on them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.data.readers import read_file
from olivebuild.ml.kinds import dataset as dataset_kind
from tests.support.rendering import render


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    notes: list[str] = []
    return [r.columns for r in read_file(path, path.name, notes.append)], notes


def labels(*values: Any, kind: Any = None, tmp_path: Path) -> tuple[list[str], list[str]]:
    """The labels of a parquet column, and why rows were dropped."""
    pq.write_table(
        pa.table({"t": [f"row {i}" for i in range(len(values))], "l": pa.array(values, kind)}),
        tmp_path / "a.parquet",
    )
    rows, report = render(
        [r.columns for r in read_file(tmp_path / "a.parquet", "a.parquet")],
        prompt="{t}",
        completion="{l}",
    )
    return [r.label for r in rows], [d["why"] for d in report["drops"]]


def run(
    folder: Path,
    rows: list[dict[str, Any]],
    test: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> tuple[Job, list[str]]:
    files = {}
    for name, data in (("source", rows), ("test", test)):
        if data is not None:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
            files[f"{name}.0"] = [str(folder / f"{name}.jsonl")]
    out = folder / "out"
    out.mkdir(exist_ok=True)
    given = {"source": "source.jsonl", **({"test": "test.jsonl"} if test else {}), **fields}
    action = Action(
        "rows",
        "rows",
        "dataset",
        "",
        given,
        {},
        files,
        str(folder),
        str(out),
        places={"": ["olivebuild.yaml", 2, 3, ""]},
    )
    job, stream = Job(action, io.StringIO()), io.StringIO()
    job._stream = stream
    job.log = str(folder / "rows.log")
    dataset_kind.run(job)
    return job, [
        e["text"] for e in map(json.loads, stream.getvalue().splitlines()) if e["event"] == "note"
    ]


ASKED: dict[str, Any] = {"prompt": "{q}", "completion": "{a}"}


def plain(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {"q": f"q{n}x{n * 7} y{n * 3}", "a": "yes" if n % 2 else "no"}
        for n in range(first, first + count)
    ]
