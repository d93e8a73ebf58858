"""Test rows that stand in training rows, from the files of two data sets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.data import origins
from olivebuild.ml.benchmark.overlap import run
from olivebuild.steps.measurements.overlap import STEP

TEXTS = [f"the {i}. letter tells of {i * 7} ships and {i * 3} whales in the bay" for i in range(30)]


def data_set(folder: Path, split: str, prompts: list[str]) -> ActionInput:
    folder.mkdir()
    schema = pa.schema([("prompt", pa.string())], metadata={"format": "prompt"})
    file = folder / f"{split}.parquet"
    pq.write_table(pa.table({"prompt": prompts}, schema=schema), file)
    places = [f"{folder.name}.jsonl:{i + 1}" for i in range(len(prompts))]
    origins.write(folder, {split: places}, 0.05)
    return ActionInput(str(folder), str(file), "dataset", folder.name)


def test_rows_of_another_data_set_that_were_trained_on(tmp_path: Path) -> None:
    tickets = [f"ticket {i}: the {word} does not work" for i, word in enumerate("abcdefghij")]
    inputs = {
        "train[0]": data_set(tmp_path / "tone", "train", TEXTS),
        "data[0]": data_set(tmp_path / "hard", "test", ["something else", TEXTS[4], TEXTS[9]]),
        "data[1]": data_set(tmp_path / "clean", "test", tickets),
    }
    out = tmp_path / "out"
    out.mkdir()
    fields: dict[str, object] = {
        "train": ["tone"],
        "data": ["hard", "clean"],
        "pairs": [[0, 0, 1], [0, 1, 1]],
    }
    stream = io.StringIO()
    run(
        Job(
            Action("t", "t", STEP.kind, "0" * 32, fields, inputs, {}, str(tmp_path), str(out)),
            stream,
        )
    )
    assert json.loads((out / "metrics.json").read_text()) == [
        {
            "train": "tone",
            "data": "hard",
            "rows": 3,
            "same": 2,
            "test_rows": [1, 2],
            "places": ["hard.jsonl:2 is tone.jsonl:5", "hard.jsonl:3 is tone.jsonl:10"],
        }
    ]
    notes = [json.loads(line) for line in stream.getvalue().splitlines() if '"note"' in line]
    assert [note["text"] for note in notes] == [
        "2 of 3 test rows of hard stand in the training rows of tone, 2 of them word for word, "
        "such as hard.jsonl:2 is tone.jsonl:5"
    ]
