"""Which answers differ: between the models of a benchmark, and of each model between the last build
and the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from olivebuild.engine.history import Entry
from olivebuild.metrics.records import Answer, Metrics, read_metrics
from olivebuild.ui.report.collect import rows
from olivebuild.ui.report.records import Flip, Flips, Move, Reply

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

MAX_FLIPS = 30
Answers = Sequence[Answer]


def between_models(evidence: Evidence, metrics: Metrics, data: str) -> Flips | None:
    """Return the rows on which models differ; None where there are none, or answers were not
    kept.
    """
    kept = {name: row for name in metrics.models if (row := _answers(metrics, name, data))}
    if len(kept) < 2 or len({len(row) for row in kept.values()}) != 1:
        return None
    count = len(next(iter(kept.values())))
    return _flips(
        data,
        "",
        kept,
        rows.unframed(rows.prompts(evidence, evidence.trace(data), count)),
        range(count),
    )


def between_builds(evidence: Evidence, target: str, before: Entry, now: Entry) -> Iterator[Flips]:
    """Of each model, the rows that both builds asked and that it answers otherwise now; the last
    model first.
    """
    traces = evidence.project.planner.traces
    old_trace, new = traces.get(before.measured[target].key), evidence.benchmark(target)
    if not old_trace:
        return
    old = read_metrics(old_trace.metrics, target)
    for data in new.data:
        known = before.measured.get(data)
        trace = traces.get(known.key) if known else None
        for model in reversed(new.models):
            answers, earlier = _answers(new, model, data), _answers(old, model, data)
            asked, asked_then = (
                rows.prompts(evidence, evidence.trace(data), len(answers)),
                rows.prompts(evidence, trace, len(earlier)),
            )
            texts = rows.unframed(asked)
            if not set(asked) & set(asked_then):
                # An edited template changes every prompt; the rows are known again by what they
                # don't share, unless they were edited, too.
                asked, asked_then = texts, rows.unframed(asked_then)
            places = {text: i for i, text in enumerate(asked_then)}
            same = [i for i, text in enumerate(asked) if text in places]
            columns = {
                before.name: [earlier[places[asked[i]]] for i in same],
                now.name: [answers[i] for i in same],
            }
            if same and (
                found := _flips(
                    data, model, columns, [texts[i] for i in same], same, len(answers) - len(same)
                )
            ):
                yield found


def _answers(metrics: Metrics, model: str, data: str) -> Answers:
    row = metrics.models.get(model)
    of_data = row.data.get(data) if row else None
    return of_data.answers if of_data else ()


def _flips(
    data: str,
    model: str,
    columns: Mapping[str, Answers],
    texts: Sequence[str],
    numbers: Sequence[int],
    fresh: int = 0,
) -> Flips | None:
    """`columns`: answers to the same rows; `numbers`: where these stand in the data set, from 0."""
    expected = [a.expected or "" for a in [*columns.values()][-1]]
    replies = [[_reply(a) for a in column] for column in columns.values()]
    moves = tuple(
        Move(a, b, *_moved(x, y))
        for (a, b), (x, y) in zip(pairwise(columns), pairwise(replies), strict=True)
    )
    differ = [
        i
        for i, row in enumerate(zip(*replies, strict=True))
        if len({(r.text, r.right) for r in row}) > 1
    ]
    if not differ:
        return None
    flips = [
        Flip(
            numbers[i] + 1,
            rows.clip(texts[i]) if texts else "",
            rows.clip(expected[i]),
            tuple(c[i] for c in replies),
        )
        for i in differ
    ]
    late = [f for f in flips if f.replies[-2] != f.replies[-1]]
    late.sort(key=lambda f: (f.replies[-1].right, not f.replies[-2].right))
    early = [f for f in flips if f.replies[-2] == f.replies[-1]]
    early.sort(key=lambda f: f.replies[-1].right)
    return Flips(
        data,
        model,
        tuple(columns),
        moves,
        tuple(late[:MAX_FLIPS]),
        tuple(early[:MAX_FLIPS]),
        len(differ),
        fresh,
    )


def _reply(answer: Answer) -> Reply:
    """Judge by the likeliest label where there is one, else by what was written."""
    label, text, expected = answer.label or "", answer.text or "", answer.expected or ""
    if label:
        right = label == expected
    elif answer.right is not None:
        right = answer.right
    else:
        right = text.strip().casefold() == expected.strip().casefold()
    return Reply(rows.clip(label or text), right)


def _moved(old: list[Reply], new: list[Reply]) -> tuple[int, int, int]:
    pairs = list(zip(old, new, strict=True))
    lost = sum(a.right and not b.right for a, b in pairs)
    won = sum(b.right and not a.right for a, b in pairs)
    return lost, won, sum(a.text != b.text and a.right == b.right for a, b in pairs)
