"""Test rows that stand in training rows: compared, counted, and said before anything is trained."""

from __future__ import annotations

import json

from msgspec import to_builtins

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.data import overlap
from olivebuild.data.origins import origins_of
from olivebuild.metrics.diagnostics.overlaps import Overlap
from olivebuild.ml.data.examples import Table, read_table
from olivebuild.steps.measurements.overlap import OverlapFields

PLACES = 3


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(OverlapFields)
    train = [read_table(job.input(role).path) for role in job.roles("train")]
    data = [read_table(job.input(role).path) for role in job.roles("data")]
    overlaps = []
    for done, (i, j, near) in enumerate(fields.pairs):
        job.progress("comparing rows", done, len(fields.pairs))
        row = _compare(train[i], data[j], fields.train[i], fields.data[j], near=bool(near))
        if row.test_rows:
            overlaps.append(row)
            exact = f", {row.same} of them word for word" if row.same else ""
            job.note(
                f"{len(row.test_rows)} of {row.rows} test rows of {row.data} stand in the "
                f"training rows of {row.train}{exact}, such as {row.places[0]}"
            )
    result = to_builtins(overlaps)
    (job.out / "metrics.json").write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    job.result = Result(metrics={"overlaps": result})


def _compare(train: Table, test: Table, train_name: str, name: str, *, near: bool) -> Overlap:
    """Return the rows of `test` that are rows of `train`."""
    texts = [
        [overlap.question_of(table.format, row) for row in table.rows] for table in (train, test)
    ]
    found = overlap.matches(*texts, near=near)
    pairs = [(i, match) for i, match in enumerate(found) if match]
    here, there = (origins_of(table.path) for table in (test, train))
    first = sorted(pairs, key=lambda pair: not pair[1].exact)[:PLACES]
    return Overlap(
        train=train_name,
        data=name,
        rows=len(test.rows),
        same=sum(match.exact for _, match in pairs),
        test_rows=tuple(i for i, _ in pairs),
        places=tuple(
            f"{here.of(i) or f'row {i + 1}'} is {there.of(match.train) or f'row {match.train + 1}'}"
            for i, match in first
        ),
    )
