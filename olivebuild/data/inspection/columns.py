"""Columns of rows: what each holds, how much of it is filled, how many values differ."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from olivebuild.data.conversation import conversation
from olivebuild.data.values import is_missing, text_of, tidied_values

Content = Literal[
    "text", "number", "boolean", "date", "link", "id", "conversation", "list", "object", "empty"
]
NOT_TEXT = ("conversation", "list", "object")
"""Contents that no template writes as text."""
LARGEST_SET = 100
"""The most values of a closed set, as a benchmark has it."""
LONGEST_LABEL = 100
"""Characters of the longest value of a closed set."""
MOST_OFTEN = 0.9
"""A column is what this share of its values is."""
SAMPLE = 1000
"""Values of a column by which its content is told."""
DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?([T ]\d\d?:\d\d(:\d\d(\.\d+)?)?\s*(Z|[+-]\d\d:?\d\d)?)?"
    r"|\d\d?[./]\d\d?[./]\d{2,4}([ ,]+\d\d?:\d\d(:\d\d)?( ?[APap]M)?)?"
)
LINK = re.compile(r"(https?|ftp|s3|file)://\S+|www\.\S+\.\S+")
NUMBER = re.compile(r"[-+]?(\d{1,3}([ ,.']\d{3})+|\d+)?([.,]\d+)?([eE][-+]?\d+)?\s?%?")
CODE = re.compile(r"(?=\S*\d)[\w.:#/@-]{1,64}")
"""A word with a digit, such as INC-00123 or a UUID."""
WHOLE = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column holds. Lengths are characters of values as text."""

    name: str
    content: Content
    rows: int
    filled: int
    """Rows with a value."""
    counts: Mapping[str, int]
    """Value as text -> its rows, the most frequent first; of lists and objects none."""
    longest: int = 0
    mean: float = 0.0
    longest_bytes: int = 0
    """The longest value in UTF-8."""
    fewest: int = 0
    """Of lists, the items of the shortest; `most` those of the longest."""
    most: int = 0

    @property
    def share(self) -> float:
        """The share of the rows that have a value."""
        return self.filled / self.rows if self.rows else 0.0

    @property
    def distinct(self) -> int:
        """The number of values that differ."""
        return len(self.counts)

    @property
    def is_closed(self) -> bool:
        """Whether its values are a closed set, each of which stands in several rows."""
        return (
            self.content in ("text", "number", "boolean")
            and 2 <= self.distinct <= min(LARGEST_SET, self.filled // 2)
            and self.longest <= LONGEST_LABEL
        )

    @property
    def is_constant(self) -> bool:
        """Whether all of several rows have one value."""
        return self.distinct == 1 and self.filled > 2


def describe(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of rows, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def _column(name: str, cells: Sequence[object]) -> Column:
    values: list[Any] = [v for v in cells if not is_missing(v) and v not in ([], {})]
    rows, filled = len(cells), len(values)
    if not values:
        return Column(name=name, content="empty", rows=rows, filled=0, counts={})
    nested = [v for v in values if isinstance(v, list | dict)]
    if _is_conversation(name, values):
        return Column(name=name, content="conversation", rows=rows, filled=filled, counts={})
    if nested or not all(_is_plain(v) for v in values):
        sizes = [len(v) for v in values if isinstance(v, list)]
        return Column(
            name=name,
            content="list" if len(sizes) * 2 > filled else "object",
            rows=rows,
            filled=filled,
            counts={},
            fewest=min(sizes, default=0),
            most=max(sizes, default=0),
        )
    texts = [text_of(v) for v in tidied_values(values)]
    counts = dict(Counter(texts).most_common())
    lengths = [len(text) for text in texts]
    return Column(
        name=name,
        content=_content(values, texts, counts, rows),
        rows=rows,
        filled=filled,
        counts=counts,
        longest=max(lengths),
        mean=sum(lengths) / len(lengths),
        longest_bytes=max(len(text.encode()) for text in counts),
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, Decimal, datetime.date, datetime.time))


def _is_conversation(name: str, values: Sequence[object]) -> bool:
    """Return whether most values are conversations that end with the assistant's turn."""
    if all(isinstance(v, bool | int | float) for v in values):
        return False
    chats = [conversation(v, name) for v in values[:SAMPLE]]
    answered = [c for c in chats if isinstance(c, list) and c[-1]["role"] == "assistant"]
    return len(answered) * 2 > len(chats)


def _content(
    values: Sequence[object], texts: Sequence[str], counts: Mapping[str, int], rows: int
) -> Content:
    """Return what plain values are; the texts are theirs."""
    sample, words = values[:SAMPLE], [text.strip() for text in texts[:SAMPLE]]
    if all(isinstance(v, bool) for v in sample):
        return "boolean"
    if all(isinstance(v, datetime.date | datetime.time) for v in sample) or _most(words, DATE):
        return "date"
    numbers = rows > 2 and len(counts) == rows
    if numbers and all(map(WHOLE.fullmatch, words)):
        return "id"
    if _most(words, NUMBER):
        return "number"
    if _most(words, LINK):
        return "link"
    is_unique = rows > 2 and len(counts) >= MOST_OFTEN * len(texts)
    return "id" if is_unique and _most(words, CODE) else "text"


def _most(words: Iterable[str], pattern: re.Pattern[str]) -> bool:
    """Return whether most words are of a pattern as a whole."""
    matches = [bool(pattern.fullmatch(word)) for word in words]
    return sum(matches) >= MOST_OFTEN * len(matches)
