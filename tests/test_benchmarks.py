"""The benchmarks, which are run by hand: what they lean on in our own code is there, and what they
compare is told apart and counted rightly.
"""

from __future__ import annotations

import ast
import importlib
import json
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def checks() -> dict[str, dict[str, object]]:
    """What `rebuild.py` leaves out for its row without checks."""
    body = ast.parse((FOLDER / "rebuild.py").read_text("utf-8")).body
    (found,) = [
        n.value
        for n in body
        if isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Name)
        and n.targets[0].id == "CHECKS"
    ]
    return ast.literal_eval(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in checks().items() for name in names]
)
def test_each_check_that_is_left_out_is_one(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))


def test_fresh_rows_are_none_of_the_recipes() -> None:
    from benchmarks._seeded_tasks import FRESH, ROOT, fresh_orders, fresh_tones

    def texts(path: str, field: str) -> set[str]:
        lines = (ROOT / "recipes" / path).read_text("utf-8").splitlines()
        return {json.loads(line)[field] for line in lines}

    tones, orders = fresh_tones(), fresh_orders()
    known = texts("tone/data/tone.jsonl", "phrase") | texts("tone/data/hard.jsonl", "phrase")
    assert len({row["phrase"] for row in tones} - known) == FRESH
    assert (
        len({row["text"] for row in orders} - texts("extract/data/orders.jsonl", "text")) == FRESH
    )
    assert Counter(row["tone"] for row in tones) == dict.fromkeys(
        ("joy", "sad", "fear", "surprise"), FRESH // 4
    )


def test_folds_hold_each_row_once_and_train_on_none_of_them(tmp_path: Path) -> None:
    from benchmarks._seeded_tasks import task_of

    rows = [{"phrase": f"row {i // 2}", "tone": "ab"[i % 2]} for i in range(22)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]), "utf-8")
    task = task_of(str(path), 5)
    judged = [task.files[f"data/fold{fold}.jsonl"] for fold in range(5)]
    found = [row for fold in judged for row in fold]
    assert sorted(map(str, found)) == sorted(map(str, rows))
    for fold, held in enumerate(judged):
        trained = task.files[f"data/train{fold}.jsonl"]
        assert not {str(row) for row in held} & {str(row) for row in trained}
        assert task.seeded(fold)["data"] == f"rows{fold}.train"
    assert "a or b?" in task.recipe["rows0"]["prompt"]


def test_an_interval_is_over_groups_of_rows_and_seeds() -> None:
    from benchmarks._seeded_tasks import interval
    from benchmarks.int4 import ends

    alone = {str(i): [[int(i < 4)], [int(i < 4)]] for i in range(40)}
    mean, low, high = interval(alone)
    assert mean == 0.1
    assert 0 < low < 0.1 < high < 0.22
    # Rows that are answered alike are fewer.
    alike = {str(i): [[int(i < 1)] * 4, [int(i < 1)] * 4] for i in range(10)}
    assert interval(alike)[0] == 0.1
    assert interval(alike)[2] > high
    # Seeds that differ widen it, too.
    apart = {str(i): [[int(i < 8)], [0]] for i in range(40)}
    assert interval(apart)[0] == 0.1
    assert interval(apart)[2] > high
    assert ends({"a": [[0, 0], [0]]}) == "0.00 (no answer differs)"


def test_each_fresh_sentence_has_the_phrase_that_it_was_made_of() -> None:
    from benchmarks._seeded_tasks import WHAT, fresh_tones, phrase_of

    phrases = {phrase for texts in WHAT.values() for phrase in texts.split("|")}
    found = Counter(phrase_of(row) for row in fresh_tones())
    assert found.keys() <= phrases
    assert len(found) > 45
