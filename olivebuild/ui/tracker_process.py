"""Writer of trainings to TensorBoard, MLflow or the tracker of another package.

`python -m olivebuild.ui.tracker_process KIND WHERE NAME` reads a build's events from standard
input.

A run begins with a training's `started`, and ends with its `finished`, `failed` or `stopping`, or
with the stream. Knows no recipes and no builds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import time
from typing import Any

from olivebuild.api.tracker import TRACKERS, End, Run, Tracker, TrackerFactory

ENDS = {"finished": End.FINISHED, "failed": End.FAILED, "stopping": End.KILLED}
NOT_METRICS = ("step", "steps")


class TensorBoard:
    """Tracker with a folder for each run, below one for each target, so that runs compare."""

    def __init__(self, where: str, name: str) -> None:
        self._folder = Path(where)

    def begin(self, target: str, description: str) -> Run:
        from tensorboard.summary import Writer

        started = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
        return TensorBoardRun(Writer(str(self._folder / target / started)))


class TensorBoardRun:
    """Run that writes an event file."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        # Without this, a short training appears only when it has ended.
        self._writer.flush()

    def end(self, status: End) -> None:
        self._writer.close()


class MLflow:
    """Tracker with an experiment for each recipe; a run's description has its build reasons."""

    def __init__(self, where: str, name: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        entity = self._client.get_experiment_by_name(name)
        self._experiment = entity.experiment_id if entity else self._client.create_experiment(name)

    def begin(self, target: str, description: str) -> Run:
        tags = {"mlflow.note.content": description, "olivebuild.target": target}
        run = self._client.create_run(self._experiment, run_name=target, tags=tags)
        return MLflowRun(self._client, run.info.run_id)


class MLflowRun:
    """Run of an MLflow experiment."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=batch)

    def end(self, status: End) -> None:
        self._client.set_terminated(self._run, status=status.value)


BUILTIN: dict[str, TrackerFactory] = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""Kind -> the tracker; trackers.KINDS describes the same kinds to users."""


def write(tracker: Tracker, events: Iterator[Mapping[str, Any]]) -> None:
    """Log the events of trainings; a run that the stream does not end was killed."""
    runs: dict[str, Run] = {}
    for event in events:
        node, name = event["node"], event["event"]
        if name == "started":
            runs[node] = tracker.begin(event["target"], _description(event))
        elif name == "metric":
            runs[node].log(int(event["step"]), _metrics(event))
        else:
            runs.pop(node).end(ENDS[name])
    for run in runs.values():
        run.end(End.KILLED)


def _description(event: Mapping[str, Any]) -> str:
    """Return the reasons of a `started` event, one a line."""
    reasons = event.get("reasons") or ()
    return "\n".join(f"{r['cause']} {r['what']}: {r['old']} -> {r['new']}" for r in reasons)


def _metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a `metric` event but its step."""
    metrics = {}
    for name, value in event.items():
        if name in NOT_METRICS or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            metrics[name] = float(value)
    return metrics


def read() -> Iterator[Mapping[str, Any]]:
    """Yield the events on standard input.

    A thread reads ahead without limit, so that a slow tracker never blocks the build.
    """
    lines: SimpleQueue[str] = SimpleQueue()

    def take() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    Thread(target=take, daemon=True).start()
    while line := lines.get():
        yield json.loads(line)


def open_tracker(kind: str, where: str, name: str) -> Tracker:
    """Return the tracker of a kind, one that is built in or that of an entry point."""
    factory = BUILTIN.get(kind)
    if factory is None:
        from olivebuild.api import plugins

        factory = plugins.load(
            group=TRACKERS, name=kind, what="tracker", builtin=tuple(BUILTIN), where="--log-to"
        )
    return factory(where, name)


def main(kind: str, where: str, name: str) -> int:
    """Log standard input, and return the exit code; an error is one line on stderr."""
    try:
        write(open_tracker(kind, where, name), read())
    except Exception as e:  # noqa: BLE001
        # Libraries raise errors of many types here; the build shows the first line as a note.
        text = str(e).strip().partition("\n")[0] or type(e).__name__
        print(text, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
