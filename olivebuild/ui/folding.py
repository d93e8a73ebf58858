"""Lines as wide as the terminal: broken between words, and indented below where they began.

What goes into files and pipes has whole lines, which other programs read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WORD = re.compile(r"\S+\s*|\s+")
PART = re.compile(r"[^/\\,;:=._-]*[/\\,;:=._-]+|[^/\\,;:=._-]+")
"""Parts of a word that is wider than a line, a path for one; it is broken after its signs."""
COLUMN = re.compile(r" *\S+ {2,}")
MARK = "…"


class Folding(Console):
    """A console that folds texts, and tables that are wider than the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console.print`, a single text folded and a wide table as blocks."""
        if not self.is_terminal or len(objects) != 1 or {*options} - {"style", "soft_wrap"}:
            super().print(*objects, **options)
            return
        value = objects[0]
        if isinstance(value, Table):
            self._print_table(value)
        elif isinstance(value, str | Text):
            text = self.render_str(value, highlight=False) if isinstance(value, str) else value
            style = options.get("style")
            super().print(fold_text(text, self.width), style=style, soft_wrap=True)
        else:
            super().print(value, **options)

    def _print_table(self, table: Table) -> None:
        if self.measure(table, options=self.options.update(width=10_000)).maximum <= self.width:
            super().print(table, soft_wrap=False)
            return
        for block in blocks_of(table, self):
            self.print(block)


def blocks_of(table: Table, console: Console) -> Iterator[Text]:
    """Yield a table's rows as blocks of lines: the first cell, and below it each other's heading.

    Cells that are empty have no line.
    """
    columns = [list(column.cells) for column in table.columns]
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    for number, row in enumerate(zip(*columns, strict=True)):
        cells = [c if isinstance(c, Text) else console.render_str(str(c)) for c in row]
        style = table.rows[number].style or ""
        yield Text(cells[0].plain.rstrip(), style=style or "bold")
        below = [(h, c) for h, c in zip(headings, cells, strict=True) if c.plain.strip()][1:]
        width = max((cell_len(heading) for heading, _ in below), default=0)
        for heading, cell in below:
            yield Text(f"  {heading:<{width}}  ", style=style).append_text(cell)


def fold_text(text: Text, width: int) -> Text:
    """Return a text whose lines are no wider than `width`; styles stay."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        if cell_len(line.plain.rstrip()) <= width:
            lines.append(line)
            continue
        indent = indent_of(line.plain, width)
        pieces = list(_pieces(line.plain, width, indent))
        start = 0
        for i, (piece, mark) in enumerate(pieces):
            part = line[start : start + len(piece)]
            start += len(piece)
            part.rstrip()
            lines.append(Text(" " * (indent if i else 0)).append_text(part).append(mark))
    return Text("\n").join(lines)


def fold(line: str, width: int) -> str:
    """Return a line as lines that are no wider than `width`."""
    return fold_text(Text(line), width).plain


def indent_of(line: str, width: int) -> int:
    """Return where the lines after the first begin: at the second column, or below the first."""
    column = COLUMN.match(line)
    indent = column.end() if column else len(line) - len(line.lstrip()) + 2
    return indent if indent <= width // 2 else 2


def _pieces(line: str, width: int, indent: int) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a line in its order, each with the mark of a word that was cut."""
    piece, room = "", width
    for word in _words(line, width - indent):
        if piece.strip() and cell_len(piece + word.rstrip()) > room:
            yield piece, ""
            piece, room = "", width - indent
        piece += word
        while cell_len(piece.rstrip()) > room:
            # Nothing in it says where it may be broken.
            cut = _fitting(piece, room - 1)
            yield cut, MARK
            piece, room = piece[len(cut) :], width - indent
    if piece:
        yield piece, ""


def _words(line: str, room: int) -> Iterator[str]:
    for word in WORD.findall(line):
        if cell_len(word.rstrip()) > room and word.strip():
            yield from PART.findall(word.rstrip())
            yield word[len(word.rstrip()) :]
        else:
            yield word


def _fitting(text: str, room: int) -> str:
    """Return as much of a text's beginning as is no wider than `room`."""
    end = len(text)
    while end > 1 and cell_len(text[:end]) > room:
        end -= 1
    return text[:end]


def fold_to_terminal(text: str) -> str:
    """Return lines that are no wider than the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n".join(fold(line, width) for line in text.split("\n"))
