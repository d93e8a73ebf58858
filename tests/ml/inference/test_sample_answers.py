"""Samples of a training: which rows, when, and what is said of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.inference.sample_answers import SampleAnswers, _asked
from olivebuild.steps.parts.training import Eval, Training

END = 9


def row(prompt: list[int], answer: list[int], after: int = 0) -> Tokens:
    ids = np.array([*prompt, *answer, *[1] * after], np.int32)
    counted = np.zeros(len(ids), bool)
    counted[len(prompt) : len(prompt) + len(answer)] = True
    return Tokens(ids, counted)


class Copying:
    """A model that writes its prompt's last token, so often, and the end."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: list[list[int]] = []

    def likeliest_next(self, ids: np.ndarray) -> int:
        self.asked.append(ids.tolist())
        last = int(ids[-1])
        return END if ids.tolist().count(last) > self.times else last


class Words:
    """Tokens are numbers, and END ends."""

    stops = frozenset({END})
    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))

    def answer_text(self, ids: list[int], ends: Any) -> str:
        return " ".join(str(i) for i in ids if i not in ends)


def sampled(
    rows: list[Tokens],
    steps: int = 60,
    *,
    count: int = 2,
    tokens_a_step: int = 10_000,
    seconds: float = 100.0,
    times: int = 2,
    evaluation: Eval | None = None,
) -> tuple[SampleAnswers, list[dict[str, Any]], list[int]]:
    """The samples of a training, what was said, and the steps at which it was."""
    said: list[dict[str, Any]] = []
    job: Any = SimpleNamespace(say=lambda event, **data: said.append({"event": event, **data}))
    encoder: Any = Words()
    forward: Any = Copying(times)
    samples = SampleAnswers(encoder, rows, Training(sample_answers=count))
    now = [0]
    samples.attach(job, forward, lambda: (now[0] * tokens_a_step, seconds), steps, evaluation)
    at = []
    for step in range(1, steps + 1):
        now[0] = step
        if samples.due(step):
            at.append(step)
            assert samples.after(step, lambda: None) is False
    return samples, said, at


def test_rows_are_answered_five_times_and_not_at_the_end() -> None:
    samples, said, at = sampled([row([3, 4], [4, 4, END]), row([5, 6], [7, END])])
    assert at == [10, 20, 30, 40, 50]
    assert len(samples.record) == 10
    assert samples.record[0] == {"step": 10, "prompt": "3 4", "expected": "4 4", "answer": "4 4"}
    assert samples.record[1]["expected"] == "7"
    assert said[0] == {"event": "sample", "steps": 60} | samples.record[0]


def test_an_answer_is_no_longer_than_the_row_and_ends_with_its_end() -> None:
    samples, _, _ = sampled([row([3, 4], [5, 5, 5, END])], times=99)
    assert samples.record[0]["answer"] == "4 4 4 4"
    samples, _, _ = sampled([row([3, 4], [5, 5, 5, END])], times=0)
    assert samples.record[0]["answer"] == ""


def test_evaluations_say_when() -> None:
    _, _, at = sampled([row([3, 4], [4, END])], evaluation=Eval(every=25))
    assert at == [25, 50]


def test_they_cost_little_or_are_not_written() -> None:
    rows = [row([1] * 50, [4] * 10)]
    # 10 forward passes of 60 tokens, of 3 a token of training: 20,000 of these pay for it.
    assert sampled(rows, tokens_a_step=1_000)[2] == [20, 40]
    assert sampled(rows, tokens_a_step=100)[2] == []
    assert len(sampled(rows, seconds=0.0)[2]) <= 1


@pytest.mark.parametrize(
    "unsuited",
    [
        row([], [4, 5, END]),
        Tokens(np.array([3, 4, 5], np.int32), np.zeros(3, bool)),
        row([1] * 3000, [4]),
        Tokens(np.array([3, 4], np.int32), np.array([False, True]), attended=np.ones(2, bool)),
    ],
)
def test_rows_without_a_question_are_no_samples(unsuited: Tokens) -> None:
    good = row([3, 4], [4, END], after=2)
    assert _asked([unsuited, good, good, good], 2) == [good, good]
    assert sampled([unsuited])[2] == []


def test_rows_take_turns_where_one_is_all_that_is_paid_for() -> None:
    rows = [row([1] * 50, [4] * 10), row([2] * 50, [4] * 10)]
    samples, _, at = sampled(rows, tokens_a_step=1_000)
    assert at == [20, 40]
    assert [record["prompt"][-1] for record in samples.record] == ["1", "2"]


def test_none_are_wanted() -> None:
    assert sampled([row([3, 4], [4, END])], count=0)[2] == []
