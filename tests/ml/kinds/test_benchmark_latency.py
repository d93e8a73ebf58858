"""The runner of latency: fields and models are checked before anything is measured."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("transformers")

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.ml.kinds.measurements.latency import run

FEW = {"prompt_tokens": 4, "new_tokens": 1, "rounds": 1, "max_rounds": 1}


def job(folder: Path, kind: str = "onnx", **fields: Any) -> Job:
    """Return the job of a benchmark of two models that are empty folders."""
    out = folder / "out"
    out.mkdir()
    inputs = {}
    for i, name in enumerate(("small", "large")):
        (folder / name).mkdir()
        inputs[f"model[{i}]"] = ActionInput(str(folder / name), str(folder / name), kind, name)
    action = Action(
        "b", "b", "benchmark-latency", "", FEW | fields, inputs, {}, str(folder), str(out)
    )
    return Job(action, io.StringIO())


def test_a_model_that_is_none_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    work = job(tmp_path, "model")
    with pytest.raises(InputError) as caught:
        run(work)
    assert str(caught.value.where) == str(tmp_path / "small")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("fields", [{"rounds": 0}, {"tolerance": 1.0}, {"round": 3}])
def test_fields_are_those_of_the_step(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        run(job(tmp_path, **fields))
