"""Rows that are added are asked alone, and all is as if all were asked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store
from olivebuild.ml.inference import kept_replies
from olivebuild.ml.inference.kept_replies import KeptReplies
from olivebuild.ml.inference.questions import Question, Reply
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime
from tests.support.tiny_models import make

START = [9, 11, 200, 31]


def questions(count: int) -> list[Question]:
    random = np.random.default_rng(0)
    prompts = [[*START, *map(int, random.integers(80, 300, n))] for n in range(1, count + 1)]
    return [Question(prompt=p, completions=[[50], [60, 61]], right=1) for p in prompts]


@pytest.fixture
def runtime(tiny_model: Path, tmp_path: Path) -> HuggingFaceRuntime:
    make("llama", tmp_path / "model", tiny_model, dtype="float32")
    return HuggingFaceRuntime(tmp_path / "model", False)


class Asker:
    """Asks as a benchmark does, and counts what reaches the model."""

    def __init__(self, runtime: Any, store: Path) -> None:
        self.runtime = runtime
        self._store = store
        self._answers = runtime.answers
        self.asked: list[int] = []
        runtime.answers = self._counted
        self.said = io.StringIO()

    def _counted(self, questions: Sequence[Question], *options: Any, **more: Any) -> Any:
        self.asked.append(len(questions))
        return self._answers(questions, *options, **more)

    def __call__(
        self,
        asked: Sequence[Question],
        *,
        digest: str = "d" * 32,
        ends: frozenset[int] = frozenset({2}),
        most: int | None = None,
        **fields: object,
    ) -> list[Reply]:
        inputs = {
            "model": ActionInput("m", "m", "model", "base", digest=digest),
            "data[0]": ActionInput("t", "t", "dataset", "tone"),
        }
        action = Action("n", "t", "k", "0" * 32, dict(fields), inputs, {}, "", "", str(self._store))
        kept = KeptReplies(Job(action, self.said), "data[0]", ["torch"])
        replies = dict(islice(kept.answers(self.runtime, asked, 4, ends), most))
        return [replies[i] for i in range(len(asked)) if i in replies]


def test_added_and_edited_rows_are_asked_alone_and_all_is_as_of_a_clean_build(
    runtime: HuggingFaceRuntime, tmp_path: Path
) -> None:
    asker, asked = Asker(runtime, tmp_path / "cache"), questions(12)
    first = asker(asked[:9])
    assert asker(asked[:9]) == first
    assert '"9 of 9 rows of tone keep their answers' in asker.said.getvalue()
    edited = [asked[11], *asked[:4], *asked[5:10]]
    incremental = asker(edited)
    assert asker.asked == [9, 2]
    assert incremental == Asker(runtime, tmp_path / "clean")(edited)


def test_who_ends_before_the_last_row_loses_few_of_them(
    runtime: HuggingFaceRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_replies, "SECONDS", 1e9)
    asker, asked = Asker(runtime, tmp_path / "cache"), questions(50)
    first = asker(asked, most=40)
    whole = asker(asked)
    assert asker.asked == [50, 50 - kept_replies.FIRST]
    assert whole[: kept_replies.FIRST] == first[: kept_replies.FIRST]
    assert '"32 of 50 rows of tone keep their answers' in asker.said.getvalue()


def test_what_could_change_an_answer_has_all_rows_asked(
    runtime: HuggingFaceRuntime, tmp_path: Path
) -> None:
    asker, asked = Asker(runtime, tmp_path / "cache"), questions(5)
    asker(asked)
    asker(asked, digest="e" * 32)
    asker(asked, ends=frozenset({2, 7}))
    asker(asked, max_new_tokens=3)
    # One with another beginning: what is shared is shorter then.
    asker([*asked, Question(prompt=[9, 8, 7], completions=[[50], [60, 61]], right=1)])
    other = Question(prompt=asked[0].prompt, completions=[[50], [60, 62]], right=1)
    asker([other, *asked[1:]])
    assert asker.asked == [5, 5, 5, 5, 6, 1]


def test_nothing_is_kept_of_what_is_not_certain_to_repeat(
    runtime: HuggingFaceRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, asked = Asker(runtime, tmp_path / "cache"), questions(3)
    for _ in range(2):
        asker(asked, digest="")
    monkeypatch.setattr(HuggingFaceRuntime, "repeats", False)
    for _ in range(2):
        asker(asked)
    assert asker.asked == [3, 3, 3, 3]


def test_what_can_not_be_read_is_asked_again(
    runtime: HuggingFaceRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, asked = Asker(runtime, tmp_path / "cache"), questions(3)
    first = asker(asked)
    derived = Derived(Store(tmp_path / "cache"))
    for key in derived.rows():
        derived.write(key, b'{"x": [1]}')
    assert asker(asked) == first
    assert asker.asked == [3, 3]
