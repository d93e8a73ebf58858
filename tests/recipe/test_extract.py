"""The recipe `extract`: its rows are what its script writes, and what each asks for follows its
schema.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema

from olivebuild.data.templates import fill
from olivebuild.planner.project import open_graph

RECIPE = Path(__file__).parents[2] / "recipes/extract"


def rows() -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (RECIPE / "data/orders.jsonl").read_text("utf-8").splitlines()
    ]


def test_the_script_writes_the_rows_that_are_there() -> None:
    spec = importlib.util.spec_from_file_location("make_data", RECIPE / "make_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.rows() == rows()


def test_every_answer_follows_the_schema_and_no_message_comes_twice() -> None:
    validator = jsonschema.Draft202012Validator(
        json.loads((RECIPE / "order.schema.json").read_text())
    )
    completion = open_graph(RECIPE, None).recipe.targets["orders"].fields.completion  # type: ignore[attr-defined]
    for row in rows():
        answer = json.loads(fill(completion, row).removesuffix("<|im_end|>"))
        validator.validate(answer)
        assert answer == {name: row[name] for name in ("name", "date", "item", "quantity")}
        # What is copied stands in the message; number and day are often in words.
        assert row["name"] in row["text"]
    assert len({row["text"] for row in rows()}) == len(rows())
