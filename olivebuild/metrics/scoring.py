"""Answers -> metrics.

Shares with intervals, a table of labels, who was taken for whom, perplexity, JSON fields. Knows no
models.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from olivebuild.metrics.statistics import share_interval


@dataclass(frozen=True)
class Fields:
    """Verdicts on the JSON fields of one answer.

    Whether it follows the schema, whether it is all right, and which fields are.
    """

    valid: bool
    exact: bool
    right: dict[str, bool]

    @property
    def share(self) -> float:
        return sum(self.right.values()) / len(self.right) if self.right else float(self.exact)


@dataclass(frozen=True)
class Judged:
    """One row with its answer.

    What was expected, the likeliest label, what was written, and the likelihood of the right answer
    (`nll`, in nats).
    """

    expected: str
    wanted: str
    """The right answer as text; `expected` is its label, where it has one."""
    label: str
    text: str
    nll: float
    tokens: int
    fields: Fields | None = None
    scores: dict[str, float] = field(default_factory=dict)
    cut: bool = False
    """The text is only the beginning of what would have been written, and wrong already."""

    @property
    def exact(self) -> bool:
        return self.text == self.wanted

    @property
    def right(self) -> bool:
        return normal(self.text) == normal(self.wanted)


def normal(text: str) -> str:
    """A text without case, repeated white space, and punctuation at its ends."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.strip("".join(c for c in words if unicodedata.category(c)[0] in "PZ"))


def without_answers(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "answers"}


def metrics_of(judged: list[Judged], *, labelled: bool, written: bool) -> dict[str, Any]:
    """`labelled`: each row has a likeliest label; `written`: each has a free answer."""
    rows = len(judged)
    metrics: dict[str, Any] = {"rows": rows}
    if not rows:
        return metrics | {"answers": []}
    if labelled:
        metrics |= _share("accuracy", judged, lambda j: j.label == j.expected) | _labels(judged)
    if written:
        metrics |= _share("generated_accuracy", judged, lambda j: j.right) | {
            "exact_match": _mean([j.exact for j in judged])
        }
    if tokens := sum(j.tokens for j in judged):
        # Beyond e^700 there are no floats, and no model either.
        metrics |= {
            "perplexity": round(math.exp(min(700.0, sum(j.nll for j in judged) / tokens)), 6),
            "tokens": tokens,
        }
    if parsed := [j.fields for j in judged if j.fields]:
        metrics |= _json(parsed)
    if names := judged[0].scores:
        metrics["scores"] = {name: _mean([j.scores[name] for j in judged]) for name in names}
    return metrics | {"answers": [_answer(j) for j in judged]}


def outcomes(judged: Judged, *, labelled: bool, written: bool) -> dict[str, bool]:
    """Return which of `gates.OF_ROWS` one answer is right in; the arguments are `metrics_of`'s."""
    right: dict[str, bool] = {}
    if labelled:
        right["accuracy"] = judged.label == judged.expected
    if written:
        right |= {"generated_accuracy": judged.right, "exact_match": judged.exact}
    if judged.fields:
        right |= {"schema_valid": judged.fields.valid, "json_exact": judged.fields.exact}
    return right


def _share(name: str, judged: list[Judged], is_right: Callable[[Judged], bool]) -> dict[str, Any]:
    right = sum(map(is_right, judged))
    interval = [round(end, 6) for end in share_interval(right, len(judged)) or ()]
    return {name: round(right / len(judged), 6), f"{name}_interval": interval}


def _labels(judged: list[Judged]) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    expected, answered = [j.expected for j in judged], [j.label for j in judged]
    labels = sorted({*expected, *answered})
    precision, recall, f1, rows = precision_recall_fscore_support(
        expected, answered, labels=labels, zero_division=0.0
    )
    table = {
        label: {
            "rows": int(rows[i]),
            "precision": round(float(precision[i]), 6),
            "recall": round(float(recall[i]), 6),
            "f1": round(float(f1[i]), 6),
        }
        for i, label in enumerate(labels)
    }
    # A label that no test row has can't be missed: its mean would only tell that it was answered at
    # all.
    macro = _mean([row["f1"] for row in table.values() if row["rows"]])
    counts = confusion_matrix(expected, answered, labels=labels).tolist()
    return {"macro_f1": macro, "labels": table, "confusion": {"labels": labels, "counts": counts}}


def _json(parsed: list[Fields]) -> dict[str, Any]:
    table: dict[str, list[bool]] = {}
    for row in parsed:
        for name, right in row.right.items():
            table.setdefault(name, []).append(right)
    return {
        "schema_valid": _mean([row.valid for row in parsed]),
        "field_exact": _mean([right for column in table.values() for right in column])
        if table
        else None,
        "json_exact": _mean([row.exact for row in parsed]),
        "fields": {
            name: {"rows": len(column), "exact": _mean(column)} for name, column in table.items()
        },
    }


def _answer(judged: Judged) -> dict[str, Any]:
    row: dict[str, Any] = {"expected": judged.expected, "label": judged.label, "text": judged.text}
    row |= {
        "right": judged.right,
        "exact": judged.exact,
        "nll": round(judged.nll, 6),
        "tokens": judged.tokens,
    }
    if judged.fields:
        row |= {
            "schema_valid": judged.fields.valid,
            "field_exact": round(judged.fields.share, 6),
            "json_exact": judged.fields.exact,
        }
    if judged.cut:
        row["cut"] = True
    return row | ({"scores": judged.scores} if judged.scores else {})


def _mean(values: list[Any]) -> float:
    return round(sum(map(float, values)) / len(values), 6)
