"""The tables that follow a build, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.engine.build_comparison import Change, Comparison
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import ChoiceMetrics, Metrics, PairedComparison
from olivebuild.ui.console import (
    show_benchmark,
    show_choice,
    show_comparison,
    show_front,
    show_measurement,
)
from olivebuild.ui.wording import difference

TIMES: dict[str, Any] = {
    "ttft": 0.167,
    "tokens_per_second": 19.23,
    "load_seconds": 3.0,
    "peak_rss": 1.25e9,
    "size": 273e6,
}


def show(metrics: dict[str, Any]) -> None:
    show_benchmark(decode(metrics, Metrics))


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(
        f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines() if line.strip()
    )


def test_labels_and_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    right = {"rows": 86, "accuracy": 0.965, "generated_accuracy": 0.953, "perplexity": 1.3}
    hard = {"rows": 80, "accuracy": 0.9375, "generated_accuracy": 0.9, "perplexity": 1.4}
    models = {"merged": {"data": {"tone": right, "hard": hard}, **TIMES}}
    baselines = {"naive bayes": {"tone": {"rows": 86, "accuracy": 0.721}, "hard": {"rows": 80}}}
    show({"models": models, "data": ["tone", "hard"], "baselines": baselines})
    assert (
        printed(capsys)
        == """\
                 tone       tone      hard       hard
             accuracy  generated  accuracy  generated          tokens per
model         86 rows   accuracy   80 rows   accuracy    TTFT      second  load  peak RSS    size
merged         96.5 %     95.3 %    93.8 %     90.0 %  167 ms       19.23   3 s   1.25 GB  273 MB
naive bayes    72.1 %
"""
    )


def test_json_and_scores_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    base = {
        "rows": 97,
        "generated_accuracy": 0.0,
        "schema_valid": 0.0,
        "field_exact": 0.0,
        "json_exact": 0.0,
        "scores": {"brevity": 0.25},
    }
    merged = base | {"schema_valid": 1.0, "field_exact": 0.9, "json_exact": 0.7}
    show(
        {
            "models": {
                "base": {"data": {"orders": base}, **TIMES},
                "merged": {"data": {"orders": merged}, **TIMES},
            },
            "data": ["orders"],
        }
    )
    assert (
        printed(capsys)
        == """\
         orders
         schema  orders
          valid   field      orders   orders          tokens per
model   97 rows   exact  JSON exact  brevity    TTFT      second  load  peak RSS    size
base      0.0 %   0.0 %       0.0 %     0.25  167 ms       19.23   3 s   1.25 GB  273 MB
merged  100.0 %  90.0 %      70.0 %     0.25  167 ms       19.23   3 s   1.25 GB  273 MB
"""
    )


def test_a_model_that_was_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    right = {"rows": 86, "accuracy": 0.965}
    show(
        {
            "models": {
                "adapter": {"data": {"tone": right}},
                "merged": {"data": {"tone": right}, **TIMES},
            },
            "data": ["tone"],
        }
    )
    assert (
        printed(capsys)
        == """\
             tone
         accuracy          tokens per
model     86 rows    TTFT      second  load  peak RSS    size
adapter    96.5 %
merged     96.5 %  167 ms       19.23   3 s   1.25 GB  273 MB
"""
    )


def test_models_of_one_structure_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"data": {"tone": {"rows": 86, "accuracy": 0.965}}, **TIMES}
    models = {"base": row, "merged": row | {"same_structure_as": "base"}}
    show({"models": models, "data": ["tone"]})
    assert printed(capsys).endswith("merged runs as base: same structure, not measured\n")


@pytest.mark.parametrize(
    ("carried", "busy", "told"),
    [
        (False, None, ""),
        (
            True,
            None,
            "speeds were measured 2026-11-20 10:00:00 UTC: same structure, not measured again\n",
        ),
        (False, 2.08, "the machine was busy: the control took 2.1 times as long\n"),
    ],
)
def test_speeds_say_since_when_they_stand_and_on_which_machine(
    capsys: pytest.CaptureFixture[str], carried: bool, busy: float | None, told: str
) -> None:
    latency = {"measured_at": "2026-11-20T10:00:00Z", "busy": busy}
    show_measurement(decode({"latency": latency}, Metrics), carried=carried)
    assert printed(capsys) == told


def test_a_comparison_says_why_speeds_are_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    why = "the machine was busy: the control took 2.1 times as long"
    slower = Change("bench", "int4", "", "ttft", 0.1, 0.478, why_not_judged=why)
    show_comparison(Comparison("build 1", "build 2", (slower,), speeds={"bench": why}))
    out = printed(capsys)
    assert f"speed of bench: {why}" in out
    assert "not judged" in out
    assert "378" not in out


def test_texts_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    models = {
        "base": {
            "data": {"book": {"rows": 3, "perplexity": 12.345}},
            **TIMES,
            "tokens_per_second": None,
        }
    }
    show({"models": models, "data": ["book"]})
    assert (
        printed(capsys)
        == """\
             book
       perplexity          tokens per
model      3 rows    TTFT      second  load  peak RSS    size
base        12.35  167 ms               3 s   1.25 GB  273 MB
"""
    )


def test_what_was_lost_and_whether_that_is_noise(capsys: pytest.CaptureFixture[str]) -> None:
    spread = {"accuracy": {"mean": 0.93, "worst": 0.9, "values": [0.94, 0.95, 0.9]}}
    judged = {
        "tone": {"rows": 86, "accuracy": 0.94, "over_seeds": spread},
        "hard": {"rows": 80, "accuracy": 0.5},
    }
    models = {
        name: {
            "data": judged
            if name == "int4"
            else {s: {"rows": 86, "accuracy": 0.94} for s in judged},
            **TIMES,
        }
        for name in ("base", "merged", "int4")
    }

    def row(
        model: str,
        versus: str,
        data: str | None,
        figure: str,
        value: float,
        verdict: str,
        p: float | None,
        **more: Any,
    ) -> dict[str, Any]:
        return {
            "model": model,
            "versus": versus,
            "data": data,
            "figure": figure,
            "difference": value,
            "verdict": verdict,
            "p": p,
            **more,
        }

    times = {"ratio": 0.25, "ratio_interval": [0.2, 0.4]}
    comparisons = [
        row("merged", "base", "tone", "accuracy", 0.61, "better", 1e-12),
        row("merged", "base", "hard", "accuracy", 0.0, "noise", 1.0, detectable=0.1),
        row(
            "merged",
            "base",
            None,
            "e2e",
            0.0,
            "noise",
            None,
            ratio=1.002,
            ratio_interval=[0.98, 1.03],
        ),
        row("int4", "base", "tone", "accuracy", 0.6, "better", 1e-12),
        row("int4", "merged", "tone", "accuracy", -0.0233, "noise", 0.5, detectable=0.1151),
        row("int4", "merged", "tone", "macro_f1", -0.03, "noise", 0.5),
        row("int4", "merged", "hard", "accuracy", -0.2, "worse", 0.004, detectable=0.1151),
        row("int4", "merged", None, "e2e", -0.1, "better", None, **times),
    ]
    show({"models": models, "data": ["tone", "hard"], "comparisons": comparisons})
    lines = printed(capsys).splitlines()
    assert (
        "\n".join(lines[-7:]) + "\n"
        == """\
merged gained 61.0 points of accuracy on tone against base: better (p < 0.001)
merged is as good as base in accuracy on hard
merged is as fast as base by E2E (0.971 to 1.02): noise
int4 lost 2.3 points of accuracy on tone against merged: noise \
(p 0.5; a loss of 12 points would show)
int4 lost 20.0 points of accuracy on hard against merged: worse (p 0.004)
int4 is 4 times as fast as merged by E2E (2.5 to 5)
int4 over 3 seeds: accuracy on tone 93.0 % on average, 90.0 % at worst
"""
    )


def test_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    models = {
        name: {"data": {"tone": {"rows": 86, "accuracy": a}}, **TIMES, "size": s}
        for name, a, s in [("a", 0.9, 1e8), ("b", 0.8, 9e7), ("c", 0.7, 1e8)]
    }
    pareto = {
        "quality": "accuracy",
        "data": "tone",
        "speed": "tokens_per_second",
        "front": ["a", "b"],
        "beaten_by": {"c": "a"},
    }
    few: dict[str, Any] = {"models": models, "data": ["tone"], "pareto": pareto}
    show_front(decode(few, Metrics))
    assert printed(capsys) == ""
    pareto["beaten_by"]["d"] = "b"  # type: ignore[index]
    show_front(decode(few | {"models": models | {"d": models["c"]}}, Metrics))
    show_choice("best", ChoiceMetrics(chosen="b", by="size"))
    assert (
        printed(capsys)
        == """\
                  tone  tokens per
Pareto front  accuracy      second    size
* a             90.0 %       19.23  100 MB
* b             80.0 %       19.23   90 MB
  c             70.0 %       19.23  100 MB  beaten by a
  d             70.0 %       19.23  100 MB  beaten by b
chosen   best                   is b, by size
"""
    )


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        (None, "int4 is 4 times as fast as merged by E2E: too few rounds to be sure"),
        (
            [0.2, 0.4],
            "int4 is 4 times as fast as merged by E2E (2.5 to 5): too few rounds to be sure",
        ),
        ([0.1, 1.2], "int4 is 4 times as fast as merged by E2E (0.833 to 10): noise"),
    ],
)
def test_few_rounds_are_not_called_noise(interval: list[float] | None, says: str) -> None:
    row = {
        "model": "int4",
        "versus": "merged",
        "data": None,
        "figure": "e2e",
        "verdict": "noise",
        "ratio": 0.25,
        "ratio_interval": interval,
    }
    assert difference(decode(row, PairedComparison)) == says
