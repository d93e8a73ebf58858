"""Test rows that stand in the rows that were trained on, to the word or nearly.

Likeness is that of split.py, which keeps near-duplicates of one data set on one side. Here rows are
of two data sets, whose templates may differ: what the rows of each share is left out by itself.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from olivebuild.data.split import SHARED_ROWS, SIMILARITY, compared_set, frameless


class Match(Struct, frozen=True):
    """A training row, by its number, that is a test row. `exact`: they have the same words."""

    train: int
    exact: bool


def question_of(format_: str, row: Mapping[str, str]) -> str:
    """Return what is asked by a row of a data set's Parquet file, without the answer."""
    if format_ != "messages":
        return row[{"prompt": "prompt", "user": "user", "text": "text"}[format_]]
    messages = json.loads(row["messages"])
    return "\n".join(str(m.get("content") or "") for m in messages if m.get("role") != "assistant")


def matches(train: Sequence[str], test: Sequence[str], *, near: bool = True) -> list[Match | None]:
    """Return for each test text a training text that is like it, one of equal words first.

    Without `near` only equal words count. Candidates come from prefix filtering, as in split.py:
    the test texts are indexed, so that time and memory grow with the training texts by their
    words alone.
    """
    train_tokens, test_tokens = _tokens(train, test), _tokens(test, train)
    result: list[Match | None] = [None] * len(test)
    by_words: dict[tuple[str, ...], list[int]] = {}
    for i, tokens in enumerate(test_tokens):
        if tokens:
            by_words.setdefault(tuple(tokens), []).append(i)
    index = _Index([compared_set(tokens) for tokens in test_tokens]) if near else None
    for j, tokens in enumerate(train_tokens):
        for i in by_words.get(tuple(tokens), ()):
            if not (match := result[i]) or not match.exact:
                result[i] = Match(j, True)
        for i in index.like(compared_set(tokens)) if index else ():
            result[i] = result[i] or Match(j, False)
    return result


def _tokens(texts: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    """Return each text's words, without what texts share; few texts go by what all share."""
    if len(texts) >= SHARED_ROWS:
        return frameless(texts)[0]
    return frameless([*texts, *others])[0][: len(texts)]


class _Index:
    """Sets of words by the rarest of each, for those that are similar to another set."""

    def __init__(self, sets: Sequence[frozenset[str]]) -> None:
        self._sets = sets
        self._frequency = Counter(word for words in sets for word in words)
        self._by_word: dict[str, list[int]] = {}
        for i, words in enumerate(sets):
            for word in self._prefix(words):
                self._by_word.setdefault(word, []).append(i)

    def _prefix(self, words: frozenset[str]) -> list[str]:
        """Return the rarest words, one of which each similar set has among its own rarest."""
        rare = sorted(words, key=lambda word: (self._frequency[word], word))
        return rare[: len(rare) - math.ceil(SIMILARITY * len(rare)) + 1]

    def like(self, words: frozenset[str]) -> Iterator[int]:
        """Yield the numbers of the sets whose Jaccard similarity with `words` is high."""
        for i in {i for word in self._prefix(words) for i in self._by_word.get(word, ())}:
            same = len(words & self._sets[i])
            if same >= SIMILARITY * (len(words) + len(self._sets[i]) - same):
                yield i
