"""Rows read and rendered as a data set's step does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import Where
from olivebuild.data.readers import Read, read_file
from olivebuild.ml.data.rows import Row, Template
from olivebuild.steps.dataset import DatasetFields

LINE = '  tone: {kind: dataset, source: a.jsonl, text: "{a}"}'


def job_of(folder: Path, **files: list[str]) -> Job:
    """A job whose recipe has one line; `files` are the files of each source."""
    action = Action(
        node="tone",
        target="tone",
        kind="dataset",
        key="",
        fields={},
        inputs={},
        files={
            label.replace("_", "."): [str(folder / name) for name in names]
            for label, names in files.items()
        },
        recipe_folder=str(folder),
        out=str(folder / "out"),
        places={"": ["olivebuild.yaml", 2, 3, LINE], "text": ["olivebuild.yaml", 2, 42, LINE]},
    )
    return Job(action, io.StringIO())


def read(folder: Path, name: str, data: str | bytes) -> list[Read]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_file(path, name))


def render(
    rows: list[dict[str, Any]], dedupe: bool = True, **fields: Any
) -> tuple[list[Row], dict[str, Any]]:
    reads = [Read(columns, Where("a.jsonl", i)) for i, columns in enumerate(rows, 1)]
    template = Template.of(
        DatasetFields.model_validate({"source": "a.jsonl"} | fields), job_of(Path("/nowhere"))
    )
    return template.render(reads, dedupe)
