"""One connection to an agent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, StepError
from olivebuild.executors.site import client as module
from olivebuild.executors.site.client import Client, Cut
from olivebuild.executors.site.connection import LocalConnection

READY = "import sys; print('banner\\nolivebuild-agent 1\\n{\"ready\": true}', flush=True); "


class Program(LocalConnection):
    def __init__(self, text: str) -> None:
        super().__init__("box")
        self._text = text

    def argv(self, agent: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", self._text]


def test_an_agent_that_ends(tmp_path: Path) -> None:
    client = Client(Program(READY + "sys.exit('the last words')"), [])
    with pytest.raises(Cut, match="the last words"):
        client.call("hello", {})


def test_an_agent_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    client = Client(Program(READY + "sys.stdin.read()"), [])
    with pytest.raises(Cut, match=r"no answer for 0\.2 s"):
        client.call("hello", {})
    client.close()


def test_an_agent_that_says_that_it_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    text = READY + (
        "import time\n"
        "for _ in range(15):\n"
        "    time.sleep(0.1); print('{\"id\": null}', flush=True)\n"
        'print(\'{"id": 1, "ok": true}\', flush=True)\n'
        "sys.stdin.read()"
    )
    client = Client(Program(text), [])
    assert client.call("submit", {}).data["ok"] is True
    client.close()


def test_what_is_no_frame_cuts(tmp_path: Path) -> None:
    client = Client(Program(READY + "print('oops', flush=True); sys.stdin.read()"), [])
    with pytest.raises(Cut):
        client.call("hello", {})


def test_an_agent_that_refuses_to_begin() -> None:
    error = '{"id": null, "error": {"error": "StepError", "fact": "no launcher", "hint": "x"}}'
    text = f"print('olivebuild-agent 1\\n' + {error!r}, flush=True)"
    with pytest.raises(StepError, match="no launcher"):
        Client(Program(text), [])


def test_a_program_that_is_not_there() -> None:
    class Missing(LocalConnection):
        def argv(self, agent: Sequence[str]) -> list[str]:
            return ["no-such-program", *agent]

    with pytest.raises(BuildError, match="box can't be reached"):
        Client(Missing("box"), [])
