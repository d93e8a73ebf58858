"""Lines that are folded: their width, their words, their styles, and tables that become blocks."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from olivebuild.ui.folding import Folding, fold, fold_text

LINES = st.lists(
    st.text(alphabet="abc/._-é漢 ", min_size=1, max_size=30), min_size=1, max_size=12
).map(" ".join)


@given(line=LINES, width=st.integers(20, 120))
def test_no_line_is_wider_and_nothing_is_lost(line: str, width: int) -> None:
    folded = fold(line, width)
    assert all(cell_len(part.rstrip()) <= width for part in folded.split("\n"))
    assert "".join(folded.replace("…", "").split()) == "".join(line.split())


@pytest.mark.parametrize(
    ("line", "width", "folded"),
    [
        ("short", 20, "short"),
        ("stale    one two three four", 20, "stale    one two\n         three four"),
        ("  - a reason of some words", 20, "  - a reason of some\n    words"),
        ("see a/long/path/of/many/parts", 20, "see a/long/path/of/\n  many/parts"),
        ("a" * 30, 20, f"{'a' * 19}…\n  {'a' * 11}"),
        ("漢字" * 8, 20, f"{'漢字' * 4}漢…\n  {'字漢' * 3}字"),
    ],
)
def test_lines_go_on_below_their_second_column(line: str, width: int, folded: str) -> None:
    assert fold(line, width) == folded


def test_styles_stay_with_their_words() -> None:
    text = Text("stale    ").append("red words here", style="red")
    folded = fold_text(text, 18)
    assert folded.plain == "stale    red words\n         here"
    assert {folded.plain[span.start : span.end].strip() for span in folded.spans} == {
        "red words",
        "here",
    }


def printed(width: int, table: Table) -> list[str]:
    out = io.StringIO()
    Folding(file=out, width=width, force_terminal=True, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_table_that_is_too_wide_becomes_blocks() -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("model", "tone\naccuracy", "size"):
        table.add_column(heading)
    table.add_row("base", "51.2 %", "")
    table.add_row("onnx-int4-of-a-long-name", "49.1 %", Text("4.8 MB"))
    assert printed(60, table)[1].split() == ["model", "accuracy", "size"]
    assert printed(30, table) == [
        "base",
        "  tone accuracy  51.2 %",
        "onnx-int4-of-a-long-name",
        "  tone accuracy  49.1 %",
        "  size           4.8 MB",
    ]


def test_what_goes_into_a_file_has_whole_lines() -> None:
    out = io.StringIO()
    Folding(file=out, width=20, soft_wrap=True).print("word " * 20)
    assert len(out.getvalue().splitlines()) == 1
