"""Writer of trainings to TensorBoard or MLflow.

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
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import time
from typing import Any, Protocol


class End(Enum):
    """How a run ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


ENDS = {"finished": End.FINISHED, "failed": End.FAILED, "stopping": End.KILLED}
NOT_FIGURES = ("step", "steps")


class Run(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def end(self, how: End) -> None: ...


class Book(Protocol):
    def begin(self, target: str, why: str) -> Run: ...


class TensorBoard:
    """A folder a run, below one a target, so that runs are told apart and compared."""

    def __init__(self, where: str, name: str) -> None:
        self._folder = Path(where)

    def begin(self, target: str, why: str) -> Run:
        from tensorboard.summary import Writer

        return Scalars(
            Writer(str(self._folder / target / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"))
        )


class Scalars:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        # Else a board shows a short training when it is over.
        self._writer.flush()

    def end(self, how: End) -> None:
        self._writer.close()


class MLflow:
    """An experiment a recipe, a run a training; why it was trained is the run's description."""

    def __init__(self, where: str, name: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else self._client.create_experiment(name)

    def begin(self, target: str, why: str) -> Run:
        tags = {"mlflow.note.content": why, "olivebuild.target": target}
        run = self._client.create_run(self._experiment, run_name=target, tags=tags)
        return Tracked(self._client, run.info.run_id)


class Tracked:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(time() * 1000)
        self._client.log_batch(
            self._run, metrics=[Metric(name, value, now, step) for name, value in figures.items()]
        )

    def end(self, how: End) -> None:
        self._client.set_terminated(self._run, status=how.value)


BOOKS: dict[str, type[TensorBoard] | type[MLflow]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def write(book: Book, events: Iterator[Mapping[str, Any]]) -> None:
    runs: dict[str, Run] = {}
    for event in events:
        node, name = event["node"], event["event"]
        if name == "started":
            reasons = (
                f"{r['cause']} {r['what']}: {r['old']} -> {r['new']}"
                for r in event.get("reasons") or ()
            )
            runs[node] = book.begin(event["target"], "\n".join(reasons))
        elif name == "metric":
            figures = {
                k: float(v)
                for k, v in event.items()
                if k not in NOT_FIGURES and isinstance(v, int | float) and not isinstance(v, bool)
            }
            runs[node].log(int(event["step"]), figures)
        else:
            runs.pop(node).end(ENDS[name])
    for run in runs.values():
        run.end(End.KILLED)


def read() -> Iterator[Mapping[str, Any]]:
    """All lines are taken at once, however slow the log is: whoever writes them must not wait."""
    lines: SimpleQueue[str] = SimpleQueue()

    def take() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    Thread(target=take, daemon=True).start()
    while line := lines.get():
        yield json.loads(line)


def main(kind: str, where: str, name: str) -> int:
    try:
        write(BOOKS[kind](where, name), read())
    except Exception as e:
        # Whatever the library refuses; one line is told.
        text = str(e).strip().partition("\n")[0] or type(e).__name__
        print(text, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
