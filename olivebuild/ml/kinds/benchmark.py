"""The table of a benchmark: its parts' figures put together, and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.pareto import front
from olivebuild.steps._seeds import part
from olivebuild.steps.benchmark import BenchmarkFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.metrics.comparisons import add_seeds, comparisons
    from olivebuild.metrics.records import read_metrics

    fields = job.fields(BenchmarkFields)
    names = [str(m) for m in fields.models]
    sets = [d.target for d in fields.data_sets]

    def read(role: str) -> Any:
        return read_json(Path(job.input(role).folder) / "metrics.json")

    latency = read("latency") if "latency" in job.action.inputs else {"models": [], "latency": {}}
    times = iter(latency["models"])
    checks = {name: read(f"check.{name}") for name in names if f"check.{name}" in job.action.inputs}
    models = {}
    for i, name in enumerate(names):
        timed = f"accuracy[{i}]" in job.action.inputs
        judged = read(f"accuracy[{i}]" if timed else f"adapter[{i}]")
        models[name] = {
            "data": dict(zip(sets, judged, strict=True)),
            **(next(times) if timed else {}),
            **({"check": checks[name]} if name in checks else {}),
        }
        roles = {seed: part(f"accuracy[{i}]", seed) for seed in range(1, fields.seeds)}
        if again := {seed: read(role) for seed, role in roles.items() if role in job.action.inputs}:
            add_seeds(models[name], sets, again)
    measured = read_metrics({"models": models, "data": sets}, job.action.target)
    metrics: dict[str, Any] = {
        "models": models,
        "data": sets,
        "comparisons": comparisons(measured.models, sets),
        "latency": latency["latency"],
    }
    if pareto := front(measured):
        metrics["pareto"] = pareto.to_json()
    if fields.baseline:
        metrics["baselines"] = {
            name: dict(zip(sets, values, strict=True)) for name, values in read("baseline").items()
        }
    if fields.metrics:
        paths = {
            ref.target: Path(job.input(f"metrics[{i}]").path)
            for i, ref in enumerate(fields.metrics)
        }
        metrics["commands"] = {name: read_json(path) for name, path in paths.items()}
    (job.out / "metrics.json").write_text(
        json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    job.result = Result(metrics=metrics)
