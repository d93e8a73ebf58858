"""Rows to predict, read as rows to train."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError, Where
from olivebuild.data.readers import Read
from olivebuild.data.templates import fill
from olivebuild.ml.inference.predict import Form, read_rows
from tests.data.test_conversation import Q


@pytest.mark.parametrize(
    ("form", "row", "why"),
    [
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "do"}, None),
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "do", "x": ["it"]}, "x is not text but a list"),
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "", "x": "it"}, "no value for i"),
        (Form("", "prompt", "{x?}"), {"x": ""}, "the prompt is empty"),
        (Form("", "prompt", "{d}"), {"d": datetime.date(2024, 5, 1)}, None),
        (Form("", "messages", "m"), {"m": [{"from": "human", "value": "Q"}]}, None),
        (Form("", "messages", "m"), {"m": json.dumps([Q])}, None),
        (
            Form("", "messages", "m"),
            {"m": [Q], "tools": "{"},
            "the tools are not a list of objects",
        ),
        (Form("", "messages", "m"), {"m": []}, "no value for m"),
    ],
)
def test_rows_to_predict_are_read_as_rows_to_train(
    form: Form, row: dict[str, Any], why: str | None
) -> None:
    if why is None:
        form.check(Read(row, Where("a.jsonl", 1)))
        return
    with pytest.raises(InputError) as caught:
        form.check(Read(row, Where("a.jsonl", 1)))
    assert (caught.value.fact, str(caught.value.where)) == (why, "a.jsonl:1")


def test_a_form_of_optional_columns_fits_rows_that_have_one(tmp_path: Path) -> None:
    assert Form("", "prompt", "{x?}").fits({"x"})
    assert not Form("", "prompt", "{x?}").fits({"y"})
    assert Form("", "prompt", "{i}{x?}").fits({"i"})
    (tmp_path / "a.jsonl").write_text('{"i": "do", "n": 1.0}\n{"i": "go", "n": 2.0, "x": "it"}\n')
    rows, form = read_rows(
        tmp_path / "a.jsonl", "a.jsonl", [Form("rows", "user", "{i} {n}{x? {}}")]
    )
    assert [fill(form.text, row.columns) for row in rows] == ["do 1", "go 2 it"]
