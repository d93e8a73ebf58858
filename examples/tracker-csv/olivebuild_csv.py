"""The tracker `csv` for olivebuild: a file for each training, a row for each metric."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from olivebuild.api.tracker import End


class CsvRun:
    """The file of one training."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("x", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["step", "metric", "value"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._rows.writerows([step, name, value] for name, value in metrics.items())
        self._file.flush()

    def end(self, status: End) -> None:
        """Close the file; a training that failed keeps its rows."""
        self._file.close()


class CsvTracker:
    """A folder of CSV files."""

    def __init__(self, where: str, name: str) -> None:
        self._folder = Path(where) / name
        self._folder.mkdir(parents=True, exist_ok=True)

    def begin(self, target: str, description: str) -> CsvRun:
        """Begin the file of a training, named by its target and time."""
        return CsvRun(self._folder / f"{target}-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%f}.csv")
