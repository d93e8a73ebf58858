"""Accuracy: rows of the test splits asked and judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.formats import template_clock
from olivebuild.steps.measurements.accuracy import STEP, AccuracyFields

if TYPE_CHECKING:
    from olivebuild.metrics.scoring import Judged
    from olivebuild.ml.benchmark.scores import Schema, Score
    from olivebuild.ml.data.examples import Table
    from olivebuild.ml.inference.runtime import Runtime


DAYS = (1, 200)
"""How much later the dates are on which a sample is judged, too, if the chat template reads the
clock ...
"""


DATED = 8
"""... and the rows of the sample."""


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.metrics.scoring import metrics_of, outcomes, without_answers
    from olivebuild.ml.benchmark.scores import Schema, load_score
    from olivebuild.ml.data.examples import read_table
    from olivebuild.ml.inference import runtime as _runtime
    from olivebuild.ml.inference.generate import open_model
    from olivebuild.ml.inference.kept_replies import KeptReplies
    from olivebuild.ml.models import genai
    from olivebuild.ml.models.opened import check_inputs

    check_inputs(job)
    genai.use_threads(job.action.threads)
    fields = job.fields(AccuracyFields)
    schema = Schema(job, job.files("json_schema")[0]) if fields.json_schema else None
    scores = {
        text.rpartition(":")[2]: load_score(
            job, job.files(f"score.{i}")[0], text.rpartition(":")[2]
        )
        for i, text in enumerate(fields.score)
    }
    model, adapter = job.input("model"), job.input("adapter").folder if fields.adapter else ""
    runtime = open_model(
        model.folder,
        adapter,
        trust_remote_code=model.trust_remote_code,
        trust_adapter=bool(adapter) and job.input("adapter").trust_remote_code,
        date=job.action.template_date,
        where=job.where(),
    )
    tables = [read_table(job.input(role).path) for role in job.roles("data")]
    if schema:
        # Each right answer is one of a kind; which of them is likeliest is not the question.
        tables = [replace(table, labels=[]) for table in tables]
    rows = sum(len(t.rows) for t in tables)
    done, result = 0, []
    for number, (role, table) in enumerate(zip(job.roles("data"), tables, strict=True)):
        kept = KeptReplies(job, role, STEP.libraries(fields))
        judged: dict[int, Judged] = {}
        labelled, written = bool(table.labels), table.format != "text"
        for i, answer in _runtime.judge(
            runtime,
            table,
            fields.max_new_tokens,
            whole=bool(schema or scores),
            asking=kept.answers,
        ):
            judged[i] = _scored(answer, table.rows[i], schema, scores) if written else answer
            done += 1
            right = outcomes(judged[i], labelled=labelled, written=written)
            job.judged(number, len(table.rows), {i: right})
            job.progress("judging", done, rows)
        in_order = [judged[i] for i in range(len(table.rows))]
        result.append(metrics_of(in_order, labelled=labelled, written=written))
        if (
            template_clock.folder_reads_clock(Path(model.folder))
            and table.format in ("user", "messages")
            and table.rows
        ):
            result[-1]["other_dates"] = _on_other_dates(job, runtime, table, fields.max_new_tokens)
    # The process may go on to another step.
    genai.use_threads(0)
    (job.out / "metrics.json").write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    job.result = Result(metrics={"data": [without_answers(r) for r in result]})


def _on_other_dates(
    job: Job, runtime: Runtime, table: Table, new_tokens: int
) -> dict[str, dict[str, int]]:
    """Return how many answers to a few rows change when the template writes another date.

    Says so.
    """
    from olivebuild.ml.inference import runtime as _runtime
    from olivebuild.ml.inference.generate import dress
    from olivebuild.ml.models import load

    adapter = job.input("adapter").folder if "adapter" in job.action.inputs else ""
    model, few = job.input("model"), replace(table, rows=table.rows[:DATED])

    def answers(date: str) -> list[tuple[int, str, str]]:
        runtime.tokenizer = load.load_tokenizer(
            model.folder, trust_remote_code=model.trust_remote_code, date=date
        )
        if adapter:
            dress(runtime, adapter, date)
        return sorted(
            (i, answer.label, answer.text) for i, answer in _runtime.judge(runtime, few, new_tokens)
        )

    template_date, changes, tokenizer = job.action.template_date, {}, runtime.tokenizer
    expected = answers(template_date)
    for date in (template_clock.later(template_date, days) for days in DAYS):
        changed = sum(a != b for a, b in zip(expected, answers(date), strict=True))
        changes[date] = {"rows": len(expected), "changed": changed}
        if changed:
            job.note(
                f"{changed} of {len(expected)} answers are other ones where the chat template "
                f"writes {date} and not {template_date}"
            )
    runtime.tokenizer = tokenizer
    return changes


def _scored(
    answer: Judged, row: dict[str, str], schema: Schema | None, scores: dict[str, Score]
) -> Judged:
    fields = schema.judge(answer.text, answer.wanted) if schema else None
    return replace(
        answer,
        fields=fields,
        scores={name: score(answer.text, row) for name, score in scores.items()},
    )
