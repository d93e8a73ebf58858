"""The process that holds a model: faults that are told before any model is loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.core.processes import python
from olivebuild.ml.inference.chat_process import predict

FORM = {"name": "rows", "format": "prompt"}


def settings(folder: Path, rows: str) -> dict[str, Any]:
    """Return settings that name a model which is not there."""
    file = folder / "rows.jsonl"
    file.write_text(rows, "utf-8")
    return {
        "rows": str(file),
        "shown": "rows.jsonl",
        "forms": [],
        "folder": str(folder / "gone"),
        "adapter": "",
        "trust_remote_code": False,
        "trust_adapter": False,
        "template_date": "",
        "max_tokens": 4,
        "first": 0,
        "log": str(folder / "log"),
    }


@pytest.mark.parametrize("rows", ['{"a": 1', "[1]\n", ""])
def test_rows_that_can_not_be_read_come_before_the_model(tmp_path: Path, rows: str) -> None:
    said: list[str] = []
    with pytest.raises(InputError) as caught:
        predict(settings(tmp_path, rows), lambda event, **_: said.append(event))
    assert "rows.jsonl" in str(caught.value.where)
    assert not said


def test_whatever_ends_the_process_is_one_line_on_a_stream_of_its_own() -> None:
    # It ends when the other end of its stdin closes.
    with subprocess.Popen(
        python("-m", "olivebuild.ml.inference.chat_process", json.dumps({"log": "the log"})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        (line,) = process.stdout.readlines()
        assert "Traceback" in process.stderr.read()
        assert process.wait() == 0
    event = json.loads(line)
    assert event["event"] == "error"
    assert "KeyError: 'rows'" in line
    assert "the log has the whole story" in line
