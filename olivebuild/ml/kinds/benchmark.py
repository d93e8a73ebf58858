"""The table of a benchmark: metrics of its parts, put together and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.values.typed import convert
from olivebuild.metrics.diagnostics.benchmark import of_benchmark
from olivebuild.metrics.diagnostics.lineage import Lineage
from olivebuild.metrics.diagnostics.overlaps import Overlap
from olivebuild.metrics.model_comparison import add_seeds, comparisons
from olivebuild.metrics.pareto import front
from olivebuild.metrics.records import read_metrics
from olivebuild.steps.benchmark import TableFields
from olivebuild.steps.parts.seeds import part


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(TableFields)
    sets = [data_set.target for data_set in fields.data_sets]
    latency: dict[str, Any] = {"models": [], "latency": {}}
    if "latency" in job.action.inputs:
        latency = _read(job, "latency")
        sizes = read_json(Path(job.input("sizes").path))
        latency["models"] = [
            {**row, "size": size} for row, size in zip(latency["models"], sizes, strict=True)
        ]
    models = _models(job, fields, sets, iter(latency["models"]))
    record = read_metrics({"models": models, "data": sets}, job.action.target)
    metrics: dict[str, Any] = {
        "models": models,
        "data": sets,
        "comparisons": comparisons(record.models, sets),
        "latency": latency["latency"],
    }
    if pareto := front(record):
        metrics["pareto"] = pareto.to_json()
    if fields.baseline:
        metrics["baselines"] = {
            name: dict(zip(sets, values, strict=True))
            for name, values in _read(job, "baseline").items()
        }
    if fields.metrics:
        metrics["commands"] = {
            ref.target: read_json(Path(job.input(f"metrics[{i}]").path))
            for i, ref in enumerate(fields.metrics)
        }
    metrics["diagnostics"] = _diagnostics(job, fields, metrics)
    text = json.dumps(metrics, indent=2, ensure_ascii=False) + "\n"
    (job.out / "metrics.json").write_text(text, "utf-8")
    job.result = Result(metrics=metrics)


def _diagnostics(job: Job, fields: TableFields, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is to be said of the models and the test rows, as JSON."""
    overlaps = _read(job, "overlap") if "overlap" in job.action.inputs else []
    diagnostics: list[dict[str, Any]] = to_builtins(
        of_benchmark(
            read_metrics(metrics, job.action.target),
            job.action.target,
            convert(fields.lineage, dict[str, Lineage]),
            convert(overlaps, list[Overlap]),
        )
    )
    return diagnostics


def _read(job: Job, role: str) -> Any:
    """Return the metrics of the benchmark's part that is the input `role`."""
    return read_json(Path(job.input(role).folder) / "metrics.json")


def _models(
    job: Job, fields: TableFields, sets: list[str], latencies: Iterator[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return each model's metrics: by data set, of its check, and its part of `latencies`.

    An adapter is evaluated with its base, and has no latency of its own.
    """
    models: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(str(model) for model in fields.models):
        is_model = f"accuracy[{i}]" in job.action.inputs
        evaluated = _read(job, f"accuracy[{i}]" if is_model else f"adapter[{i}]")
        models[name] = {"data": dict(zip(sets, evaluated, strict=True))}
        if is_model:
            models[name] |= next(latencies)
        if f"check.{name}" in job.action.inputs:
            models[name]["check"] = _read(job, f"check.{name}")
        if f"sensitivity.{name}" in job.action.inputs and (
            layers := _read(job, f"sensitivity.{name}")
        ):
            models[name]["sensitivity"] = layers
        roles = {seed: part(f"accuracy[{i}]", seed) for seed in range(1, fields.seeds)}
        seeds = {
            seed: _read(job, role) for seed, role in roles.items() if role in job.action.inputs
        }
        if seeds:
            add_seeds(models[name], sets, seeds)
    return models
