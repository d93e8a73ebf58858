"""Rows as lines: marks, what is left out of long ones, and bars."""

from __future__ import annotations

from typing import Any

from olivebuild.ui.shown_rows import to_lines

TOKENS: list[dict[str, Any]] = [
    {"id": 1, "text": "Is it\n", "loss": False},
    {"id": 2, "text": "ye", "loss": True},
    {"id": 3, "text": "s\x1b[31m", "loss": True},
]
SHOWN: dict[str, Any] = {
    "data": "tone",
    "split": "train",
    "for": "adapter",
    "unit": "tokens",
    "rows": 2,
    "read": 1204,
    "duplicates": 0,
    "labels": {"yes": 2},
    "sequences": None,
    "loss": "completion",
    "max_length": 8,
    "trained": 2,
    "held_out": 0,
    "tokens": 1500,
    "learnt": 2,
    "lengths": {
        "min": 3,
        "median": 3.5,
        "max": 6,
        "bars": [{"from": 3, "to": 4, "count": 1}, {"from": 5, "to": 6, "count": 4}],
    },
    "flaws": [{"why": "too long", "cut": True, "count": 7, "where": [f"a:{i}" for i in range(7)]}],
    "drops": [{"why": "no value for x", "count": 1, "first": "a:3", "fault": True}],
    "dropped_rows": [{"where": "a:3", "why": "no value for x"}],
    "shown": [
        {
            "row": 1,
            "where": "a:1",
            "label": "yes",
            "length": 3,
            "learnt": 2,
            "tokens": TOKENS,
            "cut": "too long",
        }
    ],
}


def lines(shown: dict[str, Any], *, in_full: bool = False, coloured: bool = False) -> list[str]:
    return [t.plain.rstrip() for t in to_lines(shown, (), in_full=in_full, coloured=coloured)]


def test_lines_without_colours() -> None:
    assert lines(SHOWN) == [
        "tone.train as adapter trains on it: 2 rows, 1,500 tokens, 2 learnt",
        "loss     completion, stands in [[ ]]; max_length 8",
        "lengths  3 to 6 tokens, median 4",
        "         3-4  ######                        1",
        "         5-6  ########################      4",
        "labels   yes 2",
        "cut      7 rows: too long (a:0, a:1, a:2, a:3, a:4 and 2 more)",
        "dropped  1 of 1,204 rows: no value for x (a:3)",
        "",
        "row 1 of 2  a:1  yes  3 tokens, 2 learnt",
        "cut      too long",
        "  Is it\\n",
        "  [[yes\\u001b[31m]]",
    ]


def test_it_is_said_that_a_training_would_fail() -> None:
    told = lines(SHOWN | {"fails": True, "max_dropped": 0.05})
    assert told[7] == "fails    a training, since that is more than max_dropped allows (0.05)"


def test_colours_take_the_place_of_brackets() -> None:
    coloured = list(to_lines(SHOWN, (), in_full=False, coloured=True))
    assert "[[" not in coloured[-1].plain
    assert [str(span.style) for span in coloured[-1].spans] == ["bold green"]


def test_a_row_in_full_has_a_line_for_each_token() -> None:
    assert lines(SHOWN, in_full=True)[-3:] == [
        "      1       1       Is it\\n",
        "      2       2  *    ye",
        "      3       3  *    s\\u001b[31m",
    ]


def test_the_middle_of_a_long_row_is_left_out() -> None:
    long = [{"id": 1, "text": "word " * 400, "loss": False}, *TOKENS[1:]]
    item = SHOWN["shown"][0] | {"tokens": long}
    last = lines(SHOWN | {"shown": [item]})[-1]
    assert " ... " in last
    assert len(last) < 400


def test_what_else_trains_on_a_data_set_is_named() -> None:
    told = [t.plain for t in to_lines(SHOWN, ("b", "c"), in_full=False, coloured=False)]
    assert "also     b, c: --for b shows its rows" in told
