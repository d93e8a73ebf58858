"""Steps run in this process, on models and adapters in folders: what they make, and what the
libraries make of the same.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.hashing import StatMemo
from olivebuild.formats.weight_files import model_digest
from olivebuild.ml.onnx.builder import canonical, run_builder
from olivebuild.ml.weights.view import Weights, of_folder
from olivebuild.steps.onnx import OnnxFields

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 12, "target_modules": "all-linear"}


def job_in(
    folder: Path, store: Store, inputs: dict[str, ActionInput] | None = None, **more: Any
) -> Job:
    """A job with `folder` to itself."""
    (folder / "out").mkdir(parents=True)
    action = Action(
        "t",
        "t",
        "t",
        "0" * 32,
        {},
        inputs or {},
        {},
        str(folder),
        str(folder / "out"),
        str(store.root),
    )
    return Job(action._replace(**more), io.StringIO())


def given(store: Store, folder: Path) -> ActionInput:
    return ActionInput(
        str(folder),
        str(folder),
        "model",
        "base",
        digest=model_digest(folder, StatMemo(store.root / "memo.json")),
    )


def weights_in(store: Store, folder: Path) -> Weights:
    return of_folder(store, folder, given(store, folder).digest)


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def by_builder(folder: Path, store: Store, fields: OnnxFields, model: Path) -> dict[str, bytes]:
    job = job_in(folder, store)
    run_builder(job, fields, model, job.out, trust=False)
    canonical(job.out, model)
    return files_in(job.out)
