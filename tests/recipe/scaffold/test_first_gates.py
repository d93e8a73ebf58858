"""Gates of a new recipe: what the rows of its size can decide, held against the judge itself."""

from __future__ import annotations

import pytest

from olivebuild.metrics.gates import Gate, wilson
from olivebuild.metrics.statistics import tango
from olivebuild.recipe.scaffold.first_gates import of_labels, of_texts

EVEN = {"a": 40, "b": 30, "c": 30}
ONE_SIDED = {"ok": 97, "broken": 3}


@pytest.mark.parametrize("rows", [24, 30, 60, 86, 180, 400, 2000])
def test_one_label_for_all_misses_and_a_good_model_meets(rows: int) -> None:
    first, *_ = of_labels(EVEN, rows).gates
    gate = Gate.parse(first)
    assert gate.metric == "accuracy"
    lucky = 0.4 + (0.4 * 0.6 / rows) ** 0.5
    assert wilson(lucky, rows)[1] < gate.limit <= wilson(0.9, rows)[0]


@pytest.mark.parametrize("rows", [30, 60, 86, 180, 400, 2000])
def test_a_conversion_that_changes_a_tenth_evenly_meets(rows: int) -> None:
    gate = Gate.parse(of_labels(EVEN, rows).gates[-1])
    assert gate.versus == "merged"
    changed = rows // 20
    assert -tango(changed, changed, rows)[0] <= gate.limit
    assert gate.limit <= 0.2


@pytest.mark.parametrize("rows", [0, 1, 3, 9])
def test_few_rows_decide_nothing(rows: int) -> None:
    assert of_labels(EVEN, rows).gates == ()
    assert of_texts(rows).gates == ()


def test_where_one_label_is_nearly_always_right_accuracy_is_no_gate() -> None:
    gates = of_labels(ONE_SIDED, 60)
    assert gates.gates[0] == "perplexity drop vs base <= 0"
    assert not any(gate.startswith("accuracy >=") for gate in gates.gates)


def test_limits_say_why() -> None:
    (first, second) = of_labels(EVEN, 80).why
    assert first.startswith("`a` for all would be right in 40 % of the rows")
    assert "57 right ones meet the gate, 39 miss it" in first
    assert "8 answers, 4 of them for the worse" in second
