"""Comments on pull requests: what they say, and that no text of a stranger is more than text."""

from __future__ import annotations

import re

import pytest

from olivebuild.ui.pull_request.comment import MARKER, MOST, render, text
from olivebuild.ui.pull_request.records import (
    Answers,
    ChangedRow,
    GateLine,
    Planned,
    PullRequestReport,
)

ROW = ChangedRow(number=3, text="the old dog", expected="joy", before="joy", now="sad")
REPORT = PullRequestReport(
    name="tone",
    targets=(
        Planned(target="base", kind="model", verdict="fresh"),
        Planned(target="adapter", kind="adapter", verdict="stale", seconds=90.0, why="file x"),
        Planned(target="bench", kind="benchmark", verdict="waiting", seconds=30.0),
    ),
    gates=(
        GateLine(target="bench", gate="a >= 0.9", state="met", before="missed", value="92 %"),
        GateLine(target="bench", gate="b >= 0.9", state="undecided"),
        GateLine(target="bench", gate="c >= 0.9", state="none"),
    ),
    answers=(Answers(target="bench", model="int4", data="t", lost=1, won=2, other=3, rows=(ROW,)),),
)


def test_a_comment() -> None:
    lines = render(REPORT, show_rows=False).splitlines()
    assert lines[0] == MARKER
    assert lines[1] == "### tone: 2 of 3 targets have to run (about 2 min 00 s)"
    assert "| bench: a &gt;= 0.9 | 92 % | met ✅ | **missed** ❌ |" in lines
    assert "| bench: b &gt;= 0.9 |  | not decided ⚠️ |  |" in lines
    assert "| bench: c &gt;= 0.9 |  | no result |  |" in lines
    assert "| bench | int4 | t | 1 | 2 | 3 | 0 |" in lines
    assert "| adapter | adapter | stale | 1 min 30 s | file x |" in lines


def test_texts_of_rows_are_there_if_they_are_asked_for() -> None:
    assert "the old dog" not in render(REPORT, show_rows=False)
    assert "| 3 | the old dog | joy | joy | sad |" in render(REPORT, show_rows=True)


@pytest.mark.parametrize(
    "hostile",
    [
        "@everyone look",
        "</details><script>alert(1)</script>",
        "[click](https://evil.example)",
        "![x](https://evil.example/x.png)",
        "https://evil.example and www.evil.example",
        "a | b | c",
        "line\n\n# heading\n- item",
        "`code` **bold** ~~gone~~ $x$",
        "fixes #12, org/repo#3, closes GH-1",
        "<!-- olivebuild: what a pull request changes -->",
        "\x1b[2J\u202e\x00",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_a_text_is_no_more_than_text(hostile: str) -> None:
    shown = text(hostile)
    assert "\n" not in shown
    # Whatever means something in Markdown has a backslash before it.
    assert not re.search(r"(?<!\\)[`*_\[\]|#~!$@<]", shown)
    assert not re.search(r"https?:|www\.|\x1b|\u202e|\x00|[0-9a-f]{8}", shown)


def test_a_long_report_is_cut() -> None:
    many = PullRequestReport(
        name="x",
        targets=tuple(
            Planned(target="t" * 300, kind="k", verdict="stale", why="w" * 300) for _ in range(500)
        ),
    )
    comment = render(many, show_rows=False)
    assert len(comment) < MOST + 100
    assert comment.endswith("it is in the artifact of the job.\n")
