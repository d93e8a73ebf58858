"""The list of metrics: a title is the name in words, and all that show metrics show titles."""

from __future__ import annotations

import pytest

from olivebuild.metrics.catalogue import ALL, BY_NAME, title
from olivebuild.metrics.gates import METRICS, OF_ANSWERS, Gate
from olivebuild.metrics.records import DataMetrics, ModelMetrics

SHORTER = {"load_seconds": "load"}
"""Titles that leave out the unit, which stands beside each value."""


def test_a_title_is_the_name_in_words() -> None:
    names = {metric.name: metric.title.lower().replace(" ", "_") for metric in ALL}
    assert names == {metric.name: SHORTER.get(metric.name, metric.name) for metric in ALL}
    assert len({metric.title for metric in ALL}) == len(ALL) == len(BY_NAME)


def test_gates_judge_what_the_list_has() -> None:
    assert list(METRICS) == list(BY_NAME)
    for metric in ALL:
        assert Gate.parse(f"{metric.name} >= 1").metric == metric.name


def test_a_metric_stands_where_the_list_says() -> None:
    for metric in ALL:
        record = DataMetrics if metric.of_answers else ModelMetrics
        assert metric.name in record.__struct_fields__
        assert (metric.name in OF_ANSWERS) is metric.of_answers


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ttft_p95", "TTFT p95"),
        ("hard.accuracy", "accuracy on hard"),
        ("my_score", "my score"),
        ("hard.my_score", "hard.my score"),
    ],
)
def test_titles(name: str, words: str) -> None:
    assert title(name) == words
