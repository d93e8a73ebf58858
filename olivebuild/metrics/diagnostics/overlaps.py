"""Diagnostics of test rows that stand in the rows that were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic, Figures
from olivebuild.metrics.diagnostics.labels import joined
from olivebuild.metrics.diagnostics.lineage import Lineages
from olivebuild.metrics.records import YES_OR_NO, DataMetrics, Metrics

QUALITIES = ("accuracy", "json_exact", "generated_accuracy")


class Overlap(Struct, frozen=True, kw_only=True):
    """Test rows of `data` that stand in the training rows of the data set `train`.

    `test_rows` are their numbers from 0, near ones included; `same` of them are there word for
    word. `rows` counts all test rows. `places` say where the first ones stand in the files.
    """

    train: str
    data: str
    rows: int
    same: int
    test_rows: tuple[int, ...]
    places: tuple[str, ...] = ()


def of_overlaps(
    metrics: Metrics, lineages: Lineages, overlaps: Sequence[Overlap]
) -> Iterator[Diagnostic]:
    """Yield the diagnostics of test rows that models of the benchmark were trained on."""
    for overlap in overlaps:
        models = [name for name in metrics.models if _has_seen(name, overlap, lineages)]
        if overlap.test_rows and models:
            yield _contaminated(metrics, models, overlap)


def _has_seen(model: str, overlap: Overlap, lineages: Lineages) -> bool:
    return model in lineages and overlap.train in lineages[model].trained_on


def _contaminated(metrics: Metrics, models: Sequence[str], overlap: Overlap) -> Diagnostic:
    """Return the diagnostic of an overlap.

    It is an error where the rows are so many that they can move the figure of a model further than
    its interval at 95 % does.
    """
    count, rows, name = len(overlap.test_rows), overlap.rows, overlap.data
    metric, seen, others, half = _split(metrics.models[models[0]].data.get(name), overlap)
    figures: Figures = {"rows": rows, "near": count, "same": overlap.same, "train": overlap.train}
    split = ""
    if metric and seen is not None:
        figures |= {f"{metric}_seen": round(seen, 6)}
        figures |= {f"{metric}_others": None if others is None else round(others, 6)}
        rest = "" if others is None else f", of the other {rows - count} {others * 100:.1f} %"
        split = f"; {models[0]} answers {seen * 100:.1f} % of them rightly{rest}"
    exact = f", {overlap.same} of them word for word" if overlap.same else ", none word for word"
    where = f" (first {overlap.places[0]})" if overlap.places else ""
    return Diagnostic(
        code="test-in-train",
        severity="error" if half is None or count / max(1, rows) > half else "warning",
        text=f"{count} of the {rows} test rows of {name} stand in the training rows of "
        f"{overlap.train}{exact}{where}: {joined(models)} learnt them{split}",
        hint="take them out of one of the two: what is measured on them says little",
        target=name,
        model=models[0],
        data=name,
        figures=figures,
    )


def _split(
    row: DataMetrics | None, overlap: Overlap
) -> tuple[str, float | None, float | None, float | None]:
    """Return a metric, its value on the rows that were seen and on the others, half its interval.

    The metric is "" where answers are not right or wrong.
    """
    if row is None or row.rows != overlap.rows:
        return "", None, None, None
    metric = next((m for m in QUALITIES if row.metric(m) is not None), "")
    if not metric:
        return "", None, None, None
    seen, marks = set(overlap.test_rows), list(map(YES_OR_NO[metric], row.answers))
    inside = [bool(mark) for i, mark in enumerate(marks) if i in seen]
    outside = [bool(mark) for i, mark in enumerate(marks) if i not in seen]
    interval = row.interval(metric)
    return (
        metric,
        sum(inside) / len(inside) if inside else None,
        sum(outside) / len(outside) if outside else None,
        (interval[1] - interval[0]) / 2 if interval else None,
    )
