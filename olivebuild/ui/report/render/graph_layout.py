"""Layout of the boxes and lines of a graph of targets, in layers from left to right.

Numbers only; knows no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT, GAP_X, GAP_Y = 168.0, 46.0, 46.0, 16.0


@dataclass(frozen=True)
class Box:
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Wire:
    """A line from `source` to `target` as an SVG path."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]


def draw(inputs: Mapping[str, Sequence[str]]) -> Drawing:
    """Return the layout of a graph. `inputs`: node -> its inputs, in topological order.

    A line over several layers has a row of its own in each of them. Edges of the transitive
    reduction only are drawn: a reader of a model depends on the model's inputs, too.
    """
    inputs = _reduced(inputs)
    layer = _layers(inputs)
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, at in layer.items():
        columns[at].append(name)
    routes = _routes(inputs, layer, columns)
    before: dict[str, list[str]] = {name: [] for column in columns for name in column}
    for route in routes.values():
        for a, b in pairwise(route):
            before[b].append(a)
    rows = _order(columns, before)
    tallest = max((len(c) for c in columns), default=0)
    place = {
        name: (at * (WIDTH + GAP_X), rows[name] * (HEIGHT + GAP_Y))
        for at, column in enumerate(columns)
        for name in column
    }
    return Drawing(
        width=len(columns) * (WIDTH + GAP_X) - GAP_X,
        height=tallest * (HEIGHT + GAP_Y) - GAP_Y,
        boxes=tuple(Box(name, *place[name]) for name in inputs),
        wires=tuple(
            Wire(a, b, _path([place[stop] for stop in route])) for (a, b), route in routes.items()
        ),
    )


def _layers(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return node -> column: one after its last input, or just before its first user."""
    layer: dict[str, int] = {}
    for name, sources in inputs.items():
        layer[name] = max((layer[s] + 1 for s in sources), default=0)
    _pull(layer, inputs)
    return layer


def _routes(
    inputs: Mapping[str, Sequence[str]], layer: Mapping[str, int], columns: list[list[str]]
) -> dict[tuple[str, str], list[str]]:
    """Return edge -> the names on its way. Add a stop of its own to each column that it passes."""
    routes: dict[tuple[str, str], list[str]] = {}
    for name, sources in inputs.items():
        for source in sources:
            route = [source]
            for at in range(layer[source] + 1, layer[name]):
                route.append(f"{source}\0{name}\0{at}")
                columns[at].append(route[-1])
            routes[source, name] = [*route, name]
    return routes


def _reduced(inputs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the transitive reduction: no edge that a longer path replaces."""
    below: dict[str, set[str]] = {}
    for name, sources in inputs.items():
        below[name] = {*sources, *(far for source in sources for far in below[source])}
    return {
        name: [s for s in sources if not any(s in below[other] for other in sources)]
        for name, sources in inputs.items()
    }


def _pull(layer: dict[str, int], inputs: Mapping[str, Sequence[str]]) -> None:
    """Move nodes without inputs to just before their first user, so that lines are short."""
    users: dict[str, list[str]] = {}
    for name, sources in inputs.items():
        for source in sources:
            users.setdefault(source, []).append(name)
    for name in reversed(list(inputs)):
        if name in users and not inputs[name]:
            layer[name] = min(layer[user] for user in users[name]) - 1


def _order(columns: list[list[str]], before: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return rows with few crossing lines, by the barycentre heuristic in eight sweeps.

    Source: Sugiyama, Tagawa and Toda, 1981.
    """
    after: dict[str, list[str]] = {name: [] for name in before}
    for name, sources in before.items():
        for source in sources:
            after[source].append(name)
    tallest = max((len(c) for c in columns), default=0)
    rows: dict[str, float] = {}
    for column in columns:
        _settle(column, rows, tallest)
    for turn in range(8):
        near, order = (before, columns) if turn % 2 == 0 else (after, list(reversed(columns)))
        for column in order:
            column.sort(key=lambda name: _mean((rows[n] for n in near[name]), rows[name]))
            _settle(column, rows, tallest)
    return rows


def _settle(column: Sequence[str], rows: dict[str, float], tallest: int) -> None:
    """Give the nodes of a column centred rows."""
    top = (tallest - len(column)) / 2
    rows.update({name: top + i for i, name in enumerate(column)})


def _mean(values: Iterable[float], otherwise: float) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else otherwise


def _path(stops: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path from the right edge of the first box to the left edge of the last.

    It is level where it passes others.
    """
    middle = HEIGHT / 2
    x, y = stops[0][0] + WIDTH, stops[0][1] + middle
    parts = [f"M{x:.1f} {y:.1f}"]
    for i, (left, top) in enumerate(stops[1:], 1):
        bend = (left - x) / 2
        parts.append(
            f"C{x + bend:.1f} {y:.1f} {left - bend:.1f} {top + middle:.1f} {left:.1f} "
            f"{top + middle:.1f}"
        )
        x, y = left, top + middle
        if i < len(stops) - 1:
            x = left + WIDTH
            parts.append(f"H{x:.1f}")
    return "".join(parts)
