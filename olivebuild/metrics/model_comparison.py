"""Every model of a benchmark against every earlier one: what differs, and whether that is noise.

The same rows, the same rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from olivebuild.metrics.gates import OF_ANSWERS
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.pace import measured_as
from olivebuild.metrics.records import YES_OR_NO, DataMetrics, ModelMetrics, Samples
from olivebuild.metrics.scoring import without_answers
from olivebuild.metrics.statistics import (
    LOSSES,
    Difference,
    detectable,
    differing_share,
    macro_f1,
    over_seeds,
    paired_means,
    paired_rounds,
    paired_shares,
    rows_needed,
)

# metric -> its samples, and whether more is better
LATENCY = {"ttft": False, "tpot": False, "e2e": False}


def comparisons(models: Mapping[str, ModelMetrics], sets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the comparisons of all pairs, as they stand in a benchmark's `metrics.json`."""
    result = []
    for versus, model in combinations(models, 2):
        for name in sets:
            of_data = models[model].data[name]
            for metric, difference in _answers(of_data, models[versus].data[name]):
                result.append(_row(model, versus, metric, name, difference, of_data.rows))
        if measured_as(models, model) == measured_as(models, versus):
            continue
        for metric, difference in _rounds(models[model].samples, models[versus].samples):
            result.append(_row(model, versus, metric, None, difference, 0))
    return result


def add_seeds(
    model: dict[str, Any], sets: list[str], again: dict[int, list[dict[str, Any]]]
) -> None:
    """Add the same model trained with other seeds to a model of `metrics.json`.

    And how far each of its metrics moves with them.

    `again`: the accuracy of each seed, a row a data set.
    """
    model["seeds"] = [
        {
            "seed": seed,
            "data": {name: without_answers(row) for name, row in zip(sets, judged, strict=True)},
        }
        for seed, judged in again.items()
    ]
    for name in sets:
        rows = [
            _metrics_of(decode(row, DataMetrics))
            for row in (model["data"][name], *(more["data"][name] for more in model["seeds"]))
        ]
        model["data"][name]["over_seeds"] = {
            metric: _spread(metric, [row[metric] for row in rows]) for metric in rows[0]
        }


def _metrics_of(row: DataMetrics) -> dict[str, float]:
    names = (*OF_ANSWERS, *row.scores)
    return {name: value for name in names if (value := row.metric(name)) is not None}


def _spread(metric: str, values: list[float]) -> dict[str, Any]:
    mean, deviation, interval = over_seeds(values)
    worst = max if OF_ANSWERS.get(metric, ("higher", {}))[0] == "lower" else min
    return {
        "mean": _plain(mean),
        "interval": _plain(interval),
        "deviation": _plain(deviation),
        "worst": worst(values),
        "values": values,
    }


def _answers(model: DataMetrics, versus: DataMetrics) -> Iterator[tuple[str, Difference]]:
    yield from _yes_or_no(model, versus)
    yield from _labels(model, versus)
    yield from _numbers(model, versus)


def _yes_or_no(model: DataMetrics, versus: DataMetrics) -> Iterator[tuple[str, Difference]]:
    first, second = model.answers, versus.answers
    for metric, right in YES_OR_NO.items():
        if model.metric(metric) is not None and versus.metric(metric) is not None:
            yield (
                metric,
                paired_shares([bool(right(a)) for a in first], [bool(right(a)) for a in second]),
            )


def _labels(model: DataMetrics, versus: DataMetrics) -> Iterator[tuple[str, Difference]]:
    first, second = model.answers, versus.answers
    if model.macro_f1 is not None:
        yield (
            "macro_f1",
            macro_f1(
                [a.expected or "" for a in first],
                [a.label or "" for a in first],
                [a.label or "" for a in second],
            ),
        )


def _numbers(model: DataMetrics, versus: DataMetrics) -> Iterator[tuple[str, Difference]]:
    first, second = model.answers, versus.answers
    if model.field_exact is not None:
        yield (
            "field_exact",
            paired_means(
                [a.field_exact or 0.0 for a in first], [a.field_exact or 0.0 for a in second]
            ),
        )
    if model.perplexity is not None and [a.tokens for a in first] == [a.tokens for a in second]:
        yield "perplexity", _perplexity(model, versus)
    for name in model.scores:
        yield (
            name,
            paired_means([a.scores[name] for a in first], [a.scores[name] for a in second]),
        )


def _perplexity(model: DataMetrics, versus: DataMetrics) -> Difference:
    """Compare the rows' likelihoods, in which the logarithm of the perplexity is a mean."""
    share = len(model.answers) / (model.tokens or 1)
    old, new = versus.perplexity or 0.0, model.perplexity or 0.0
    difference = paired_means(
        [a.nll * share for a in model.answers],
        [a.nll * share for a in versus.answers],
        higher_is_better=False,
    )
    ends = difference.interval
    interval = ends and (_relative(old, ends[0]), _relative(old, ends[1]))
    return replace(difference, value=new - old, interval=interval)


def _relative(perplexity: float, change: float) -> float:
    """Return how much a perplexity changes when its logarithm does."""
    # Beyond e^700 there are no floats.
    return perplexity * math.expm1(min(700.0, change))


def _rounds(model: Samples, versus: Samples) -> Iterator[tuple[str, Difference]]:
    for metric, higher in LATENCY.items():
        first, second = list(model.get(metric)), list(versus.get(metric))
        if first and len(first) == len(second):
            yield metric, paired_rounds(first, second, higher_is_better=higher)


def _row(
    model: str, versus: str, metric: str, data: str | None, compared: Difference, rows: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "versus": versus, "figure": metric, "data": data}
    row |= {
        "difference": _plain(compared.value),
        "interval": _plain(compared.interval),
        "verdict": compared.verdict.value,
        "p": _plain(compared.p),
    }
    if compared.lost is not None and compared.won is not None:
        differing = differing_share(compared.lost, compared.won, rows)
        needed = {str(loss): rows_needed(loss, differing) for loss in LOSSES}
        row |= {
            "lost": compared.lost,
            "won": compared.won,
            "detectable": _plain(detectable(rows, differing)),
            "rows_needed": needed,
        }
    if compared.ratio is not None:
        row |= {"ratio": _plain(compared.ratio), "ratio_interval": _plain(compared.ratio_interval)}
    return row


def _plain(value: Any) -> Any:
    """Six digits are more than any of these metrics has."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if value is None else float(f"{value:.6g}")
