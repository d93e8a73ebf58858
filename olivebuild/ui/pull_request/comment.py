"""The comment on a pull request, in Markdown, from a report that nobody vouches for.

All that comes from the report is escaped: it can neither mention anybody nor link, embed, or end
the table that it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from olivebuild.core.streams import plain
from olivebuild.core.text import seconds
from olivebuild.ui.pull_request.records import Answers, GateLine, Planned, PullRequestReport
from olivebuild.ui.report.render.markdown import text as escaped

MARKER = "<!-- olivebuild: what a pull request changes -->"
"""Begins our comments, so that the next one replaces it."""
JOINER = "\u2060"
"""A character that nobody sees, within what would become a link."""
MOST = 60_000
"""Characters of a comment; GitHub takes 65,536."""
STATES = {
    "met": "met ✅",
    "missed": "**missed** ❌",
    "undecided": "not decided ⚠️",
    "none": "no result",
}


def render(report: PullRequestReport, *, show_rows: bool) -> str:
    """Return the comment. Texts of rows are in it only with `show_rows`."""
    lines: list[str] = []
    length = 0
    for line in _lines(report, show_rows=show_rows):
        length += len(line) + 1
        if length > MOST:
            lines += ["", "The rest is left out; it is in the artifact of the job."]
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lines(report: PullRequestReport, *, show_rows: bool) -> Iterator[str]:
    yield MARKER
    yield f"### {text(report.name)}: {_headline(report)}"
    yield ""
    for problem in report.problems:
        yield f"- ❌ {text(problem)}"
    if report.problems:
        yield ""
    if report.gates:
        yield from _table(("gate", "value", "verdict", "before"), map(_gate, report.gates))
    if report.answers:
        yield "**Answers that change**"
        yield ""
        head = ("benchmark", "model", "data", "lost", "won", "other", "not asked before")
        yield from _table(head, map(_answers, report.answers))
        if show_rows:
            for one in report.answers:
                yield from _rows(one)
    yield from _plan(report)
    if report.left_out:
        yield f"{report.left_out} more are not listed."


def _headline(report: PullRequestReport) -> str:
    """Return what the build would run, and what that cost last time."""
    to_run = [t for t in report.targets if t.verdict not in ("fresh", "cached")]
    if not to_run:
        return "nothing has to run; all results are there"
    cost = sum(t.seconds or 0.0 for t in to_run)
    known = all(t.seconds is not None for t in to_run)
    about = f"{'about' if known else 'at least'} {seconds(cost)}" if cost else "no cost known yet"
    return f"{len(to_run)} of {len(report.targets)} targets have to run ({about})"


def _gate(gate: GateLine) -> tuple[str, ...]:
    note = f" ({text(gate.note)})" if gate.note else ""
    before = "" if gate.before == "none" else STATES[gate.before]
    name = f"{text(gate.target)}: {text(gate.gate)}"
    return name, text(gate.value), STATES[gate.state] + note, before


def _answers(one: Answers) -> tuple[str, ...]:
    counts = (str(n) for n in (one.lost, one.won, one.other, one.fresh))
    return text(one.target), text(one.model), text(one.data), *counts


def _rows(one: Answers) -> Iterator[str]:
    if not one.rows:
        return
    yield f"<details><summary>{text(one.model)} on {text(one.data)}</summary>"
    yield ""
    rows = (
        (str(r.number), text(r.text), text(r.expected), text(r.before), text(r.now))
        for r in one.rows
    )
    yield from _table(("row", "text", "expected", "before", "now"), rows)
    yield "</details>"
    yield ""


def _plan(report: PullRequestReport) -> Iterator[str]:
    yield "<details><summary>The plan</summary>"
    yield ""
    yield from _table(("target", "kind", "verdict", "took", "why"), map(_target, report.targets))
    yield "</details>"


def _target(one: Planned) -> tuple[str, ...]:
    took = "" if one.seconds is None else seconds(one.seconds)
    return text(one.target), text(one.kind), one.verdict, took, text(one.why)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def text(value: str) -> str:
    """Return text of a stranger's as plain text within a line of Markdown."""
    # What would become a link without any markup: addresses, numbers of commits, www.
    flat = escaped(plain(value))
    flat = re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", rf"\1{JOINER}\2", flat)
    return re.sub(r"[0-9a-f]{7,}", lambda match: JOINER.join(_pieces(match[0])), flat)


def _pieces(digits: str) -> list[str]:
    return [digits[i : i + 6] for i in range(0, len(digits), 6)]
