"""A training whose batches several processes share: its rows, and its job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from tests.conftest import rows
from tests.scenarios.steps import job_in

TRAINING = {"lr": 1e-3, "batch": 5, "steps": 8, "checkpoint_steps": 1}


def write_data(folder: Path) -> Path:
    columns = {
        "prompt": [f"<|user|>\n{row['phrase']}<|end|>\n" for row in rows()],
        "completion": [row["tone"] for row in rows()],
    }
    schema = pa.schema(
        [(name, pa.string()) for name in columns], metadata={"format": "prompt", "labels": "[]"}
    )
    pq.write_table(pa.table(columns, schema=schema), folder / "train.parquet")
    return folder


def job_of(folder: Path, cache: Path, model: Path, data: Path, **training: Any) -> Job:
    inputs = {
        "model": ActionInput(str(model), str(model), "model", "base"),
        "data": ActionInput(str(data), str(data / "train.parquet"), "dataset", "tone"),
    }
    fields = {"model": "base", "data": "tone.train", "r": 4, "training": TRAINING | training}
    return job_in(
        folder,
        Store(cache),
        inputs,
        kind="adapter",
        target="adapter",
        fields=fields,
        runner="olivebuild.ml.kinds.adapter",
    )
