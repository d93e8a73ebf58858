"""Templates of rows: slots filled with the values of columns. Substitution only.

`{column}` stands for a value, `{column?}` for one that may be missing, and `{column?Input: {}}` for
a text around it, which is left out where the value is missing. `{{` and `}}` are braces; so are
they inside a name that has some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from olivebuild.data.values import is_missing, text_of

_PARTS = r"\{\{|\}\}|\{(?P<optional>[^{}?]+)\?(?P<around>(?:[^{}]|\{\})*)\}|\{(?P<column>[^{}]*)\}"


_MARKS = frozenset("{}?")


@dataclass(frozen=True)
class Slot:
    """A place in a template for a column's value.

    `around`: what is written where there is one, {} being the value.
    """

    column: str
    optional: bool = False
    around: str = "{}"


@lru_cache(maxsize=256)
def _parsed(text: str, marked: tuple[str, ...]) -> tuple[str | Slot, ...]:
    """A template's texts and slots.

    `marked`: columns with braces or question marks in their names, which are written with doubled
    braces.
    """
    written = {"{" + name.replace("{", "{{").replace("}", "}}") + "}": name for name in marked}
    pattern = "|".join([*map(re.escape, sorted(written, key=len, reverse=True)), _PARTS])
    parts: list[str | Slot] = []
    end = 0
    for m in re.finditer(pattern, text):
        parts.append(text[end : m.start()])
        end = m.end()
        if m[0] in written:
            parts.append(Slot(written[m[0]]))
        elif m[0] in ("{{", "}}"):
            parts.append(m[0][0])
        elif m["optional"] is not None:
            parts.append(Slot(m["optional"], True, m["around"] or "{}"))
        else:
            parts.append(Slot(m["column"]))
    return tuple(part for part in [*parts, text[end:]] if part != "")


def _parts(text: str, columns: Iterable[str]) -> tuple[str | Slot, ...]:
    return _parsed(text, names_with_marks(columns))


def names_with_marks(columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in columns if not _MARKS.isdisjoint(name)))


def slots(text: str, columns: Iterable[str] = ()) -> list[Slot]:
    return [part for part in _parts(text, columns) if isinstance(part, Slot)]


def columns_in(text: str, columns: Iterable[str] = ()) -> list[str]:
    """The columns without which the template can't be filled; `columns` are those of the data."""
    return [slot.column for slot in slots(text, columns) if not slot.optional]


def fill(text: str, columns: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Return the template with the values of a row.

    `names` are the columns of the data, where the row has not all of them.
    """
    texts = []
    for part in _parts(text, columns if names is None else names):
        if isinstance(part, str):
            texts.append(part)
        elif not (part.optional and is_missing(columns.get(part.column))):
            texts.append(
                part.around.replace("{}", text_of(columns[part.column]))
                if part.optional
                else text_of(columns[part.column])
            )
    return "".join(texts)
