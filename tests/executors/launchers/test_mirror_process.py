"""The process that speaks with an exchange: what it says, and its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import InputError, StepError
from olivebuild.executors.launchers.mirror_process import MirrorProcess

KEY = "a" * 32


def test_it_answers_until_it_ends(tmp_path: Path) -> None:
    process = MirrorProcess((tmp_path / "bucket").as_uri(), tmp_path / "near")
    assert process.ask("settle", KEY) == {
        "id": 1,
        "outcome": False,
        "code": None,
        "refused": False,
        "said": False,
    }
    with pytest.raises(InputError, match="No such file"):
        process.ask("submit", KEY)
    process.follow(KEY)
    process.close()
    assert process.has_ended
    with pytest.raises(StepError, match="has ended"):
        process.ask("settle", KEY)


def test_an_exchange_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no place for a remote cache"):
        MirrorProcess("ftp://host/x", tmp_path)
