"""Early decisions are those of all rows, but for one of twenty at most, whenever one stops."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.metrics.early_decision import EarlyGates, Standing, outcomes_in
from olivebuild.metrics.gates import Gate, State, judge
from olivebuild.metrics.model_comparison import comparisons
from olivebuild.metrics.records import read_metrics
from olivebuild.metrics.row_order import row_order
from olivebuild.metrics.scoring import Judged, metrics_of, outcomes

Answers = dict[str, list[bool]]
"""Model -> whether each row is right."""


def _gates(texts: Iterable[str], models: Iterable[str], *, strict: bool = False) -> EarlyGates:
    gates = [Gate.parse(text, strict=strict) for text in texts]
    return EarlyGates("bench", gates, list(models), ["tone"])


def _ask(early: EarlyGates, answers: Answers, order: Iterable[int]) -> list[Standing]:
    for row in order:
        for model, right in answers.items():
            early.rows(model, "tone", len(right)).add(row, {"accuracy": right[row]})
        early.decide()
    return early.decisions


def _whole(gate: str, answers: Answers) -> State:
    """Return what the benchmark's own record says of a gate."""
    models = {
        model: {
            "data": {
                "tone": metrics_of(
                    [_judged(i, right=r) for i, r in enumerate(right)],
                    labelled=True,
                    written=False,
                )
            }
        }
        for model, right in answers.items()
    }
    record = read_metrics({"models": models, "data": ["tone"]}, "bench")
    compared = comparisons(record.models, ["tone"]) if "drop" in gate else []
    whole = read_metrics({"models": models, "data": ["tone"], "comparisons": compared}, "bench")
    return judge("bench", [Gate.parse(gate)], whole)[0].state


def _judged(row: int, *, right: bool) -> Judged:
    expected = "ab"[row % 2]
    return Judged(expected, "", expected if right else "c", "", 0.0, 0)


def _share(rows: int, right: int) -> Callable[[random.Random], Answers]:
    def draw(source: random.Random) -> Answers:
        return {"new": source.sample([True] * right + [False] * (rows - right), rows)}

    return draw


def _pair(rows: int, lost: int, won: int) -> Callable[[random.Random], Answers]:
    def draw(source: random.Random) -> Answers:
        pairs = [(True, False)] * lost + [(False, True)] * won
        pairs += [(True, True)] * (rows - lost - won)
        mixed = source.sample(pairs, rows)
        return {"old": [old for old, _ in mixed], "new": [new for _, new in mixed]}

    return draw


@pytest.mark.parametrize(
    ("gate", "draw", "state"),
    [
        # At the last number that is missed, within, and at the first that is met.
        ("accuracy >= 0.8", _share(100, 72), "missed"),
        ("accuracy >= 0.8", _share(100, 73), "undecided"),
        ("accuracy >= 0.8", _share(100, 80), "undecided"),
        ("accuracy >= 0.8", _share(100, 87), "undecided"),
        ("accuracy >= 0.8", _share(100, 88), "met"),
        ("accuracy >= 0.8", _share(100, 97), "met"),
        ("accuracy drop vs old <= 0.05", _pair(100, 0, 0), "met"),
        ("accuracy drop vs old <= 0.05", _pair(100, 1, 1), "met"),
        ("accuracy drop vs old <= 0.05", _pair(100, 3, 1), "undecided"),
        ("accuracy drop vs old <= 0.05", _pair(100, 10, 0), "missed"),
        ("accuracy drop vs old <= 0.05", _pair(100, 18, 2), "missed"),
    ],
)
def test_one_of_twenty_at_most_is_decided_otherwise_than_by_all_rows(
    gate: str, draw: Callable[[random.Random], Answers], state: State
) -> None:
    source, wrong, streams = random.Random(7), 0, 150
    assert _whole(gate, draw(source)) == state
    for _ in range(streams):
        answers = draw(source)
        (decision,) = _ask(_gates([gate], answers), answers, row_order(100))
        wrong += decision.state != state
    assert wrong / streams <= 0.05


def test_a_clear_case_is_decided_early() -> None:
    answers = _share(400, 392)(random.Random(1))
    (decision,) = _ask(_gates(["accuracy >= 0.8"], answers), answers, row_order(400))
    assert (decision.state, decision.of) == ("met", 400)
    assert decision.rows < 120
    low, high = decision.interval
    assert low < decision.value <= high


@pytest.mark.parametrize("gate", ["accuracy >= 0.5", "accuracy drop vs old <= 0.4"])
def test_the_last_row_decides_what_the_record_will_say(gate: str) -> None:
    at_the_end = 0
    for lost in range(0, 13, 2):
        answers = _pair(12, lost, min(2, 12 - lost))(random.Random(lost))
        decision = _ask(_gates([gate], answers), answers, row_order(12))[-1]
        assert decision.state == _whole(gate, answers)
        at_the_end += decision.rows == 12
    assert at_the_end


def test_rows_may_be_answered_in_any_order_and_by_one_model_first() -> None:
    answers = _pair(200, 0, 0)(random.Random(3))
    gate = "accuracy drop vs old <= 0.05"
    (in_order,) = _ask(_gates([gate], answers), answers, row_order(200))
    early = _gates([gate], answers)
    assert not _ask(early, {"old": answers["old"]}, range(200))
    (decision,) = _ask(early, {"new": answers["new"]}, reversed(range(200)))
    assert decision == in_order


def test_a_missed_gate_stands_whatever_the_others_say() -> None:
    answers = {"old": [True] * 60, "new": [False] * 60}
    early = _gates(["old.accuracy >= 0.5", "accuracy >= 0.9", "size <= 1MB"], answers)
    assert early.later == ["size <= 1MB"]
    _ask(early, {"old": answers["old"]}, row_order(60))
    assert [d.state for d in early.decisions] == ["met"]
    # The size is not known from rows: the gates together do not stand yet.
    before = early.stand
    _ask(early, {"new": answers["new"]}, row_order(60))
    assert early.decisions[-1].state == "missed"
    assert (before, early.stand) == (False, True)


def test_gates_that_are_all_met_stand() -> None:
    answers = {"new": [True] * 60}
    early = _gates(["accuracy >= 0.5"], answers)
    before = early.stand
    assert early.needs() == {("new", "tone")}
    _ask(early, answers, row_order(60))
    assert (before, early.stand) == (False, True)
    assert not early.open


def test_what_is_not_decided_stands_and_fails_where_it_is_strict() -> None:
    answers = _share(60, 48)(random.Random(2))
    early = _gates(["accuracy >= 0.8", "size <= 1MB"], answers, strict=True)
    (decision,) = _ask(early, answers, row_order(60))
    assert (decision.state, decision.strict) == ("undecided", True)
    assert early.stand


@pytest.mark.parametrize("gate", ["macro_f1 >= 0.8", "accuracy_mean >= 0.8", "perplexity <= 3"])
def test_what_rows_alone_do_not_tell_is_left_for_later(gate: str) -> None:
    early = _gates([gate], ["new"])
    assert early.later == [gate]
    assert not early.open


def test_a_metric_that_the_rows_lack_decides_nothing() -> None:
    answers = {"new": [True] * 60}
    early = _gates(["schema_valid >= 0.5"], answers)
    assert not _ask(early, answers, row_order(60))
    assert early.open == ["schema_valid >= 0.5"]


def test_an_empty_data_set_decides_nothing() -> None:
    early = _gates(["accuracy >= 0.5"], ["new"])
    early.rows("new", "tone", 0)
    assert not early.decide()


def test_a_gate_that_names_another_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="does not measure"):
        _gates(["other.accuracy >= 0.5"], ["new"])


def test_what_is_open_says_how_it_stands() -> None:
    answers = _share(200, 160)(random.Random(5))
    early = _gates(["accuracy >= 0.8"], answers)
    assert not _ask(early, answers, row_order(200)[:50])
    standing = early.running["accuracy >= 0.8"]
    assert (standing.state, standing.rows, standing.of) == (None, 50, 200)
    assert standing.interval[0] < 0.8 < standing.interval[1]


def test_stored_answers_have_the_outcomes_of_those_that_are_just_judged() -> None:
    judged = [_judged(row, right=row % 3 > 0) for row in range(6)]
    stored = [metrics_of(judged, labelled=True, written=True)]
    told = [outcomes(answer, labelled=True, written=True) for answer in judged]
    assert outcomes_in(stored) == [told]
    with pytest.raises(ValueError, match="rows"):
        outcomes_in([{"rows": "many"}])
