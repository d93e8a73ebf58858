"""Near-duplicate groups, and which side of the split each falls on: by a hash, so that other rows never move one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from olivebuild import digest

SIMILARITY = 0.8
_WORD = re.compile(r"\w+")


def near_duplicate_groups(texts: Sequence[str]) -> list[str]:
    """For each text the id of its group: texts whose word sets have a Jaccard similarity of at least SIMILARITY are together.

    Candidates come from prefix filtering (Bayardo, Ma, Srikant 2007): two sets that similar share a word among their rarest few.
    The id is a hash of the group's least member, so it does not depend on the order of rows or on other groups.
    """
    sets = [frozenset(_WORD.findall(t.casefold())) or frozenset([t]) for t in texts]
    frequency = Counter(word for s in sets for word in s)
    parent = list(range(len(sets)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[frozenset[str], int] = {}
    index: dict[str, list[int]] = {}
    for i, words in enumerate(sets):
        same = first_with.setdefault(words, i)
        if same != i:
            parent[find(i)] = find(same)
            continue
        rare = sorted(words, key=lambda w: (frequency[w], w))
        prefix = rare[: len(rare) - math.ceil(SIMILARITY * len(rare)) + 1]
        for j in {j for word in prefix for j in index.get(word, ())}:
            shared = len(words & sets[j])
            if shared >= SIMILARITY * (len(words) + len(sets[j]) - shared):
                parent[find(i)] = find(j)
        for word in prefix:
            index.setdefault(word, []).append(i)
    identity: dict[int, str] = {}
    for i, words in enumerate(sets):
        name = digest.of_json(sorted(words))
        root = find(i)
        identity[root] = min(identity.get(root, name), name)
    return [identity[find(i)] for i in range(len(sets))]


def sides(groups: Sequence[str], seed: int, holdout: float) -> list[bool]:
    """True for the rows that are held out: those whose group's hash, as a number in [0, 1), is below `holdout`."""
    place = {group: int(digest.of_json([seed, group]), 16) / (1 << 128) for group in set(groups)}
    return [place[group] < holdout for group in groups]
