"""predict: lines that were cut, tables, and the accuracy of rows that have answers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from olivebuild.cli.inference.predict import to_table, whole_lines
from tests.conftest import RECIPE, Place, rows, write_rows


@pytest.mark.parametrize(
    ("content", "count", "left"),
    [("", 0, ""), ("a\nb\n", 2, "a\nb\n"), ("a\nb", 1, "a\n"), ("a", 0, "")],
)
def test_a_line_that_was_cut_is_written_again(
    tmp_path: Path, content: str, count: int, left: str
) -> None:
    file = tmp_path / "part"
    file.write_text(content)
    assert whole_lines(file) == count
    assert file.read_text() == left
    assert whole_lines(tmp_path / "none") == 0


def test_a_table_has_all_columns_and_quotes_what_needs_it() -> None:
    lines = to_table(
        [
            {"a": "one, two", "n": 3, "prediction": "yes\nno"},
            {"a": 'a "word"', "more": ["x"], "prediction": "ä"},
        ],
        ",",
    )
    table = list(csv.reader(lines.splitlines(keepends=True)))
    assert table == [
        ["a", "n", "prediction", "more"],
        ["one, two", "3", "yes\nno", ""],
        ['a "word"', "", "ä", '["x"]'],
    ]
    assert to_table([{"a": "x\ty", "b": None}], "\t") == 'a\tb\n"x\ty"\t\n'


@pytest.fixture
def asked(place: Place, tiny_model: Path) -> Place:
    """A base that can be asked, and a data set with answers that is not built."""
    shutil.copytree(tiny_model, place.folder / "tiny")
    place.recipe.write_text(RECIPE)
    write_rows(place.folder / "in.jsonl", rows()[:6])
    return place


def test_rows_with_answers_are_judged_and_a_table_is_written(asked: Place) -> None:
    """The answers that the model gives are taken for the right ones of some rows."""
    command = ("predict", "base", "--data", "tone", "--max-tokens", "3")
    done = asked.run(*command, "--in", "in.jsonl")
    assert done.code == 0, done.err
    assert "accuracy 0.0 %: 0 of 6 answers are those of tone, 95 % interval 0.0 % to" in done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    expected = [
        row | {"tone": row["prediction"] if i < 2 and row["prediction"] else row["tone"]}
        for i, row in enumerate(answers)
    ]
    for row in expected:
        del row["prediction"]
    # One has no answer, and is asked all the same.
    expected[5]["tone"] = ""
    write_rows(asked.folder / "again.jsonl", expected)
    right = sum(bool(row["prediction"]) for row in answers[:2])
    done = asked.run(*command, "--in", "again.jsonl", "--out", "out.csv")
    assert done.code == 0, done.err
    assert f": {right} of 5 answers are those of tone" in done.err
    with open(asked.folder / "out.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["prediction"] for row in table] == [row["prediction"] for row in answers]
    assert list(asked.folder.glob("*.part")) == []
