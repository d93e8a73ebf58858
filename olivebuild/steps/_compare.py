"""Every model of a benchmark against every earlier one: what differs, and whether that is noise.

The same rows, the same rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from olivebuild.gates import OF_ANSWERS
from olivebuild.steps._statistics import (
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
from olivebuild.steps.benchmark_accuracy import without_answers

Answers = list[dict[str, Any]]
# figure -> whether a row's answer is right
YES_OR_NO: dict[str, Callable[[dict[str, Any]], bool]] = {
    "accuracy": lambda a: a["label"] == a["expected"],
    "generated_accuracy": lambda a: a["right"],
    "exact_match": lambda a: a["exact"],
    "schema_valid": lambda a: a["schema_valid"],
    "json_exact": lambda a: a["json_exact"],
}
# figure -> its samples, and whether more is better
LATENCY = {"ttft": False, "tpot": False, "e2e": False}


def comparisons(models: dict[str, Any], sets: list[str]) -> list[dict[str, Any]]:
    """As they stand in a benchmark's metrics."""
    result = []
    for versus, model in combinations(models, 2):
        for name in sets:
            for figure, found in _answers(
                models[model]["data"][name], models[versus]["data"][name]
            ):
                result.append(
                    _row(model, versus, figure, name, found, models[model]["data"][name]["rows"])
                )
        for figure, found in _rounds(
            models[model].get("samples", {}), models[versus].get("samples", {})
        ):
            result.append(_row(model, versus, figure, None, found, 0))
    return result


def add_seeds(
    model: dict[str, Any], sets: list[str], again: dict[int, list[dict[str, Any]]]
) -> None:
    """The same model trained with other seeds beside it, and how far each of its figures moves with
    them.
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
            _figures(row)
            for row in (model["data"][name], *(more["data"][name] for more in model["seeds"]))
        ]
        model["data"][name]["over_seeds"] = {
            figure: _spread(figure, [row[figure] for row in rows]) for figure in rows[0]
        }


def _figures(judged: dict[str, Any]) -> dict[str, float]:
    known: dict[str, float] = {
        figure: judged[figure] for figure in OF_ANSWERS if judged.get(figure) is not None
    }
    scores: dict[str, float] = judged.get("scores", {})
    return known | scores


def _spread(figure: str, values: list[float]) -> dict[str, Any]:
    mean, deviation, interval = over_seeds(values)
    worst = max if OF_ANSWERS.get(figure, ("higher", {}))[0] == "lower" else min
    return {
        "mean": _plain(mean),
        "interval": _plain(interval),
        "deviation": _plain(deviation),
        "worst": worst(values),
        "values": values,
    }


def _answers(model: dict[str, Any], versus: dict[str, Any]) -> Iterator[tuple[str, Difference]]:
    first, second = model["answers"], versus["answers"]
    for figure, right in YES_OR_NO.items():
        if figure in model and figure in versus:
            yield (
                figure,
                paired_shares([bool(right(a)) for a in first], [bool(right(a)) for a in second]),
            )
    if "macro_f1" in model:
        yield (
            "macro_f1",
            macro_f1(
                [a["expected"] for a in first],
                [a["label"] for a in first],
                [a["label"] for a in second],
            ),
        )
    if model.get("field_exact") is not None:
        yield (
            "field_exact",
            paired_means([a["field_exact"] for a in first], [a["field_exact"] for a in second]),
        )
    if "perplexity" in model and [a["tokens"] for a in first] == [a["tokens"] for a in second]:
        yield "perplexity", _perplexity(model, versus)
    for name in model.get("scores", {}):
        yield (
            name,
            paired_means([a["scores"][name] for a in first], [a["scores"][name] for a in second]),
        )


def _perplexity(model: dict[str, Any], versus: dict[str, Any]) -> Difference:
    """From the rows' likelihoods, in which the logarithm of the perplexity is a mean."""
    share = len(model["answers"]) / model["tokens"]
    found = paired_means(
        [a["nll"] * share for a in model["answers"]],
        [a["nll"] * share for a in versus["answers"]],
        higher_is_better=False,
    )
    interval = found.interval and tuple(
        versus["perplexity"] * math.expm1(min(700.0, v)) for v in found.interval
    )
    return replace(found, value=model["perplexity"] - versus["perplexity"], interval=interval)


def _rounds(model: dict[str, Any], versus: dict[str, Any]) -> Iterator[tuple[str, Difference]]:
    for figure, higher in LATENCY.items():
        first, second = model.get(figure) or [], versus.get(figure) or []
        if first and len(first) == len(second):
            yield figure, paired_rounds(first, second, higher_is_better=higher)


def _row(
    model: str, versus: str, figure: str, data: str | None, found: Difference, rows: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "versus": versus, "figure": figure, "data": data}
    row |= {
        "difference": _plain(found.value),
        "interval": _plain(found.interval),
        "verdict": found.verdict.value,
        "p": _plain(found.p),
    }
    if found.lost is not None and found.won is not None:
        differing = differing_share(found.lost, found.won, rows)
        needed = {str(loss): rows_needed(loss, differing) for loss in LOSSES}
        row |= {
            "lost": found.lost,
            "won": found.won,
            "detectable": _plain(detectable(rows, differing)),
            "rows_needed": needed,
        }
    if found.ratio is not None:
        row |= {"ratio": _plain(found.ratio), "ratio_interval": _plain(found.ratio_interval)}
    return row


def _plain(value: Any) -> Any:
    """Six digits are more than any of these figures has."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if value is None else float(f"{value:.6g}")
