"""One label to all rows, and labels that are exchanged: found where planted, no alarm else."""

from __future__ import annotations

import numpy as np
import pytest

from olivebuild.metrics.diagnostics.labels import exchanged, of_answers, one_label
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import DataMetrics
from olivebuild.metrics.scoring import Judged, metrics_of
from tests.metrics.diagnostics.simulated import accurate, benchmark, rows

TRIALS = 300
SHARES = [
    {"joy": 0.5, "sad": 0.5},
    {"joy": 0.9, "sad": 0.1},
    {"joy": 0.97, "sad": 0.03},
    {"joy": 0.4, "sad": 0.3, "fear": 0.2, "surprise": 0.1},
]


def alarms(shares: dict[str, float], count: int, accuracy: float, test: str) -> float:
    """The share of benchmarks of a model that works which get a diagnostic."""
    random = np.random.default_rng(7)
    model, hits = accurate(accuracy, list(shares)), 0
    for _ in range(TRIALS):
        expected = rows(shares, count, random)
        pairs = [(label, model(label, random)) for label in expected]
        hits += bool(one_label(pairs) if test == "one" else exchanged(pairs))
    return hits / TRIALS


@pytest.mark.parametrize("shares", SHARES, ids=lambda shares: f"{max(shares.values())}")
@pytest.mark.parametrize("count", [12, 86, 400])
@pytest.mark.parametrize("accuracy", [0.55, 0.8, 0.98])
def test_models_that_work_raise_no_alarm(
    shares: dict[str, float], count: int, accuracy: float
) -> None:
    assert alarms(shares, count, accuracy, "one") <= 0.05
    assert alarms(shares, count, accuracy, "swap") <= 0.05


def test_a_model_that_guesses_exchanges_nothing() -> None:
    assert alarms(SHARES[0], 86, 0.5, "swap") <= 0.05
    assert alarms(SHARES[3], 86, 0.25, "swap") <= 0.05


@pytest.mark.parametrize("shares", SHARES[:2], ids=lambda shares: f"{max(shares.values())}")
def test_a_model_of_one_label_is_found(shares: dict[str, float]) -> None:
    random = np.random.default_rng(3)
    expected = rows(shares, 100, random)
    label, count, due, total = one_label([(e, "joy") for e in expected]) or ("", 0, 0, 0)
    assert (label, count, total) == ("joy", 100, 100)
    assert due == sum(e != "joy" for e in expected)


def test_a_few_other_answers_do_not_hide_it() -> None:
    pairs = [("sad", "joy")] * 50 + [("joy", "joy")] * 47 + [("joy", "sad")] * 3
    assert one_label(pairs) == ("joy", 97, 50, 100)


def test_eleven_rows_of_one_label_say_nothing_of_a_model() -> None:
    assert one_label([("joy", "joy")] * 10 + [("sad", "joy")]) is None
    assert one_label([("joy", "joy")] * 20) is None
    assert one_label([]) is None


@pytest.mark.parametrize("accuracy", [0.75, 0.9])
def test_two_exchanged_labels_are_found(accuracy: float) -> None:
    random = np.random.default_rng(5)
    labels, swap = list(SHARES[3]), {"joy": "sad", "sad": "joy"}
    model, found = accurate(accuracy, labels), 0
    for _ in range(50):
        expected = rows(SHARES[3], 86, random)
        pairs = [(e, swap.get(a := model(e, random), a)) for e in expected]
        found += exchanged(pairs) == swap
    assert found >= 42


def test_a_cycle_of_three_is_found() -> None:
    turn = {"a": "b", "b": "c", "c": "a"}
    pairs = [(x, turn[x]) for x in "abc" * 15] + [("d", "d")] * 15
    assert exchanged(pairs) == turn


def test_labels_that_are_taken_for_one_another_in_one_direction_are_not_exchanged() -> None:
    pairs = [("joy", "sad")] * 40 + [("sad", "sad")] * 40
    assert exchanged(pairs) == {}


def test_what_is_said() -> None:
    expected = ["joy"] * 20 + ["sad"] * 20
    (swapped,) = of_answers(
        "merged",
        "tone",
        benchmark(expected, {"merged": ["sad"] * 20 + ["joy"] * 20}).models["merged"].data["tone"],
    )
    assert (swapped.code, swapped.severity) == ("swapped-labels", "error")
    assert swapped.text == (
        "merged exchanges the labels 'joy' and 'sad' on tone: 0 of 40 answers are right, and 40 "
        "would be if these were exchanged"
    )
    assert swapped.figures["accuracy_exchanged"] == 1.0
    (one,) = of_answers(
        "merged",
        "tone",
        benchmark(expected, {"merged": ["joy"] * 40}).models["merged"].data["tone"],
    )
    assert one.text == (
        "merged answers 'joy' to 40 of the 40 rows of tone, of which 20 have another label"
    )


def test_one_answer_to_all_rows_where_labels_are_no_closed_set() -> None:
    def written(texts: list[str]) -> DataMetrics:
        rows = [Judged(f"{i}", f"the answer {i}", "", text, 0.1, 1) for i, text in enumerate(texts)]
        return decode(metrics_of(rows, labelled=False, written=True), DataMetrics)

    (one,) = of_answers("merged", "mails", written(["Thanks!"] * 30))
    assert one.code == "one-answer"
    assert "writes 'thanks' to 30 of the 30 rows" in one.text
    assert not [*of_answers("merged", "mails", written([f"the answer {i}" for i in range(30)]))]
    (none,) = of_answers("merged", "mails", written([""] * 30))
    assert "writes nothing to 30" in none.text
