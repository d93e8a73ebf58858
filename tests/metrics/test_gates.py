"""Gates: how they are read, and how they judge a benchmark's figures."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binomtest

from olivebuild.core.errors import BuildError, RecipeError
from olivebuild.metrics.gates import METRICS, Gate, Judgement, summary, wilson
from olivebuild.metrics.gates import judge as judge_gates
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import Metrics

approx: Any = pytest.approx
"""Stands where a float does, which its own type does not say."""
BENCH: dict[str, Any] = {
    "data": ["easy", "hard"],
    "models": {
        "base": {
            "ttft": 0.1,
            "ttft_p95": 0.2,
            "size": 4e9,
            "data": {"easy": {"accuracy": 0.5}, "hard": {"accuracy": 0.25}},
        },
        "merged": {
            "ttft": 0.1,
            "ttft_p95": 0.2,
            "size": 4e9,
            "data": {"easy": {"accuracy": 0.96}, "hard": {"accuracy": 0.75}},
        },
        "onnx-int4": {
            "ttft": 0.05,
            "ttft_p95": 0.25,
            "size": 1e9,
            "data": {"easy": {"accuracy": 0.94}, "hard": {"accuracy": 0.625}},
        },
    },
}
FORM = "write for example 'accuracy >= 0.9' or 'accuracy drop vs merged <= 0.02'"


def judge(
    target: str, texts: list[str], metrics: dict[str, Any], *, strict: bool = False
) -> list[Judgement]:
    return judge_gates(
        target,
        [Gate.parse(text, ["brevity"], ["evaluate"], strict=strict) for text in texts],
        decode(metrics, Metrics),
    )


@pytest.mark.parametrize(
    ("text", "names", "figure", "versus", "compare", "limit"),
    [
        ("accuracy >= 0.9", (), "accuracy", "", ">=", 0.9),
        ("accuracy>=90%", (), "accuracy", "", ">=", 0.9),
        ("  accuracy  >  .5  ", (), "accuracy", "", ">", 0.5),
        ("accuracy >= 1e-3", (), "accuracy", "", ">=", 0.001),
        ("merged.accuracy >= 0.9", ("merged",), "accuracy", "", ">=", 0.9),
        ("onnx-int4.hard.accuracy < 1", ("onnx-int4", "hard"), "accuracy", "", "<", 1.0),
        ("accuracy drop vs merged <= 0.02", (), "accuracy", "merged", "<=", 0.02),
        ("hard.accuracy drop vs onnx-int4 <= 2%", ("hard",), "accuracy", "onnx-int4", "<=", 0.02),
        ("ttft_p95 <= 200ms", (), "ttft_p95", "", "<=", 0.2),
        ("ttft <= 1.5 s", (), "ttft", "", "<=", 1.5),
        ("size < 2.5GB", (), "size", "", "<", 2.5e9),
        ("peak_rss < 2 GiB", (), "peak_rss", "", "<", 2.0**31),
    ],
)
def test_a_gate_is_read(
    text: str, names: tuple[str, ...], figure: str, versus: str, compare: str, limit: float
) -> None:
    gate = Gate.parse(text)
    assert gate == Gate(text, names, figure, versus, compare, approx(limit))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "accuracy",
        "accuracy >=",
        "accuracy == 1",
        "accuracy >= -1",
        "accuracy >= x",
        "Accuracy >= 1",
        ".accuracy > 1",
        "a b >= 1",
    ],
)
def test_what_is_no_gate_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="can't be read") as caught:
        Gate.parse(text)
    assert str(caught.value) == f"the gate {text!r} can't be read; {FORM}"


@pytest.mark.parametrize("text", ["accuracy >= 1.2.3", "accuracy >= .", "accuracy >= 1..2"])
def test_a_limit_that_is_no_number_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="gate") as caught:
        Gate.parse(text)
    assert str(caught.value) == f"the gate {text!r} can't be read; {FORM}"


def test_an_unknown_figure_is_told() -> None:
    with pytest.raises(ValueError, match="unknown figure") as caught:
        Gate.parse("acuracy >= 1")
    assert len(METRICS) > 20
    assert str(caught.value) == (
        f"the gate 'acuracy >= 1' names an unknown figure 'acuracy'; known are {', '.join(METRICS)}"
    )


def test_an_unknown_unit_is_told() -> None:
    with pytest.raises(ValueError, match="unknown unit") as caught:
        Gate.parse("size < 2 gb")
    assert str(caught.value) == (
        "the gate 'size < 2 gb' has an unknown unit 'gb' for size; known are KB, MB, GB, KiB, "
        "MiB, GiB"
    )


@pytest.mark.parametrize(
    "text",
    ["accuracy >= 9ms", "ttft < 5 MB", "size < 3 s", "tokens_per_second > 5 KB", "ttft < 50%"],
)
def test_a_unit_of_another_figure_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="unit"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        ("accuracy >= 0.9", 0.94, True),
        ("accuracy >= 0.95", 0.94, False),
        ("accuracy > 0.94", 0.94, False),
        ("accuracy >= 0.94", 0.94, True),
        ("accuracy <= 0.94", 0.94, True),
        ("accuracy < 0.94", 0.94, False),
        ("merged.accuracy >= 0.95", 0.96, True),
        ("hard.accuracy >= 0.7", 0.625, False),
        ("merged.hard.accuracy >= 0.7", 0.75, True),
        ("ttft_p95 <= 200ms", 0.25, False),
        ("base.ttft_p95 <= 200ms", 0.2, True),
        ("size <= 1GB", 1e9, True),
    ],
)
def test_a_gate_judges_the_last_model_unless_it_names_another(
    text: str, value: float, passed: bool
) -> None:
    (judged,) = judge("bench", [text], BENCH)
    assert (judged.target, judged.gate, judged.value) == ("bench", text, approx(value))
    # What has no rows and no interval is judged by its value.
    state = "met" if passed else "missed"
    assert (judged.passed, judged.state, judged.fails) == (passed, state, not passed)


@pytest.mark.parametrize(
    ("text", "drop", "passed"),
    [
        ("accuracy drop vs merged <= 0.025", 0.02, True),
        ("accuracy drop vs merged <= 0.01", 0.02, False),
        ("accuracy drop vs base <= 0", -0.44, True),
        ("hard.accuracy drop vs merged <= 0.1", 0.125, False),
        ("merged.accuracy drop vs onnx-int4 <= 0", -0.02, True),
        ("merged.hard.accuracy drop vs onnx-int4 < 0", -0.125, True),
        ("ttft_p95 drop vs base <= 40ms", 0.05, False),
        ("ttft drop vs base <= 0", -0.05, True),
    ],
)
def test_a_drop_is_how_much_worse_the_model_is(text: str, drop: float, passed: bool) -> None:
    (judged,) = judge("bench", [text], BENCH)
    assert (judged.value, judged.passed) == (approx(drop), passed)
    assert judged.is_drop


def test_a_drop_of_another_model_compares_equal_data() -> None:
    """`merged` is a model, not a data set: the other side of the pair is not asked for it."""
    metrics = {
        "data": ["d"],
        "models": {
            "a": {"data": {"d": {"accuracy": 0.9}}},
            "b": {"data": {"d": {"accuracy": 0.8}}},
        },
    }
    assert [j.value for j in judge("bench", ["b.accuracy drop vs a <= 1"], metrics)] == [
        approx(0.1)
    ]


def test_gates_are_judged_in_their_order() -> None:
    assert [
        j.passed for j in judge("bench", ["accuracy > 0", "accuracy > 1", "size > 0"], BENCH)
    ] == [True, False, True]


def test_a_gate_that_names_what_is_not_measured_is_a_fault_of_the_recipe() -> None:
    with pytest.raises(RecipeError) as caught:
        judge("bench", ["fp16.accuracy > 0"], BENCH)
    assert (
        caught.value.fact
        == "the gate 'fp16.accuracy > 0' names 'fp16', which bench does not measure"
    )
    assert caught.value.hint == "it measures base, merged, onnx-int4, easy, hard"


@pytest.mark.parametrize(
    ("text", "figure", "model"),
    [
        ("load_seconds < 1", "load_seconds", "onnx-int4"),
        ("merged.peak_rss < 1", "peak_rss", "merged"),
    ],
)
def test_a_figure_that_was_not_measured_is_told(text: str, figure: str, model: str) -> None:
    with pytest.raises(BuildError) as caught:
        judge("bench", [text], BENCH)
    assert (
        caught.value.fact == f"the gate {text!r} can't be judged: bench has no {figure} for {model}"
    )


def test_a_figure_that_is_no_number_fails_its_gate() -> None:
    metrics = {"data": ["d"], "models": {"a": {"data": {"d": {"accuracy": float("nan")}}}}}
    assert [j.passed for j in judge("bench", ["accuracy >= 0", "accuracy <= 1"], metrics)] == [
        False,
        False,
    ]


PAIR: dict[str, Any] = {
    "data": ["d"],
    "models": {
        "a": {"ttft": 0.1, "data": {"d": {"accuracy": 0.9, "scores": {"brevity": 0.5}}}},
        "b": {"ttft": 0.2, "data": {"d": {"accuracy": 0.85, "scores": {"brevity": 0.25}}}},
    },
    "comparisons": [
        {
            "model": "b",
            "versus": "a",
            "figure": "accuracy",
            "data": "d",
            "difference": -0.05,
            "interval": [-0.12, 0.02],
        },
        {
            "model": "b",
            "versus": "a",
            "figure": "brevity",
            "data": "d",
            "difference": -0.25,
            "interval": [-0.3, -0.2],
        },
        {
            "model": "b",
            "versus": "a",
            "figure": "ttft",
            "data": None,
            "difference": 0.1,
            "interval": [0.08, 0.12],
        },
    ],
    "commands": {"evaluate": {"f1": 0.8}},
}


@pytest.mark.parametrize(
    ("text", "drop", "interval", "state", "likely"),
    [
        ("accuracy drop vs a <= 0.13", 0.05, (-0.02, 0.12), "met", True),
        ("accuracy drop vs a <= 0.06", 0.05, (-0.02, 0.12), "undecided", True),
        ("accuracy drop vs a <= 0.02", 0.05, (-0.02, 0.12), "undecided", False),
        ("a.accuracy drop vs b <= 0", -0.05, (-0.12, 0.02), "undecided", True),
        ("a.accuracy drop vs b >= 0", -0.05, (-0.12, 0.02), "undecided", False),
        ("a.accuracy drop vs b >= 0.1", -0.05, (-0.12, 0.02), "missed", False),
        ("brevity drop vs a <= 0.1", 0.25, (0.2, 0.3), "missed", False),
        ("ttft drop vs a <= 50ms", 0.1, (0.08, 0.12), "missed", False),
        ("ttft drop vs a <= 90ms", 0.1, (0.08, 0.12), "undecided", False),
        ("ttft drop vs a <= 120ms", 0.1, (0.08, 0.12), "met", True),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_drop_is_decided_where_its_whole_interval_lies_on_one_side(
    text: str, drop: float, interval: tuple[float, float], state: str, likely: bool, strict: bool
) -> None:
    (judged,) = judge("bench", [text], PAIR, strict=strict)
    assert (judged.value, judged.interval) == (approx(drop), approx(interval))
    assert (judged.state, judged.likely) == (state, likely)
    assert judged.passed is (state == "met")
    assert judged.fails is (state == "missed" or (strict and state == "undecided"))


def of_rows(rows: int, **metrics: Any) -> dict[str, Any]:
    return {"data": ["d"], "models": {"a": {"data": {"d": {"rows": rows, **metrics}}}}}


@pytest.mark.parametrize(
    ("metrics", "text", "state"),
    [
        # Wilson's interval of 9 in 10 rows, 90 in 100, 900 in 1,000: 0.60, 0.83, 0.88 upwards.
        (of_rows(10, accuracy=0.9), "accuracy >= 0.85", "undecided"),
        (of_rows(10, accuracy=0.9), "accuracy >= 0.55", "met"),
        (of_rows(100, accuracy=0.9), "accuracy >= 0.85", "undecided"),
        (of_rows(1000, accuracy=0.9), "accuracy >= 0.85", "met"),
        (of_rows(1000, accuracy=0.9), "accuracy >= 0.93", "missed"),
        (of_rows(1000, json_exact=0.9), "json_exact >= 0.93", "missed"),
        (of_rows(20, schema_valid=1.0), "schema_valid >= 0.95", "undecided"),
        (of_rows(20, exact_match=0.0), "exact_match >= 0.5", "missed"),
        # An interval of the benchmark's own comes first.
        (of_rows(10, accuracy=0.9, accuracy_interval=[0.89, 0.91]), "accuracy > 0.88", "met"),
        # Neither a share of rows nor an interval.
        (of_rows(10, macro_f1=0.9), "macro_f1 >= 0.89", "met"),
        (of_rows(10, perplexity=2.0), "perplexity <= 1.9", "missed"),
    ],
)
def test_a_metric_is_decided_where_its_whole_interval_lies_on_one_side(
    metrics: dict[str, Any], text: str, state: str
) -> None:
    (judged,) = judge("bench", [text], metrics)
    assert (judged.state, judged.passed) == (state, state == "met")


@pytest.mark.parametrize(("value", "limit"), [(0.9, 0.85), (0.9, 0.94), (0.5, 0.4), (0.99, 0.97)])
def test_so_many_rows_decide(value: float, limit: float) -> None:
    rows = 40
    (judged,) = judge("bench", [f"accuracy >= {limit}"], of_rows(rows, accuracy=value))
    assert judged.state == "undecided"
    needed = judged.rows_needed
    assert needed
    assert needed > rows
    decided = [
        judge("bench", [judged.gate], of_rows(n, accuracy=value))[0].state != "undecided"
        for n in (needed - 1, needed)
    ]
    assert decided == [False, True]


def test_so_many_rows_decide_a_drop() -> None:
    """The interval of a drop shrinks with the square root of the rows."""
    model = {"rows": 100, "accuracy": 0.85}
    metrics = PAIR | {"models": {"a": PAIR["models"]["a"], "b": {"data": {"d": model}}}}
    (judged,) = judge("bench", ["accuracy drop vs a <= 0.02"], metrics)
    # From -0.02 to 0.12 about 0.05: 0.07 shall become 0.03.
    assert judged.rows_needed == 545


def test_no_number_of_rows_decides_a_value_at_the_limit() -> None:
    (judged,) = judge("bench", ["accuracy >= 0.9"], of_rows(40, accuracy=0.9))
    assert (judged.state, judged.rows_needed) == ("undecided", None)


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (3, 7), (90, 100), (999, 1000)])
def test_the_interval_of_a_share_is_wilsons(right: int, rows: int) -> None:
    expected = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert wilson(right / rows, rows) == approx((expected.low, expected.high), abs=1e-12)


def test_outcomes_are_counted() -> None:
    assert summary(["met", "undecided", "met"]) == "2 met, 1 not decided"
    assert summary(["missed"]) == "1 missed"


@pytest.mark.parametrize(
    ("text", "strict", "may_pass"),
    [
        ("accuracy drop vs a <= 0.02", False, True),
        ("accuracy drop vs a <= 0.02", True, False),
        ("accuracy drop vs a <= 0.06", True, True),
        ("brevity drop vs a <= 0.1", False, False),
        ("accuracy >= 0.8", False, True),
        ("accuracy >= 0.86", False, False),
    ],
)
def test_a_search_takes_a_value_for_what_it_is_and_a_drop_only_if_it_is_more_than_noise(
    text: str, strict: bool, may_pass: bool
) -> None:
    (judged,) = judge("bench", [text], PAIR, strict=strict)
    assert judged.may_pass is may_pass


def test_a_gate_on_a_figure_over_seeds() -> None:
    spread = {
        "accuracy": {"mean": 0.9, "worst": 0.85},
        "perplexity": {"mean": 2.0, "worst": 3.0},
        "brevity": {"mean": 0.2, "worst": 0.1},
    }
    trained = {
        "seeds": [{"seed": 1}],
        "ttft": 0.1,
        "data": {"easy": {"accuracy": 0.94, "perplexity": 1.5, "over_seeds": spread}},
    }
    metrics = {
        "data": ["easy"],
        "models": {
            "base": {"data": {"easy": {"accuracy": 0.5, "perplexity": 9.0}}},
            "int4": trained,
        },
    }
    found = [
        ("accuracy_worst >= 0.9", 0.85, False),
        ("perplexity_worst <= 3", 3.0, True),
        ("brevity_mean >= 0.2", 0.2, True),
        # What is not trained is the same for all seeds.
        ("base.accuracy_mean >= 0.5", 0.5, True),
        ("accuracy_mean drop vs base <= 0", -0.4, True),
        ("accuracy >= 0.94", 0.94, True),
    ]
    texts = [text for text, _, _ in found]
    judged = judge("bench", texts, metrics)
    assert [(j.gate, j.value, j.passed) for j in judged] == [
        (text, approx(value), passed) for text, value, passed in found
    ]
    with pytest.raises(
        ValueError, match="of ttft there is one only, whatever the seeds; write ttft"
    ):
        Gate.parse("ttft_worst <= 1s")
    with pytest.raises(ValueError, match="names an unknown figure 'speed_mean'"):
        Gate.parse("speed_mean <= 1")


def test_a_gate_on_a_score_of_ones_own_and_on_a_commands_figure() -> None:
    assert [
        (j.value, j.passed)
        for j in judge("bench", ["brevity >= 0.3", "a.brevity >= 50%", "evaluate.f1 > 0.7"], PAIR)
    ] == [
        (0.25, False),
        (0.5, True),
        (0.8, True),
    ]
    with pytest.raises(BuildError) as caught:
        judge("bench", ["evaluate.f2 > 0"], PAIR)
    assert (caught.value.fact, caught.value.hint) == (
        "the gate 'evaluate.f2 > 0' can't be judged: evaluate measured no f2",
        "it measured f1",
    )
    with pytest.raises(ValueError, match="measured once"):
        Gate.parse("evaluate.f1 drop vs a < 1", commands=["evaluate"])


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("ttft <= 200ms", "undecided"),
        ("tokens_per_second >= 50", "undecided"),
        # What is met on a busy machine is met on another, too.
        ("ttft <= 1s", "met"),
        ("size <= 5", "missed"),
    ],
)
def test_a_busy_machine_misses_no_gate(text: str, state: str) -> None:
    values = {"data": {"tone": {"rows": 10}}, "ttft": 0.5, "tokens_per_second": 20, "size": 10}
    metrics: dict[str, Any] = {"models": {"a": values}, "data": ["tone"]}
    (judged,) = judge("bench", [text], metrics | {"latency": {"busy": 2.1}})
    assert judged.state == state
    why = "the machine was busy: the control took 2.1 times as long"
    assert judged.why == (why if state == "undecided" else "")
    (quiet,) = judge("bench", [text], metrics)
    assert quiet.state == ("missed" if state == "undecided" else state)
