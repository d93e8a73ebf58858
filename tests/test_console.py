"""The tables that follow a build, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.console import show_benchmark, show_choice, show_front

TIMES: dict[str, Any] = {"ttft": 0.167, "tokens_per_second": 19.23, "load_seconds": 3.0, "peak_rss": 1.25e9, "size": 273e6}


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines() if line.strip())


def test_labels_and_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    right = {"rows": 86, "accuracy": 0.965, "generated_accuracy": 0.953, "perplexity": 1.3}
    hard = {"rows": 80, "accuracy": 0.9375, "generated_accuracy": 0.9, "perplexity": 1.4}
    models = {"merged": {"data": {"tone": right, "hard": hard}, **TIMES}}
    baselines = {"naive bayes": {"tone": {"rows": 86, "accuracy": 0.721}, "hard": {"rows": 80}}}
    show_benchmark({"models": models, "data": ["tone", "hard"], "baselines": baselines})
    assert (
        printed(capsys)
        == """\
                 tone               hard
             accuracy     tone  accuracy     hard   first
model         86 rows  written   80 rows  written   token  tokens/s   load  peak RSS    size
merged         96.5 %   95.3 %    93.8 %   90.0 %  167 ms      19.2  3.0 s   1.25 GB  273 MB
naive bayes    72.1 %
"""
    )


def test_json_and_scores_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    base = {"rows": 97, "generated_accuracy": 0.0, "schema_valid": 0.0, "field_exact": 0.0, "json_exact": 0.0, "scores": {"brevity": 0.25}}
    merged = base | {"schema_valid": 1.0, "field_exact": 0.9, "json_exact": 0.7}
    show_benchmark({"models": {"base": {"data": {"orders": base}, **TIMES}, "merged": {"data": {"orders": merged}, **TIMES}}, "data": ["orders"]})
    assert (
        printed(capsys)
        == """\
         orders
          valid  orders  orders   orders   first
model   97 rows  fields   whole  brevity   token  tokens/s   load  peak RSS    size
base      0.0 %   0.0 %   0.0 %     0.25  167 ms      19.2  3.0 s   1.25 GB  273 MB
merged  100.0 %  90.0 %  70.0 %     0.25  167 ms      19.2  3.0 s   1.25 GB  273 MB
"""
    )


def test_a_model_that_was_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    right = {"rows": 86, "accuracy": 0.965}
    show_benchmark({"models": {"adapter": {"data": {"tone": right}}, "merged": {"data": {"tone": right}, **TIMES}}, "data": ["tone"]})
    assert (
        printed(capsys)
        == """\
             tone
         accuracy   first
model     86 rows   token  tokens/s   load  peak RSS    size
adapter    96.5 %
merged     96.5 %  167 ms      19.2  3.0 s   1.25 GB  273 MB
"""
    )


def test_texts_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    models = {"base": {"data": {"book": {"rows": 3, "perplexity": 12.345}}, **TIMES, "tokens_per_second": None}}
    show_benchmark({"models": models, "data": ["book"]})
    assert (
        printed(capsys)
        == """\
             book
       perplexity   first
model      3 rows   token  tokens/s   load  peak RSS    size
base        12.35  167 ms            3.0 s   1.25 GB  273 MB
"""
    )


def test_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    models = {
        name: {"data": {"tone": {"rows": 86, "accuracy": a}}, **TIMES, "size": s}
        for name, a, s in [("a", 0.9, 1e8), ("b", 0.8, 9e7), ("c", 0.7, 1e8)]
    }
    pareto = {"quality": "accuracy", "data": "tone", "speed": "tokens_per_second", "front": ["a", "b"], "beaten_by": {"c": "a"}}
    few: dict[str, Any] = {"models": models, "data": ["tone"], "pareto": pareto}
    show_front(few)
    assert printed(capsys) == ""
    pareto["beaten_by"]["d"] = "b"  # type: ignore[index]
    show_front(few | {"models": models | {"d": models["c"]}})
    show_choice("best", {"chosen": "b", "by": "size"})
    assert (
        printed(capsys)
        == """\
                  tone
Pareto front  accuracy  tokens/s    size
* a             90.0 %     19.23  100 MB
* b             80.0 %     19.23   90 MB
  c             70.0 %     19.23  100 MB  beaten by a
  d             70.0 %     19.23  100 MB  beaten by b
chosen   best                   is b, by size
"""
    )
