"""A row's numbers are its own: whatever stands beside it, and however many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.ml.inference import torch_runtime
from olivebuild.ml.inference.questions import Question
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime
from tests.support.tiny_models import make

START = [9, 11, 200, 31]
LABELS = [[50], [60, 61], [70, 71, 72]]


def questions(count: int, seed: int = 0) -> list[Question]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 20, count)
    return [
        Question(
            prompt=[*START, *map(int, random.integers(80, 300, n))],
            completions=LABELS,
            right=int(n) % 3,
        )
        for n in lengths
    ]


@pytest.fixture
def runtime(tiny_model: Path, tmp_path: Path) -> HuggingFaceRuntime:
    make("llama", tmp_path / "model", tiny_model, dtype="float32")
    return HuggingFaceRuntime(tmp_path / "model", False)


@pytest.mark.parametrize("many", [1, 1000])
def test_rows_beside_a_row_change_no_bit_of_it(
    runtime: HuggingFaceRuntime, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runtime, "MANY", many)
    asked = questions(21)
    together = runtime.ask(asked, 5, {2})
    for subset in (asked[:2], asked[3::2], asked[::-1]):
        assert runtime.ask(subset, 5, {2}) == [together[asked.index(q)] for q in subset]


def test_what_begins_alike_and_what_is_right_is_read_once(
    runtime: HuggingFaceRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward: Any = runtime.model.forward

    def counted(**options: Any) -> Any:
        read.append(options["input_ids"].numel())
        return forward(**options)

    monkeypatch.setattr(runtime.model, "forward", counted)
    prompts = [[*START * 5, 80 + i, 90, 91, 92] for i in range(16)]
    free = [Question(prompt=prompt, completions=[]) for prompt in prompts]
    answers = [reply.written for reply in runtime.ask(free, 3, set())]
    read.clear()
    # Models that write what is right need one pass over what is their own: 4 tokens and 2.
    asked = [
        Question(prompt=prompt, completions=[answer], right=0)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert [reply.written for reply in runtime.ask(asked, 3, set())] == answers
    assert read == [21, 8 * 8, 26, 8 * 8]


def test_an_answer_that_is_known_to_be_wrong_is_not_written_on(
    runtime: HuggingFaceRuntime,
) -> None:
    question = Question(
        prompt=[*START, 90], completions=[[80, 81]], right=0, is_hopeless=lambda ids: len(ids) > 3
    )
    other = Question(prompt=[*START, 91], completions=[[80, 81]], right=0)
    cut, whole = runtime.ask([question, other], 12, set())
    assert (len(cut.written), cut.cut, len(whole.written), whole.cut) == (4, True, 12, False)
    alone = Question(prompt=question.prompt, completions=[[80, 81]], right=0)
    assert runtime.ask([alone, other], 12, set())[0].written[:4] == cut.written
