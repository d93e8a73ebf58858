"""Logs of trainings elsewhere, by the real libraries: what is asked for wrongly, what can't be
written, and what is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.event import Event
from olivebuild.core.errors import RecipeError
from olivebuild.ui import trackers
from olivebuild.ui.trackers import Trackers, TrackerTarget
from tests.conftest import Place as Folder

TRAINING = [
    Event(
        "started",
        {
            "target": "adapter",
            "node": "adapter",
            "reasons": [{"cause": "parameter", "what": "lr", "old": "1", "new": "2"}],
        },
    ),
    Event(
        "progress",
        {"target": "adapter", "node": "adapter", "what": "training", "done": 1, "total": 2},
    ),
    Event(
        "metric",
        {
            "target": "adapter",
            "node": "adapter",
            "step": 1,
            "steps": 2,
            "loss": 0.5,
            "lr": 1e-4,
            "gpu": None,
        },
    ),
    Event(
        "metric",
        {"target": "adapter", "node": "adapter", "step": 2, "steps": 2, "loss": 0.25, "lr": 2e-4},
    ),
]
END = Event("finished", {"target": "adapter", "node": "adapter", "seconds": 1.0})


def passed_on(place: TrackerTarget, events: list[Event]) -> list[str]:
    """What was complained of."""
    heard: list[Event] = []
    with Trackers((place,), "tone") as trackers:
        listen = trackers.tee(heard.append)
        for event in events:
            listen(event)
    assert heard == events
    return trackers.warnings


@pytest.mark.parametrize("text", ["runs", "tensorboard:", "wandb:runs"])
def test_what_is_no_place(place: Folder, text: str) -> None:
    place.recipe.write_text("targets: {base: {kind: model, source: base}}\n")
    done = place.run("--log-to", text)
    assert (done.code, done.err) == (
        2,
        f"--log-to: error: {text!r} is no place to log to\n  hint: write tensorboard: and a "
        "folder or mlflow: and a tracking URI\n",
    )


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match="logging to MLflow needs the library mlflow, which is not installed"
    ) as error:
        TrackerTarget.parse("mlflow:runs")
    assert error.value.hint == "pip install 'olivebuild[mlflow]'"


def test_nothing_is_started_where_nothing_is_trained() -> None:
    assert passed_on(TrackerTarget("mlflow", "nowhere"), [TRAINING[0], END]) == []


def test_what_cannot_be_written_is_told_and_harms_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    [told] = passed_on(TrackerTarget("tensorboard", str(tmp_path / "file")), [*TRAINING, END])
    assert told.startswith("not all was logged to TensorBoard: ")
    assert "file" in told


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert passed_on(TrackerTarget("tensorboard", str(tmp_path)), [*TRAINING, END]) == []
    [run] = (tmp_path / "adapter").iterdir()
    read = EventAccumulator(str(run))
    read.Reload()
    assert sorted(read.Tags()["tensors"]) == ["loss", "lr"]
    found = [(e.step, e.tensor_proto.float_val[0]) for e in read.Tensors("loss")]
    assert found == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize(("last", "status"), [([END], "FINISHED"), ([], "KILLED")])
def test_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: list[Event], status: str
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    where = tmp_path.as_uri()
    assert passed_on(TrackerTarget("mlflow", where), [*TRAINING, *last]) == []

    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=where)
    [run] = client.search_runs([client.get_experiment_by_name("tone").experiment_id])
    assert (run.info.status, run.info.run_name, run.data.tags["mlflow.note.content"]) == (
        status,
        "adapter",
        "parameter lr: 1 -> 2",
    )
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert set(run.data.metrics) == {"loss", "lr"}
