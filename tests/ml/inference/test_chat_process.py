"""The process that holds a model: faults that are told before any model is loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from olivebuild.core.errors import InputError
from olivebuild.core.processes import python
from olivebuild.ml.inference import chat_process
from olivebuild.ml.inference.chat_process import Requests, chat, predict
from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

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


def runtime_with(template: str) -> Any:
    """Return a model that is not there, with a tokenizer that has but a chat template."""
    runtime = OnnxRuntime.__new__(OnnxRuntime)
    runtime.tokenizer = SimpleNamespace(chat_template=template)
    runtime.ends = set()
    return runtime


class Gone(Exception):
    """The parent asks nothing more."""


@pytest.mark.parametrize("brought", ["", "{{ messages }}"])
def test_a_chat_begins_where_any_that_may_answer_has_a_template(
    brought: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> None:
        raise Gone

    voices = {"": (runtime_with(""), None), "legal": (runtime_with(brought), None)}
    monkeypatch.setattr(chat_process, "open_voices", lambda _: voices)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/config.json").write_text("{}")
    said: list[str] = []
    requests = cast("Requests", SimpleNamespace(next=end, stopped=-1))
    asked = settings(tmp_path, "")
    with pytest.raises(Gone if brought else InputError):
        chat(asked, requests, lambda event, **_: said.append(event))
    assert said == ["ready"] * bool(brought)


def test_each_adapter_is_opened_with_its_own_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str]] = []

    def adapted(folder: str, date: str) -> Any:
        opened.append((folder, date))
        return runtime_with("")

    runtime = runtime_with("")
    monkeypatch.setattr(runtime, "adapted", adapted)
    monkeypatch.setattr(chat_process, "open_subject", lambda _: (runtime, None))
    monkeypatch.setattr("olivebuild.ml.data.tokens.Encoder", lambda *_, **__: None)
    adapters = {"tone": ("a", ""), "legal": ("b", "2026-01-02")}
    voices = chat_process.open_voices(settings(tmp_path, "") | {"adapters": adapters})
    assert list(voices) == ["", "tone", "legal"]
    assert opened == [("a", ""), ("b", "2026-01-02")]
