"""The runner of kinds that define `run` themselves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from olivebuild.api.action import Action
from olivebuild.api.fields import Fields
from olivebuild.api.job import Job
from olivebuild.api.step import Step
from olivebuild.ml.kinds import plugin


class Echo(Step):
    kind = "echo"
    fields = Fields

    def run(self, job: Job) -> None:
        (job.out / "echo.txt").write_text(job.action.kind)


def test_the_kind_runs_in_the_folder_of_its_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(plugin, "step_of", {"echo": Echo()}.get)
    action = Action("a", "a", "echo", "0" * 32, {}, {}, {}, str(tmp_path), str(out), str(tmp_path))
    plugin.run(Job(action, io.StringIO()))
    assert (out / "echo.txt").read_text() == "echo"


def test_a_kind_that_can_not_run_is_refused_when_it_is_defined() -> None:
    with pytest.raises(TypeError, match="Mute needs a `runner`, or a `run` of its own"):

        class Mute(Step):
            kind = "mute"
            fields = Fields
