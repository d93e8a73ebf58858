"""Rows with different answers: between models, and between the last build and the one before."""

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
    """Return the rows on which models differ; None without such rows, or without answers."""
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
    """Yield for each model the rows of both builds that it answers differently now.

    The last model comes first.
    """
    traces = evidence.project.planner.traces
    old_trace, new = traces.get(before.measured[target].key), evidence.benchmark(target)
    if not old_trace:
        return
    old = read_metrics(old_trace.metrics, target)
    for data in new.data:
        old_data = before.measured.get(data)
        trace = traces.get(old_data.key) if old_data else None
        for model in reversed(new.models):
            answers, old_answers = _answers(new, model, data), _answers(old, model, data)
            texts = rows.prompts(evidence, evidence.trace(data), len(answers))
            pairs = _same_rows(texts, rows.prompts(evidence, trace, len(old_answers)))
            if not pairs:
                continue
            columns = {
                before.name: [old_answers[pairs[i]] for i in pairs],
                now.name: [answers[i] for i in pairs],
            }
            texts = rows.unframed(texts)
            flips = _flips(
                data,
                model,
                columns,
                texts=[texts[i] for i in pairs],
                numbers=list(pairs),
                fresh=len(answers) - len(pairs),
            )
            if flips:
                yield flips


def between_checkouts(old: Evidence, new: Evidence, target: str) -> Iterator[Flips]:
    """Yield for each model of a benchmark the rows of both checkouts that it answers differently.

    Rows are the same where the whole data set is, or else where their prompts are.
    """
    before, now = old.benchmark(target), new.benchmark(target)
    for data in now.data:
        old_trace, trace = old.trace(data), new.trace(data)
        is_same = bool(trace and old_trace and trace.outputs == old_trace.outputs)
        for model in now.models:
            answers, old_answers = _answers(now, model, data), _answers(before, model, data)
            if not answers or not old_answers:
                continue
            texts = rows.prompts(new, trace, len(answers))
            if is_same and len(answers) == len(old_answers):
                pairs = {i: i for i in range(len(answers))}
            else:
                pairs = _same_rows(texts, rows.prompts(old, old_trace, len(old_answers)))
            columns = {
                "before": [old_answers[pairs[i]] for i in pairs],
                "now": [answers[i] for i in pairs],
            }
            shown = rows.unframed(texts)
            shown = [shown[i] for i in pairs] if shown else []
            fresh = len(answers) - len(pairs)
            if flips := _flips(data, model, columns, shown, list(pairs), fresh):
                yield flips


def _same_rows(new: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    """Return row -> row of the old build with the same prompt.

    An edited template changes every prompt; then rows are equal whose prompts are so without the
    template.
    """
    if not set(new) & set(old):
        new, old = rows.unframed(new), rows.unframed(old)
    positions = {text: i for i, text in enumerate(old)}
    return {i: positions[text] for i, text in enumerate(new) if text in positions}


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
    """Return the rows on which columns of answers differ; None without such rows.

    `columns`: answers to the same rows; `numbers`: positions of these in the data set, from 0;
    `fresh`: rows that the first column does not have.
    """
    expected = [answer.expected or "" for answer in [*columns.values()][-1]]
    replies = [[_reply(answer) for answer in column] for column in columns.values()]
    moves = tuple(
        Move(a, b, *_moved(x, y))
        for (a, b), (x, y) in zip(pairwise(columns), pairwise(replies), strict=True)
    )
    flips = []
    for i, row in enumerate(zip(*replies, strict=True)):
        if len({(reply.text, reply.right) for reply in row}) > 1:
            text = rows.clip(texts[i]) if texts else ""
            flips.append(Flip(numbers[i] + 1, text, rows.clip(expected[i]), row))
    if not flips:
        return None
    late = [flip for flip in flips if flip.replies[-2] != flip.replies[-1]]
    late.sort(key=lambda flip: (flip.replies[-1].right, not flip.replies[-2].right))
    early = [flip for flip in flips if flip.replies[-2] == flip.replies[-1]]
    early.sort(key=lambda flip: flip.replies[-1].right)
    return Flips(
        data=data,
        model=model,
        columns=tuple(columns),
        moves=moves,
        rows=tuple(late[:MAX_FLIPS]),
        others=tuple(early[:MAX_FLIPS]),
        count=len(flips),
        fresh=fresh,
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
