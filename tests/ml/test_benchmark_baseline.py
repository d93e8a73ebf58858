"""Classical text classifiers on the rows of data sets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.ml.kinds.measurements.baseline import run
from olivebuild.steps.measurements.baseline import STEP


def write(file: Path, rows: list[tuple[str, str]]) -> ActionInput:
    table = pa.table(
        {"prompt": [text for text, _ in rows], "label": [label for _, label in rows]},
        schema=pa.schema([("prompt", pa.string()), ("label", pa.string())]),
    )
    pq.write_table(table.replace_schema_metadata({"format": "prompt"}), file)
    return ActionInput(str(file), str(file), "dataset", "tone")


TRAIN = [("glad happy", "joy"), ("happy dance", "joy"), ("cry tears", "sad"), ("tears rain", "sad")]


@pytest.mark.parametrize("labels", [2, 1])
def test_classifiers_are_trained_and_judged(tmp_path: Path, labels: int) -> None:
    train = TRAIN if labels == 2 else TRAIN[:2]
    inputs = {
        "train": write(tmp_path / "train.parquet", train),
        "data[0]": write(tmp_path / "easy.parquet", [("happy", "joy"), ("tears", "sad")]),
        "data[1]": write(tmp_path / "half.parquet", [("happy", "joy"), ("tears", "joy")]),
        "data[2]": write(tmp_path / "empty.parquet", []),
    }
    out = tmp_path / "out"
    out.mkdir()
    action = Action("t", "t", STEP.kind, "0" * 32, {}, inputs, {}, str(tmp_path), str(out))
    job = Job(action, io.StringIO())
    run(job)
    expected = [{"rows": 2, "accuracy": 1.0}, {"rows": 2, "accuracy": 0.5}, {"rows": 0}]
    if labels == 1:
        # There is nothing to tell apart.
        expected = [{"rows": 2}, {"rows": 2}, {"rows": 0}]
    names = ["naive bayes", "tf-idf + logistic regression"]
    assert job.result.metrics == dict.fromkeys(names, expected)
    written = json.loads((out / "metrics.json").read_text())
    answers = [[row.pop("answers", None) for row in rows] for rows in written.values()]
    assert written == job.result.metrics
    if labels == 2:
        right = [{"expected": "joy", "label": "joy"}, {"expected": "sad", "label": "sad"}]
        wrong = [right[0], {"expected": "joy", "label": "sad"}]
        assert answers == [[right, wrong, None]] * 2
