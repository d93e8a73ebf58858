"""Text for a page: where a word may be broken, figures with intervals, times, edits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import datetime

from markupsafe import Markup, escape

from olivebuild.ui import wording
from olivebuild.ui.report.records import Confusion, Edit, Value

SHORT = 12
"""A run of characters without a space that is never broken."""
WORD = 24
"""The longest run of letters that is not broken."""
_AFTER = re.compile(r"(?<=[_/:=@;&?+|\\-])(?=[^\s])|(?<=[.,])(?=[^\d\s])")
_UNIT = re.compile(r"(\d) (%|µs|ms|s|KB|MB|GB|points)(?![\w-])")
MAX_CONFUSED = 12


def breakable(text: str) -> Markup:
    """Return text in which long names may be broken after their signs, and nowhere else.

    Browsers break a name after a hyphen, but not `a_b.c`; a run of more letters than any word has,
    such as a digest, is broken at all events.
    """
    return Markup("<wbr>").join(map(escape, _pieces(str(text))))


def breakable_attribute(text: str) -> str:
    """Return text for an attribute that is shown, broken as `breakable` does."""
    return "\u200b".join(_pieces(str(text)))


def longest_word(text: str) -> int:
    """Return the number of characters of the longest part that is not broken."""
    return max(len(part) for piece in _pieces(text) for part in re.split(r"[\s-]", piece))


def _pieces(text: str) -> list[str]:
    pieces: list[str] = [""]
    # An arrow is one sign, and a figure stays with its unit.
    text = _UNIT.sub("\\1\u00a0\\2", text.replace(" -> ", " → "))
    for run in re.split(r"([^\S\u00a0]+)", text):
        parts = _AFTER.split(run) if len(run) > SHORT else [run]
        cut = [part[i : i + WORD] for part in parts for i in range(0, max(1, len(part)), WORD)]
        pieces[-1] += cut[0]
        pieces += cut[1:]
    return pieces


def cell(name: str, value: Value | None) -> Markup:
    """Return a metric for the table, with its interval below."""
    if value is None:
        return Markup()
    text = Markup('<span class="value">{}</span>').format(wording.format_metric(name, value.value))
    if value.low is None or value.high is None:
        return text
    low, high = (wording.format_metric(name, v) for v in (value.low, value.high))
    unit = high.rpartition(" ")[2] if " " in high else ""
    low = low.removesuffix(f" {unit}") if unit and low.endswith(f" {unit}") else low
    return text + Markup(' <small class="soft">{} to {}</small>').format(low, high)


def span(difference: Value) -> str:
    """Return the interval of a difference as text; "" without one."""
    return (
        f"{difference.low:+.1f} to {difference.high:+.1f}"
        if difference.low is not None and difference.high is not None
        else ""
    )


def when(time: str) -> str:
    """Return an ISO 8601 time for people; any other text as it is."""
    try:
        moment = datetime.fromisoformat(time)
        return f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    except ValueError:
        return time


def words(edit: Edit) -> Iterator[tuple[str, str]]:
    """Yield the runs of words of an edit: (" ", kept), ("-", removed) and ("+", added)."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (edit.before, edit.after))
    old = new = ""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        same = "".join(before[a:b]) if kind == "equal" else ""
        if same.strip() or (same and not (old or new)):
            yield from _changed(old, new)
            yield " ", same
            old = new = ""
        else:
            # A space between two changed words belongs to the change.
            old, new = old + "".join(before[a:b]), new + "".join(after[c:d])
    yield from _changed(old, new)


def _changed(old: str, new: str) -> Iterator[tuple[str, str]]:
    if old:
        yield "-", old
    if new:
        yield "+", new


def confused(table: Confusion) -> list[tuple[str, str, int]]:
    """Return (label, answer, rows) of the commonest confusions, the most rows first."""
    pairs = [
        (label, table.labels[j], count)
        for label, row in zip(table.labels, table.counts, strict=True)
        for j, count in enumerate(row)
        if count and table.labels[j] != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MAX_CONFUSED]
