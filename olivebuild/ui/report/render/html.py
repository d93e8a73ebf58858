"""The report as one self-contained HTML page: no script, no font or picture from elsewhere.

Every text is escaped. A table becomes one block a row where its container is too narrow for it, so
that nothing scrolls sideways; words are broken after signs alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from olivebuild.core import text as texts
from olivebuild.core.streams import plain
from olivebuild.metrics import catalogue
from olivebuild.ui import wording
from olivebuild.ui.report.records import Report
from olivebuild.ui.report.render import graph_layout, page_text
from olivebuild.ui.report.render.views import (
    TrainingView,
    change_text,
    choice_view,
    curves,
    texts_of,
    tiles,
    tone,
    view,
)

TEMPLATES = Path(__file__).parent / "templates"
MAX_DRAWN, MAX_TARGETS = 60, 300
NOT_BUILT = ("stale", "waiting", "cached")
"""Outcomes of targets that the last build did not bring up to date."""
FITS = ((4, "s"), (6, "m"), (12, "l"))
"""Most columns of a table of figures -> its class, which says from what width on it is a table. Of
more, a block a row is shown at any width.
"""
ROOMS_OF_TABLES = ((480, "s"), (700, "m"), (920, "l"), (1036, "w"))
"""Pixels that a table of texts needs -> its class."""
LETTER, PADDING = 7.5, 16
"""Pixels of a letter and beside a column, in a table."""
SMALLEST = 0.8
"""The drawing of the graph is shown no smaller than this."""
ROOMS = ((340, "r0"), (650, "r1"), (1040, "r2"))
"""Width of the page's column in pixels -> the class of a drawing that needs it."""


def render(report: Report) -> str:
    """Return the page."""
    targets = {t.name: t for t in report.targets}
    drawing = None
    if 1 < len(targets) <= MAX_DRAWN:
        drawing = graph_layout.draw({t.name: t.inputs for t in report.targets})
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            last=report.last,
            waiting=[t.name for t in report.targets if t.outcome in NOT_BUILT],
            tiles=list(tiles(report.benches[0])) if report.benches else [],
            benches=[view(b) for b in report.benches],
            choices=[choice_view(c) for c in report.choices],
            trainings=[TrainingView(run, tuple(curves(run))) for run in report.trainings],
            targets=targets,
            shown=report.targets[:MAX_TARGETS],
            dearest=max((t.seconds or 0 for t in report.targets), default=0),
            drawing=drawing,
            sections=list(_sections(report)),
        )
    )
    return re.sub(r"\n\s*\n+", "\n", plain(page))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "n": lambda x: f"{x:.2f}".rstrip("0").rstrip("."),
        "seconds": lambda x: texts.seconds(x),
        "size": lambda x: texts.size(x),
        "metric": lambda x, name: wording.format_metric(name, x),
        "heading": catalogue.title,
        "when": page_text.when,
        "clip": lambda text, most: text if len(text) <= most else text[: most - 1] + "…",
        "pct": lambda x: wording.percent(x),
        "span": page_text.span,
        "last_two": lambda row: row[1] + row[2],
        "words": page_text.words,
        "br": page_text.breakable,
        "zw": page_text.breakable_attribute,
        "confused": page_text.confused,
        "tone": tone,
        "change": change_text,
        "room": room,
    }
    environment.globals |= {
        "cell": page_text.cell,
        "fit": fit,
        "fit_texts": fit_texts,
        "texts_of": texts_of,
    }
    return environment


def fit(columns: int) -> str:
    """Return the class of a table by its number of columns."""
    return next((name for most, name in FITS if columns <= most), "x")


def fit_texts(columns: Iterable[Iterable[str]]) -> str:
    """Return the class of a table by its columns' texts: none is narrower than a word of it."""
    widths = (max(map(page_text.longest_word, texts), default=0) for texts in columns)
    need = sum(width * LETTER + PADDING for width in widths)
    return next((name for most, name in ROOMS_OF_TABLES if need <= most), "x")


def room(width: float) -> str:
    """Return the class of a drawing by its width in pixels; "never" for one that fits no page."""
    return next((name for most, name in ROOMS if width * SMALLEST <= most), "never")


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    if report.gates:
        yield "gates", "Gates"
    for bench in report.benches:
        yield f"b-{bench.target}", "Models" if len(report.benches) == 1 else bench.target
    for choice in report.choices:
        yield f"c-{choice.target}", "Choice" if len(report.choices) == 1 else choice.target
    yield "graph", "What ran"
    for at, name, there in (
        ("builds", "Builds", report.builds),
        ("training", "Training", report.trainings),
        ("data", "Data", report.datasets),
    ):
        if there:
            yield at, name
    yield "provenance", "Provenance"
