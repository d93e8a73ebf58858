"""A training whose batches several processes share: its rows, and its job."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from tests.conftest import rows
from tests.scenarios.steps import job_in
from tests.scenarios.training import Stopped

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


def job_of(
    folder: Path,
    cache: Path,
    model: Path,
    data: Path,
    *,
    fields: dict[str, Any] | None = None,
    **training: Any,
) -> Job:
    inputs = {
        "model": ActionInput(str(model), str(model), "model", "base"),
        "data": ActionInput(str(data), str(data / "train.parquet"), "dataset", "tone"),
    }
    asked = {"model": "base", "data": "tone.train", "r": 4, "training": TRAINING | training}
    return job_in(
        folder,
        Store(cache),
        inputs,
        kind="adapter",
        target="adapter",
        fields=asked | (fields or {}),
        runner="olivebuild.ml.kinds.adapter",
    )


def trained(
    folder: Path,
    cache: Path,
    model: Path,
    data: Path,
    count: int,
    stop_at: int = 0,
    dtype: str = "float32",
    evaluated: bool = False,
    **asked: Any,
) -> tuple[Any, np.ndarray]:
    """Train with so many processes; the loop, and the adapter's weights.

    `evaluated`: the first process judges its rows meanwhile, and shows answers. `asked` are fields
    of the training, and in `fields` those of the adapter.
    """
    import torch

    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.sample_answers import SampleAnswers
    from olivebuild.ml.models.load import load_tokenizer
    from olivebuild.ml.training import data_parallel, train
    from olivebuild.ml.training.validation import Validation
    from olivebuild.steps.adapter import AdapterFields

    job = job_of(folder, cache, model, data, **asked)

    class Listening(Job):
        def say(self, event: str, **given: Any) -> None:
            if event == "metric" and given["step"] == stop_at:
                raise Stopped

    listening, fields = Listening(job.action, io.StringIO()), job.fields(AdapterFields)
    token_rows = train.rows_of(listening, fields)
    judging = Validation(token_rows[:7], 3, None, best=True) if evaluated else None
    samples = (
        SampleAnswers(Encoder(load_tokenizer(model)), token_rows, fields.training)
        if evaluated
        else None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_parallel, "count_for", lambda *_: count)
        # Whatever they cost: these rows are few and short.
        patch.setattr("olivebuild.ml.inference.sample_answers.SHARE", 1e9)
        patch.setattr("olivebuild.ml.inference.sample_answers.MOST_TIME", 1e9)
        loop = train.fit(
            listening,
            fields,
            token_rows,
            judging,
            torch.device("cpu"),
            getattr(torch, dtype),
            samples,
        )
    return loop, np.concatenate([w.detach().numpy().ravel() for w in loop.runner.trainable.weights])
