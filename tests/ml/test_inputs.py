"""The inputs of an action as folders."""

from __future__ import annotations

import io
from pathlib import Path

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.ml.weights.inputs import as_folder


def test_an_input_that_lies_in_the_store_alone_is_written_out_once(tmp_path: Path) -> None:
    store, source = Store(tmp_path / "cache"), tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/a.txt").write_text("content")
    inputs = {
        "here": ActionInput(str(source), str(source), "model", "base"),
        "stored": ActionInput("", "", "model", "base", manifest=store.put_folder(source)[1]),
    }
    out = tmp_path / "action/out"
    out.mkdir(parents=True)
    action = Action("t", "t", "x", "0" * 32, {}, inputs, {}, str(tmp_path), str(out))
    job = Job(action._replace(store=str(store.root)), io.StringIO())
    assert as_folder(job, "here") == source
    folder = as_folder(job, "stored")
    assert folder == tmp_path / "action/inputs/stored"
    assert (folder / "sub/a.txt").read_text() == "content"
    (folder / "sub/a.txt").chmod(0o600)
    (folder / "sub/a.txt").write_text("not written again")
    assert (as_folder(job, "stored") / "sub/a.txt").read_text() == "not written again"
