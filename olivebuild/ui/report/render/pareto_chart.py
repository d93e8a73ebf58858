"""Geometry of a choice's charts: models as spots on two axes, with their names beside them.

Knows no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from olivebuild.metrics.catalogue import title
from olivebuild.ui.report.records import Choice
from olivebuild.ui.report.render.charts import (
    NARROW_PLOT,
    Points,
    Table,
    Tick,
    few,
    scale,
    spaced,
)
from olivebuild.ui.wording import format_metric

MOST_LETTERS, MOST_NAMES = 16, 5
"""Longer names, and more of them, do not fit beside their spots: these are numbered."""
LABEL = (2.3, 8.0)
"""Width of a letter and height of a line, in per cent of a narrow plot."""


@dataclass(frozen=True)
class Spot:
    """A model on two axes, `x` from the left and `y` from the top; `best`: no other beats it.

    `label` is where its name, or `text`, its number, begins or ends.
    """

    name: str
    text: str
    x: float
    y: float
    rank: int
    best: bool
    note: str
    label: Label


@dataclass(frozen=True)
class Label:
    """`at`: per cent from the side of the plot that the text grows away from."""

    at: float
    y: float
    from_right: bool


@dataclass(frozen=True)
class SpotChart:
    title: str
    spots: tuple[Spot, ...]
    numbered: bool
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    limits: tuple[Tick, ...]
    levels: tuple[Tick, ...]
    """Gates on x, and on y."""
    table: Table


def chart(choice: Choice, across: str) -> SpotChart:
    """Return a choice's models by quality over another axis, with the gates on both as lines."""
    up = choice.axes[0]
    xs, ys = ([c.figures[name] for c in choice.contenders] for name in (across, up))
    log = min(xs) > 0 and max(xs) / min(xs) > 8
    (to_x, x_ticks), (to_y, y_ticks) = (
        scale(min(xs), max(xs), log=log),
        scale(min(ys), max(ys), log=False),
    )
    places = [(to_x(x), 100 - to_y(y)) for x, y in zip(xs, ys, strict=True)]
    texts = [c.model for c in choice.contenders]
    numbered = len(texts) > MOST_NAMES or max(map(len, texts)) > MOST_LETTERS
    if numbered:
        texts = [str(i) for i, _ in enumerate(texts, 1)]
    labels = _labels(texts, places)
    spots, rows = [], []
    for contender, text, (x, y), label in zip(
        choice.contenders, texts, places, labels, strict=True
    ):
        values = tuple(_show(name, contender.figures[name]) for name in (across, up))
        rank = 0 if contender.model == choice.chosen else 1
        spots.append(
            Spot(
                contender.model,
                text,
                x,
                y,
                rank,
                not contender.beaten_by,
                " · ".join(values),
                label,
            )
        )
        rows.append((contender.model, *values))
    limits, levels = [], []
    for name, value in choice.limits:
        gate = f"gate {_show(name, value)}"
        if name == across and not (log and value <= 0):
            limits.append((to_x(value), gate))
        elif name == up:
            levels.append((100 - to_y(value), gate))
    return SpotChart(
        title=f"{title(up)} over {title(across)}",
        spots=tuple(spots),
        numbered=numbered,
        x=spaced([(to_x(v), _show(across, v)) for v in few(x_ticks, 6)], NARROW_PLOT),
        y=tuple((100 - to_y(v), _show(up, v).replace(".0 %", " %")) for v in y_ticks),
        limits=_inside(limits),
        levels=_inside(levels),
        table=Table(("model", title(across), title(up)), tuple(rows)),
    )


def _inside(ticks: Iterable[Tick]) -> tuple[Tick, ...]:
    return tuple(tick for tick in ticks if 0 <= tick[0] <= 100)


def _show(name: str, value: float) -> str:
    return format_metric(name.rpartition(".")[2], value)


def _labels(names: Sequence[str], places: Points) -> list[Label]:
    """Return places for names beside, above or below the spots that cover least."""
    width, height = LABEL
    taken = [(x - 2, y - 4, x + 2, y + 4) for x, y in places]
    labels = []
    for name, (x, y) in zip(names, places, strict=True):
        wide = len(name) * width
        options = [
            (Label(x + 2.5, y, False), (x + 2.5, x + 2.5 + wide), y),
            (Label(102.5 - x, y, True), (x - 2.5 - wide, x - 2.5), y),
            *(
                (Label(max(x - 2, 0), y + up, False), (x - 2, x - 2 + wide), y + up)
                for up in (-9.0, 9.0)
            ),
            *(
                (Label(max(98 - x, 0), y + up, True), (x + 2 - wide, x + 2), y + up)
                for up in (-9.0, 9.0)
            ),
        ]

        def cost(option: tuple[Label, tuple[float, float], float]) -> float:
            _, (left, right), middle = option
            outside = max(0, -left) + max(0, right - 100)
            hits = sum(
                a < right and left < c and b < middle + height / 2 and middle - height / 2 < d
                for a, b, c, d in taken
            )
            return outside + 30 * hits

        label, (left, right), middle = min(options, key=cost)
        taken.append((left, middle - height / 2, right, middle + height / 2))
        labels.append(label)
    return labels
