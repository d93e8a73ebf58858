"""A gate on a drop against the last build: training with another seed does not trip it, half the
labels swapped does, a loss of 3 points does.

The judging is the real one. The models are classifiers that train in a moment, on the rows of a
recipe in this repository, and that recipe's own models, whose answers are in predictions.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline

from olivebuild.metrics.gates import Gate, Judgement, judge
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.model_comparison import LATENCY, comparisons
from olivebuild.metrics.records import YES_OR_NO, Metrics, ModelMetrics
from olivebuild.metrics.scoring import Fields, Judged, metrics_of

FILE = Path(__file__).parents[2] / "recipes/tone/data/tone.jsonl"
GATE = Gate.parse("accuracy drop vs last <= 0.02")
LABELS = ("fear", "joy", "sad", "surprise")


@cache
def split() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    rows = [
        (row["phrase"], row["tone"])
        for row in map(json.loads, FILE.read_text("utf-8").splitlines())
    ]
    return [r for i, r in enumerate(rows) if i % 3], [r for i, r in enumerate(rows) if not i % 3]


@cache
def predictions(seed: int, swapped: bool = False) -> list[str]:
    """What a model says of the test rows that was trained with a seed."""
    random = np.random.default_rng(seed)
    train = [split()[0][i] for i in random.permutation(len(split()[0]))]
    if swapped:
        train = [
            (text, LABELS[(LABELS.index(label) + 1) % 4] if i % 2 else label)
            for i, (text, label) in enumerate(train)
        ]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)),
        SGDClassifier(
            loss="log_loss",
            max_iter=2,
            tol=None,
            random_state=seed,
            learning_rate="constant",
            eta0=3.0,
        ),
    )
    model.fit([text for text, _ in train], [label for _, label in train])
    return [str(label) for label in model.predict([text for text, _ in split()[1]])]


def measured(expected: list[str], last: list[str], now: list[str]) -> Metrics:
    models = {
        name: {
            "data": {
                "tone": metrics_of(
                    [
                        Judged(e, e, label, label, 0.0, 0)
                        for e, label in zip(expected, said, strict=True)
                    ],
                    labelled=True,
                    written=False,
                )
            }
        }
        for name, said in (("last", last), ("now", now))
    }
    found = comparisons(decode(models, dict[str, ModelMetrics]), ["tone"])
    return decode({"data": ["tone"], "models": models, "comparisons": found}, Metrics)


def verdict(metrics: Metrics, figure: str = "accuracy") -> str:
    return next(c.verdict for c in metrics.comparisons if c.figure == figure)


def gate(now: list[str]) -> Judgement:
    return judge(
        "bench", [GATE], measured([label for _, label in split()[1]], predictions(0), now)
    )[0]


def test_training_with_another_seed_does_not_trip_the_gate() -> None:
    judged = [gate(predictions(seed)) for seed in range(1, 21)]
    assert sum(j.state != "missed" for j in judged) == 20
    # They are real retrainings: their figures differ, and some would have missed the gate without
    # an interval.
    assert len({j.value for j in judged}) > 3


def test_half_the_labels_swapped_trips_the_gate() -> None:
    judged = [gate(predictions(seed, swapped=True)) for seed in range(1, 21)]
    assert sum(not j.passed for j in judged) == 20


@cache
def saved() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (Path(__file__).parent / "predictions.json").read_text("utf-8")
    )
    return found


def saved_gate(data: str, last: str, now: str, text: str = GATE.text) -> Judgement:
    return judge(
        "bench",
        [Gate.parse(text)],
        measured(list(saved()["expected"][data]), list(last), list(now)),
    )[0]


@pytest.mark.parametrize("data", ["tone", "hard"])
def test_the_quick_start_trained_with_another_seed_does_not_trip_the_gate(data: str) -> None:
    said = {seed: answers[data] for seed, answers in saved()["merged"].items()}
    judged = [saved_gate(data, said[last], said[now]) for last, now in permutations(said, 2)]
    assert len(judged) == 20
    assert [j for j in judged if j.state == "missed"] == []
    assert sum(not j.likely for j in judged) >= 4, "some drop by more than the gate allows"


def test_an_int4_model_that_lost_much_is_told_from_those_that_lost_little() -> None:
    """Seed 3 was unlucky: 98.8 % as it was merged, 81.4 % in int4."""
    passed = {
        seed: saved_gate("tone", saved()["merged"][seed]["tone"], answers["tone"]).state != "missed"
        for seed, answers in saved()["onnx-int4"].items()
    }
    assert passed == {seed: seed != "3" for seed in passed}


def test_the_quick_start_with_half_the_labels_swapped_trips_the_gate() -> None:
    swapped = saved()["swapped"]["0"]["tone"]
    assert [
        saved_gate("tone", answers["tone"], swapped).passed
        for answers in saved()["merged"].values()
    ] == [False] * len(saved()["merged"])


def wrong(label: str, random: np.random.Generator) -> str:
    return LABELS[(LABELS.index(label) + int(random.integers(1, 4))) % 4]


def test_of_100_comparisons_of_equals_at_most_5_say_better_or_worse() -> None:
    random = np.random.default_rng(0)
    said = [row for _ in range(100) for row in equals(random)]
    counts = {
        figure: [row["verdict"] != "noise" for row in said if row["figure"] == figure]
        for figure in {row["figure"] for row in said}
    }
    assert counts.keys() == {
        *YES_OR_NO,
        "macro_f1",
        "field_exact",
        "perplexity",
        "brevity",
        *LATENCY,
    }
    assert {
        figure: (sum(each), len(each))
        for figure, each in counts.items()
        if sum(each) > 5 or len(each) != 100
    } == {}


def equals(random: np.random.Generator) -> list[dict[str, Any]]:
    """The comparisons of two models that are as good and as fast as each other, and right, wrong
    and slow elsewhere.
    """
    expected = [LABELS[i] for i in random.choice(4, 86, p=[0.4, 0.3, 0.2, 0.1])]
    hardness = random.lognormal(-2, 1.5, 86)
    # Both models slow down together; each has outliers of its own.
    together = random.lognormal(0, 0.3, 9)
    models = {}
    for name in ("last", "now"):
        labels = [label if random.random() < 0.9 else wrong(label, random) for label in expected]
        right = [random.random(3) < 0.93 for _ in expected]
        rows = [
            Judged(e, e, label,
                   e if random.random() < 0.9 else e.upper() if random.random() < 0.5 else "?",
                   float(h * random.lognormal(0, 0.7)), 2,
                   Fields(bool(random.random() < 0.97), bool(r.all()),
                          {"a": bool(r[0]), "b": bool(r[1]), "c": bool(r[2])}),
                   {"brevity": float(random.random() < 0.1) / 3})
            for e, label, h, r in zip(expected, labels, hardness, right, strict=True)
        ]  # fmt: skip
        samples = {
            figure: (
                together * random.lognormal(0, 0.05, 9) * (1 + (random.random(9) < 0.1))
            ).tolist()
            for figure in LATENCY
        }
        models[name] = {
            "data": {"tone": metrics_of(rows, labelled=True, written=True)},
            "samples": samples,
        }
    return comparisons(decode(models, dict[str, ModelMetrics]), ["tone"])


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_loss_of_3_points_is_found_at_the_rows_that_the_figures_name(noise: float) -> None:
    random = np.random.default_rng(1)

    def pair(rows: int, lose: Callable[[], float]) -> Metrics:
        expected = [LABELS[i % 4] for i in range(rows)]
        last = [label if random.random() < 0.93 else wrong(label, random) for label in expected]
        now = []
        for label, before in zip(expected, last, strict=True):
            drawn = random.random()
            # `noise` of the rows change sides either way, and 3 points of those that were right are
            # lost.
            changes = (
                drawn < noise / 2 + (lose() if before == label else 0)
                if before == label
                else drawn < noise / 2 * 0.93 / 0.07
            )
            now.append((wrong(label, random) if before == label else label) if changes else before)
        return measured(expected, last, now)

    # A first benchmark of 400 rows tells how many rows a loss of 3 points takes ...
    named = [
        next(
            c.rows_needed["0.03"] or 0
            for c in pair(400, lambda: 0.0).comparisons
            if c.figure == "accuracy"
        )
        for _ in range(5)
    ]
    rows = int(np.median(named))
    # ... and with so many it is found.
    found = [verdict(pair(rows, lambda: 0.03 / 0.93)) for _ in range(40)]
    assert found.count("worse") >= 32, (rows, found.count("worse"))
    assert found.count("better") == 0
