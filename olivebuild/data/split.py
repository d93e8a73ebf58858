"""Near-duplicate groups, and which side of the split each falls on.

By a hash, so that other rows never move one.

Likeness means what differs: a line that many rows have, and words with which nearly all begin or
end, are not compared.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from olivebuild.core import hashing

SIMILARITY = 0.8
SHARED_ROWS, SHARED_LINE, SHARED_FRAME = 10, 0.1, 0.9
"""A line counts as shared from this many rows and this share of them on; words at the beginning or
end from this share on.
"""
SHORTEST_FRAME = 3
"""Fewer words than these make no two texts near."""
_WORD = re.compile(r"\w+")
# Thai, Lao, Tibetan, Myanmar, Khmer, Tai Le to Khmer symbols, kana, Han, Javanese, more Myanmar.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"[{_UNSPACED}]")
_TOKEN = re.compile(rf"(?P<run>[{_UNSPACED}]+)|[^\W{_UNSPACED}]+")


@dataclass(frozen=True)
class Likeness:
    """The group of each text, and what was not compared.

    Lines and words that rows share, with the number of rows that do.
    """

    groups: list[str]
    shared: dict[str, int] = field(default_factory=dict)


def near_duplicate_groups(texts: Sequence[str]) -> list[str]:
    return likeness(texts).groups


def likeness(texts: Sequence[str], together: Sequence[str] = (), *, near: bool = True) -> Likeness:
    """Return the id of each text's group.

    Texts whose word sets have a Jaccard similarity of at least SIMILARITY are together.

    `together`: a name for each text, texts of one name being in one group; "" is none. Without
    `near`, only texts of the same words are
    together. Scripts that are written without spaces are compared by characters and pairs of them.

    Candidates come from prefix filtering (Bayardo, Ma, Srikant 2007): two sets that similar share a
    word among their rarest few.
    The id is a hash of the group's least member, so it does not depend on the order of rows or on
    other groups.
    """
    word_sets = [frozenset(_WORD.findall(t.casefold())) or frozenset([t]) for t in texts]
    parent = list(range(len(texts)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(keys: Sequence[object]) -> list[int]:
        """Join those of an equal key; the first of each key."""
        first: dict[object, int] = {}
        for i, key in enumerate(keys):
            parent[find(i)] = find(first.setdefault(key, i))
        return list(first.values())

    join(word_sets)
    shared: dict[str, int] = {}
    if near:
        tokens, shared = frameless(texts)
        compared = list(map(compared_set, tokens))
        sets = [frameless or words for frameless, words in zip(compared, word_sets, strict=True)]
        _join_near(sets, join(sets), find, parent)
    if any(together):
        join([("name", name) if name else ("row", i) for i, name in enumerate(together)])
    identity: dict[int, str] = {}
    for i, words in enumerate(word_sets):
        # With a name the group's side does not depend on its rows.
        name = (
            hashing.of_json(["group", together[i]])
            if together and together[i]
            else hashing.of_json(sorted(words))
        )
        root = find(i)
        identity[root] = min(identity.get(root, name), name)
    return Likeness([identity[find(i)] for i in range(len(texts))], shared)


def _join_near(
    sets: Sequence[frozenset[str]],
    which: Sequence[int],
    find: Callable[[int], int],
    parent: list[int],
) -> None:
    frequency = Counter(word for i in which for word in sets[i])
    index: dict[str, list[int]] = {}
    for i in which:
        words = sets[i]
        rare = sorted(words, key=lambda w: (frequency[w], w))
        prefix = rare[: len(rare) - math.ceil(SIMILARITY * len(rare)) + 1]
        for j in {j for word in prefix for j in index.get(word, ())}:
            same = len(words & sets[j])
            if same >= SIMILARITY * (len(words) + len(sets[j]) - same):
                parent[find(i)] = find(j)
        for word in prefix:
            index.setdefault(word, []).append(i)


def frameless(texts: Sequence[str]) -> tuple[list[list[str]], dict[str, int]]:
    """Return the tokens of each text that are compared, and what is not because rows share it.

    A text that is nothing but shared stays whole.
    """
    lines = [
        [" ".join(line.split()) for line in text.splitlines() if line.strip()] for text in texts
    ]
    having = Counter(line for text_lines in lines for line in set(text_lines))
    least = max(SHARED_ROWS, SHARED_LINE * len(texts))
    # Where rows have one line each, equal ones are duplicates, and no frame.
    shared = {line: n for line, n in having.items() if n >= least}
    rest = [[line for line in text_lines if line not in shared] for text_lines in lines]
    kept = [left or text_lines for left, text_lines in zip(rest, lines, strict=True)]
    shared = {
        line: sum(line in text_lines for text_lines, left in zip(lines, rest, strict=True) if left)
        for line in shared
    }
    tokens = [_tokens("\n".join(text_lines)) for text_lines in kept]
    for backwards in (False, True):
        tokens, frame, n = _without_frame(tokens, backwards)
        shared |= {frame: n} if frame else {}
    return tokens, {line: n for line, n in shared.items() if n}


def _without_frame(tokens: list[list[str]], backwards: bool) -> tuple[list[list[str]], str, int]:
    """Return token lists without those with which nearly all begin (or end).

    Also which these are, and how many have them.
    """
    least, step = max(SHARED_ROWS, SHARED_FRAME * len(tokens)), -1 if backwards else 1
    open_, frame = list(range(len(tokens))), list[str]()
    while True:
        depth = len(frame)
        there = [
            (i, tokens[i][::step][depth : depth + 1]) for i in open_ if len(tokens[i]) > depth + 1
        ]
        counts = Counter(token[0] for _, token in there)
        word, n = min(counts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        if not n or n < least:
            break
        open_ = [i for i, token in there if token[0] == word]
        frame.append(word)
    if len(frame) < SHORTEST_FRAME:
        return tokens, "", 0
    cut, frameless, n = len(frame), list(tokens), 0
    for i, text_tokens in enumerate(tokens):
        # One that differs in a word of it is like the others all the more.
        alike = sum(a == b for a, b in zip(frame, text_tokens[::step], strict=False))
        if len(text_tokens) > cut and 2 * alike > cut:
            frameless[i], n = text_tokens[:-cut] if backwards else text_tokens[cut:], n + 1
    return frameless, ("" if all(map(_RUN.match, frame)) else " ").join(frame[::step]), n


def _tokens(text: str) -> list[str]:
    """Words, and single characters of scripts that are written without spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [t for m in _TOKEN.finditer(plain) for t in (m[0] if m["run"] else (m[0],))]


def compared_set(tokens: Sequence[str]) -> frozenset[str]:
    """Words; of scripts without spaces the characters, and each two that stand together."""
    single = [bool(_RUN.match(t)) for t in tokens]
    pairs = [
        a + b
        for a, b, one, two in zip(tokens, tokens[1:], single, single[1:], strict=False)
        if one and two
    ]
    return frozenset([*tokens, *pairs])


def sides(groups: Sequence[str], seed: int, holdout: float) -> list[bool]:
    """Return True for the rows that are held out.

    Those whose group's hash, as a number in [0, 1), is below `holdout`.
    """
    place = places(groups, seed)
    return [place[group] < holdout for group in groups]


def places(groups: Sequence[str], seed: int) -> dict[str, float]:
    return {group: int(hashing.of_json([seed, group]), 16) / (1 << 128) for group in set(groups)}


def nearest(groups: Sequence[str], seed: int, *, test: bool) -> str | None:
    """Return the group that is nearest to the other side, where all fell on one.

    Of those that are no more than half of the rows.
    """
    sizes, place = Counter(groups), places(groups, seed)
    small = [group for group, size in sizes.items() if 2 * size <= len(groups)]
    return min(small, key=lambda g: place[g] if test else -place[g], default=None)
