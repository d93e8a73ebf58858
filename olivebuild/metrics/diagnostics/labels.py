"""Diagnostics of a model's answers by themselves: one label to all rows, labels exchanged.

Each is a test of a hypothesis about a model that works, so that a small test set raises no alarm:
of a hundred benchmarks of models that work at most FALSE_ALARMS * 100 get one of a code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats
from scipy.optimize import linear_sum_assignment

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.records import Answer, DataMetrics
from olivebuild.metrics.scoring import normal

FALSE_ALARMS = 0.05
"""How often a benchmark of models that work gets a diagnostic of one code."""
NEARLY_ALL = 0.95
"""The share of rows that counts as nearly all."""
LEAST_RECALL = 0.5
"""A model that works answers other labels than the commonest to so many of the rows that have one,
rightly or wrongly.
"""


def of_answers(
    model: str, data: str, metrics: DataMetrics, level: float = FALSE_ALARMS
) -> Iterator[Diagnostic]:
    """Yield the diagnostics of a model's answers to the rows of a data set."""
    if metrics.labels:
        pairs = [(a.expected or "", a.label or "") for a in metrics.answers]
        if one := one_label(pairs, level):
            yield _one(model, data, "one-label", one)
        elif swapped := exchanged(pairs, level):
            yield _swapped(model, data, pairs, swapped)
    elif metrics.generated_accuracy is not None:
        texts = [_texts(answer) for answer in metrics.answers]
        if one := one_label(texts, level):
            yield _one(model, data, "one-answer", one)


def _texts(answer: Answer) -> tuple[str, str]:
    """Return what was expected and what was written, but for case, space and punctuation."""
    written = normal(answer.text or "")
    # What is expected may be known by its label alone.
    return written if answer.right else normal(answer.expected or ""), written


class OneLabel(tuple[str, int, int, int]):
    """A label, the rows that were answered with it, those that have another, and all rows."""


def one_label(pairs: Sequence[tuple[str, str]], level: float = FALSE_ALARMS) -> OneLabel | None:
    """Return the label that nearly all rows are answered with though others are due; else None.

    `pairs` are (expected, answered). The hypothesis that is rejected: of the rows with another
    label at least LEAST_RECALL are answered with another one (one-sided binomial test).
    """
    if not pairs:
        return None
    label, count = Counter(answered for _, answered in pairs).most_common(1)[0]
    due = sum(expected != label for expected, _ in pairs)
    if count < NEARLY_ALL * len(pairs):
        return None
    if stats.binom.cdf(len(pairs) - count, due, LEAST_RECALL) >= level:
        return None
    return OneLabel((label, count, due, len(pairs)))


def exchanged(pairs: Sequence[tuple[str, str]], level: float = FALSE_ALARMS) -> dict[str, str]:
    """Return the labels that are answered with one another's: label -> the one answered instead.

    Of all ways to rename the answers the one that makes most of them right is taken (Kuhn 1955, The
    Hungarian method, by scipy). Of its cycles those count in which every label is answered with the
    next one more often than with itself, by a one-sided binomial test that is corrected for all
    pairs of labels.
    """
    labels = sorted({expected for expected, _ in pairs})
    if len(labels) < 2:
        return {}
    number = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    for expected, answered in pairs:
        if answered in number:
            counts[number[expected], number[answered]] += 1
    target = linear_sum_assignment(counts, maximize=True)[1]
    per_pair = level / (len(labels) * (len(labels) - 1))
    result: dict[str, str] = {}
    for i, j in enumerate(target):
        cycle = [i]
        while target[cycle[-1]] != i:
            cycle.append(int(target[cycle[-1]]))
        if i != j and all(_prefers(counts[k], k, int(target[k]), per_pair) for k in cycle):
            result[labels[i]] = labels[j]
    return result


def _prefers(answers: np.ndarray, right: int, other: int, level: float) -> bool:
    """Return whether rows of a label are answered with another more often than rightly."""
    both = int(answers[right] + answers[other])
    return both > 0 and float(stats.binom.sf(answers[other] - 1, both, 0.5)) < level


def _one(model: str, data: str, code: str, one: OneLabel) -> Diagnostic:
    label, count, due, rows = one
    verb = "answers" if code == "one-label" else "writes"
    others = "have another label" if code == "one-label" else "want another answer"
    hints = {
        "one-label": "is the learning rate too high, or one label most of what it is trained on?",
        "one-answer": "is the learning rate too high, or one answer most of what it is trained on?",
    }
    return Diagnostic(
        code=code,
        severity="error",
        text=f"{model} {verb} {quoted(label)} to {count} of the {rows} rows of {data}, of which "
        f"{due} {others}",
        hint=hints[code],
        target=model,
        model=model,
        data=data,
        figures={"answer": label, "answered": count, "others": due, "rows": rows},
    )


def _swapped(
    model: str, data: str, pairs: Sequence[tuple[str, str]], swapped: dict[str, str]
) -> Diagnostic:
    right = sum(expected == answered for expected, answered in pairs)
    renamed = sum(swapped.get(expected, expected) == answered for expected, answered in pairs)
    rows = len(pairs)
    names = joined([quoted(label) for label in swapped])
    return Diagnostic(
        code="swapped-labels",
        severity="error",
        text=f"{model} exchanges the labels {names} on {data}: {right} of {rows} answers are "
        f"right, and {renamed} would be if these were exchanged",
        hint="are the labels of the rows that it learnt from exchanged, or those of the test rows?",
        target=model,
        model=model,
        data=data,
        figures={
            "labels": ", ".join(f"{a} -> {b}" for a, b in swapped.items()),
            "rows": rows,
            "accuracy": round(right / rows, 6),
            "accuracy_exchanged": round(renamed / rows, 6),
        },
    )


def joined(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def quoted(text: str, most: int = 40) -> str:
    """Return a label or an answer between quotes, cut to `most` characters."""
    if not text:
        return "nothing"
    return repr(text if len(text) <= most else text[: most - 3] + "...")
