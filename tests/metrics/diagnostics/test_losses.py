"""Worse than its source, a baseline or one label: found where planted, at most 5 % alarms else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from olivebuild.metrics.diagnostics.lineage import Lineage
from olivebuild.metrics.diagnostics.losses import against_baselines, against_sources
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import Metrics, read_metrics
from olivebuild.metrics.scoring import Judged, metrics_of
from tests.metrics.diagnostics.simulated import accurate, benchmark, rows

LABELS = {"joy": 0.4, "sad": 0.3, "fear": 0.2, "surprise": 0.1}
LINEAGES = {
    "merged": Lineage(source="base", trained_on=("tone",)),
    "int4": Lineage(source="merged", trained_on=("tone",), precision="int4"),
}


def flipped(
    answers: Sequence[str], expected: Sequence[str], share: float, random: np.random.Generator
) -> list[str]:
    """Answers of a copy of a model, so many of which are drawn anew with the same accuracy."""
    accuracy = np.mean([a == e for a, e in zip(answers, expected, strict=True)])
    model = accurate(float(accuracy), list(LABELS))
    return [
        model(e, random) if random.random() < share else a
        for a, e in zip(answers, expected, strict=True)
    ]


def drawn(
    random: np.random.Generator, count: int, base: float, loss: float = 0.0, sets: int = 1
) -> Metrics:
    """A base, a merge as good as it, and an int4 that loses on so many rows."""
    expected = rows(LABELS, count, random)
    model = accurate(base, list(LABELS))
    first = [model(e, random) for e in expected]
    merged = flipped(first, expected, 0.3, random)
    int4 = flipped(merged, expected, 0.2, random)
    int4 = ["joy" if random.random() < loss else a for a in int4]
    return benchmark(expected, {"base": first, "merged": merged, "int4": int4})


@pytest.mark.parametrize("count", [20, 120])
def test_equals_raise_no_alarm(count: int) -> None:
    random = np.random.default_rng(11)
    trials, sources, simple = 100, 0, 0
    for _ in range(trials):
        metrics = drawn(random, count, 0.7)
        sources += bool([*against_sources(metrics, LINEAGES)])
        simple += bool([*against_baselines(metrics, ["merged", "int4"])])
    assert sources <= 0.05 * trials
    assert simple <= 0.05 * trials


def test_a_model_at_the_level_of_one_label_or_of_naive_bayes_raises_no_alarm() -> None:
    random = np.random.default_rng(5)
    trials, majority, baseline = 120, 0, 0
    for _ in range(trials):
        expected = rows({"a": 0.5, "b": 0.5}, 86, random)
        answers = [accurate(0.5, ["a", "b"])(e, random) for e in expected]
        theirs = [[accurate(0.5, ["a", "b"])(e, random) for e in expected] for _ in range(2)]
        metrics = benchmark(expected, {"m": answers}, baselines=classifiers(expected, theirs))
        codes = [d.code for d in against_baselines(metrics, ["m"])]
        majority += "worse-than-majority" in codes
        baseline += "worse-than-baseline" in codes
    assert majority <= 0.05 * trials
    assert baseline <= 0.05 * trials


def classifiers(expected: Sequence[str], answers: Sequence[Sequence[str]]) -> object:
    return {
        f"classifier {i}": {
            "tone": {
                "rows": len(expected),
                "accuracy": float(np.mean([a == e for a, e in zip(row, expected, strict=True)])),
                "answers": [
                    {"expected": e, "label": a} for a, e in zip(row, expected, strict=True)
                ],
            }
        }
        for i, row in enumerate(answers)
    }


def test_int4_that_loses_is_told_and_what_it_was_made_from() -> None:
    metrics = drawn(np.random.default_rng(2), 200, 0.9, loss=0.4)
    (loss,) = against_sources(metrics, LINEAGES)
    assert (loss.code, loss.severity, loss.model) == ("quantisation-loss", "warning", "int4")
    assert loss.text.startswith("int4 loses more than noise by int4 on tone: accuracy ")
    assert loss.text.endswith(" of merged")
    assert loss.figures["versus"] == "merged"
    assert float(str(loss.figures["p"])) < 0.01


def test_a_merge_that_is_worse_than_its_base_is_told() -> None:
    expected = ["joy", "sad"] * 50
    answers = ["sad", "sad", "joy", "joy"] * 25
    metrics = benchmark(expected, {"base": expected, "merged": answers})
    (loss,) = against_sources(metrics, LINEAGES)
    assert (loss.code, loss.severity) == ("worse-than-source", "error")
    assert loss.text == (
        "merged is worse than base, which it was made from, on tone: accuracy 50.0 % (50 rows "
        "lost, 0 won) against 100.0 %"
    )


def test_worse_than_one_label_and_than_a_classifier_of_words() -> None:
    expected = ["joy"] * 70 + ["sad"] * 30
    answers = ["sad"] * 50 + ["joy"] * 20 + ["joy"] * 30
    theirs = ["joy"] * 69 + ["sad"] * 31
    metrics = benchmark(expected, {"m": answers}, baselines=classifiers(expected, [theirs]))
    baseline, majority = against_baselines(metrics, ["m"])
    assert (baseline.code, majority.code) == ("worse-than-baseline", "worse-than-majority")
    assert baseline.text.startswith("m is worse than classifier 0 on tone: accuracy 20.0 %")
    assert "answering 'joy' to every row on tone" in majority.text


def test_rounding_that_costs_a_text_hardly_any_likelihood_is_not_told() -> None:
    def texts(factor: float) -> dict[str, object]:
        judged = [Judged("", "", "", "", factor * (2 + i % 5), 3 + i % 5) for i in range(200)]
        return {"data": {"texts": metrics_of(judged, labelled=False, written=False)}}

    lineages = {"int4": Lineage(source="base", precision="int4")}

    def codes(factor: float) -> list[str]:
        models = {"base": texts(1.0), "int4": texts(factor)}
        metrics = read_metrics({"models": models, "data": ["texts"]}, "bench")
        return [d.code for d in against_sources(metrics, lineages)]

    assert codes(1.001) == []
    assert codes(1.2) == ["quantisation-loss"]


def test_models_on_other_rows_are_not_compared() -> None:
    one = benchmark(["joy", "sad"] * 50, {"base": ["joy", "sad"] * 50})
    other = benchmark(["joy"] * 90, {"merged": ["sad"] * 90})
    both = decode(
        {"models": {}, "data": ["tone"]},
        Metrics,
    )
    both = Metrics(models={**one.models, **other.models}, data=both.data)
    assert [*against_sources(both, LINEAGES)] == []
