"""The files of a folder: by the card's configurations, by folders, by split names in paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.ml.data.data_files import data_files
from olivebuild.ml.data.rows import read_all
from olivebuild.steps.dataset import STEP, DatasetFields

CARD = """---
configs:
- config_name: default
  data_files: old/*.jsonl
- config_name: small
  data_dir: parts
  data_files:
  - split: train
    path: ["small/**.jsonl"]
  - split: test
    path: held/*.jsonl
---
# Notes
"""


def job_of(folder: Path) -> Job:
    action = Action(
        node="rows",
        target="rows",
        kind="dataset",
        key="",
        fields={},
        inputs={},
        files={"source.0": [str(folder)]},
        recipe_folder=str(folder),
        out=str(folder),
        places={"": ["olivebuild.yaml", 2, 3, ""]},
    )
    return Job(action, io.StringIO())


def fields(**values: Any) -> DatasetFields:
    return DatasetFields.model_validate({"source": "rows", "text": "{a}"} | values)


def names(folder: Path, **values: Any) -> list[str]:
    files = data_files(folder, job_of(folder), fields(**values))
    return [p.relative_to(folder).as_posix() for p in files]


def make(folder: Path, *paths: str) -> None:
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"a": "1"}\n')


def test_the_card_says_which_files_a_subset_and_a_split_have(tmp_path: Path) -> None:
    make(tmp_path, "old/a.jsonl", "parts/small/deep/b.jsonl", "parts/held/c.jsonl")
    (tmp_path / "README.md").write_text(CARD)
    assert names(tmp_path, subset="small", split="train") == ["parts/small/deep/b.jsonl"]
    assert names(tmp_path, subset="small", split="test") == ["parts/held/c.jsonl"]
    assert names(tmp_path, split="train") == ["old/a.jsonl"]
    with pytest.raises(InputError, match="split 'test'"):
        names(tmp_path, split="test")


def test_without_a_card_paths_do(tmp_path: Path) -> None:
    make(tmp_path, "wiki/train-0.jsonl", "wiki/test.jsonl", "other/a.jsonl", "other/contest.jsonl")
    assert names(tmp_path, subset="wiki", split="test") == ["wiki/test.jsonl"]
    assert names(tmp_path, subset="wiki", split="train") == ["wiki/train-0.jsonl"]
    assert names(tmp_path, subset="other", split="train") == [
        "other/a.jsonl",
        "other/contest.jsonl",
    ]
    with pytest.raises(InputError, match="subset 'none'"):
        names(tmp_path, subset="none")


def test_rows_are_sliced_and_then_chosen_by_their_values(tmp_path: Path) -> None:
    lines = "".join(f'{{"a": "{i}", "even": {str(i % 2 == 0).lower()}}}\n' for i in range(10))
    (tmp_path / "rows.jsonl").write_text(lines)
    job = job_of(tmp_path)
    rows = read_all(job, fields(slice=":70%", where={"even": True}), "source")
    assert [row.columns["a"] for row in rows] == ["0", "2", "4", "6"]
    for values in ({"slice": "10:"}, {"where": {"b": 1}}, {"where": {"a": "11"}}):
        with pytest.raises(InputError):
            read_all(job, fields(**values), "source")


def test_the_new_fields_are_in_a_key_only_when_they_are_set() -> None:
    assert not {"subset", "split", "slice", "where"} & STEP.parameters(fields()).keys()
    assert STEP.parameters(fields(slice=":9"))["slice"] == ":9"
    problem = STEP.check(fields(source="rows.jsonl", split="train"))
    assert problem is not None
    assert "rows.jsonl is a file" in problem.fact
