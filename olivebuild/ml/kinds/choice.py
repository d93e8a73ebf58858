"""The choice of a benchmark's best ONNX model under gates."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import GateError
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.gates import Gate
from olivebuild.metrics.pareto import front, ranked
from olivebuild.steps.choice import ChoiceFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(ChoiceFields)
    from olivebuild.metrics.records import read_metrics

    by = job.input("by")
    metrics = read_metrics(read_json(Path(by.folder) / "metrics.json"), by.target)
    models = {job.input(role).target: job.input(role) for role in job.roles("model")}
    gates = [
        Gate.parse(text, metrics.score_names, list(metrics.commands), strict=fields.strict)
        for text in fields.gates
    ]
    candidates = ranked(job.action.target, metrics, models, fields.best, gates)
    best = candidates[0]
    if not best.passes:
        missed = next(j for j in best.judgements if not j.may_pass)
        fact = (
            f"no model of {by.target} meets all gates; {best.model} is nearest "
            "and "
            f"misses {missed.gate}: {missed.value:.4g}"
        )
        raise GateError(
            fact,
            where=job.where("gates"),
            hint="the one that was chosen before, if any, stays in build/",
        )
    passing = [c.model for c in candidates if c.passes]
    job.note(
        f"{best.model} is the best of {len(candidates)} by {fields.best}"
        + (f"; {len(passing)} meet all gates" if gates else "")
    )
    pareto = front(metrics)
    choice: dict[str, object] = {
        "chosen": best.model,
        "by": fields.best,
        "value": abs(best.value),
        "passing": passing,
    }
    job.result = Result(
        metrics=choice | ({"pareto": pareto.to_json()} if pareto else {}),
        manifest=models[best.model].manifest,
    )
