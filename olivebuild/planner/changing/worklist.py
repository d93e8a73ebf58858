"""Work in the order of a graph, to which more is added on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush


class Worklist:
    """Names to visit once each, in the order of `position`, or against it with `upwards`.

    While they are visited more may be added, each of them further along than the one at hand.
    """

    def __init__(
        self, position: Mapping[str, int], names: Iterable[str], *, upwards: bool = False
    ) -> None:
        self._position = position
        self._sign = -1 if upwards else 1
        self._added = set(names)
        self._heap = [(self._rank(name), name) for name in self._added]
        heapify(self._heap)

    def add(self, names: Iterable[str]) -> None:
        """Visit these too, but for those that were added before."""
        for name in names:
            if name not in self._added:
                self._added.add(name)
                heappush(self._heap, (self._rank(name), name))

    def __iter__(self) -> Iterator[str]:
        while self._heap:
            yield heappop(self._heap)[1]

    def _rank(self, name: str) -> int:
        return self._sign * self._position[name]
