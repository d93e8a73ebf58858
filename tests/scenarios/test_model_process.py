"""The process that holds a model, seen from its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import BuildError
from olivebuild.executors.model_process import Settings, Talker

pytestmark = pytest.mark.scenario


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings(
        target="base",
        folder=str(folder),
        adapter="",
        trust_remote_code=False,
        max_tokens=4,
        **more,
    )


def test_questions_are_answered_one_after_the_other(tiny_model: Path, tmp_path: Path) -> None:
    with Talker(settings_of(tiny_model), tmp_path / "log") as talker:
        assert talker.ready()["event"] == "ready"
        messages = [{"role": "user", "content": "I am glad"}]
        first = "".join(talker.ask(messages=messages))
        # An answer that is no longer listened to is waited for before the next question.
        next(talker.ask(messages=messages), None)
        talker.stop()
        assert "".join(talker.ask(messages=messages)) == first


def test_a_model_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with (
        Talker(settings_of(tmp_path / "nothing"), tmp_path / "log") as talker,
        pytest.raises(BuildError) as caught,
    ):
        talker.ready()
    assert caught.value.target == "base"


def test_what_a_process_said_of_its_end_is_told_also_where_nobody_asks(tmp_path: Path) -> None:
    with Talker(settings_of(tmp_path / "nothing"), tmp_path / "log") as talker:
        error = talker.wait()
    assert "the process that holds" not in error.fact
    # Who stops an answer after the end does no harm.
    talker._send({"stop": 1})
