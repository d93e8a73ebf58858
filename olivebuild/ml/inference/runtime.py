"""A model that can be asked.

Hugging Face folders through transformers, ONNX folders through onnxruntime-genai.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from olivebuild.core.errors import InputError, Where
from olivebuild.metrics.row_order import row_order
from olivebuild.metrics.scoring import Judged, normal
from olivebuild.ml.data.examples import Example, Table
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.context import check_prompts, examples_of, room_of
from olivebuild.ml.inference.onnx_runtime import OnnxRuntime
from olivebuild.ml.inference.questions import Question, Reply
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime

WINDOW = 512
"""Tokens of a text that are read at once: the likelihoods of all words at each of them take memory.
"""


class Runtime(Protocol):
    tokenizer: Any
    ends: set[int]
    """The tokens at which the model stops when it is deployed."""

    @property
    def repeats(self) -> bool:
        """Whether a question gets the same reply, bit for bit, whatever is asked beside it."""

    def ask(
        self, questions: Sequence[Question], new_tokens: int, ends: Collection[int]
    ) -> list[Reply]:
        """Return the replies in the order of the questions."""

    def answers(
        self,
        questions: Sequence[Question],
        new_tokens: int,
        ends: Collection[int],
        among: Sequence[Question] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the number of each question with its reply, as they come.

        `among` are all questions of a set of which these are some: they decide what is shared.
        """


def is_onnx(folder: str | Path) -> bool:
    return Path(folder, "genai_config.json").is_file()


def open_model(
    folder: str | Path,
    *,
    trust_remote_code: bool = False,
    date: str = "",
    where: Where | None = None,
) -> Runtime:
    """Open a model folder in its runtime.

    `date` is what a chat template that reads the clock is told; `where` names the model in the
    recipe, for errors.
    """
    return (
        OnnxRuntime(folder, date, trust=trust_remote_code)
        if is_onnx(folder)
        else HuggingFaceRuntime(folder, trust_remote_code, date, where)
    )


Asking = Callable[[Runtime, Sequence[Question], int, Collection[int]], Iterator[tuple[int, Reply]]]
"""A way to ask a runtime: as its `answers`, or with some of them kept."""


def judge(
    runtime: Runtime,
    table: Table,
    new_tokens: int,
    *,
    whole: bool = False,
    asking: Asking | None = None,
) -> Iterator[tuple[int, Judged]]:
    """Yield each row's number and what became of it, in the order in which that is known.

    `whole`: all of an answer is wanted, also where it is longer than every right one, or wrong.
    """
    encoder = Encoder(runtime.tokenizer, ends=runtime.ends)
    if table.format == "text":
        yield from _read(runtime, encoder, table.rows)
        return
    examples = examples_of(encoder, table)
    room = room_of([len(e.completion) for e in examples], new_tokens, whole=whole)
    check_prompts(
        str(runtime.tokenizer.name_or_path), [len(e.prompt) for e in examples], room, table
    )
    rows = [
        _Asked(encoder, table, row, example, whole=whole)
        for row, example in zip(table.rows, examples, strict=True)
    ]
    # At random, so that what the first rows say holds for all (metrics/early_decision.py).
    order = row_order(len(rows))
    questions = [rows[k].question for k in order]
    replies = (
        asking(runtime, questions, room, encoder.ends)
        if asking
        else runtime.answers(questions, room, encoder.ends)
    )
    for i, reply in replies:
        yield order[i], rows[order[i]].judged(reply)


SHOWN = 16
"""Tokens of an answer that are written though it is known to be wrong, for people to read."""
CUT = " …"
"""What stands for the rest of an answer that was not written."""


class _Asked:
    """A row, and the question that it asks."""

    def __init__(
        self, encoder: Encoder, table: Table, row: dict[str, str], example: Example, *, whole: bool
    ) -> None:
        self._encoder = encoder
        self._row = row
        self._labels = [label for label, _ in table.labels]
        self._tokens = len(example.completion)
        self._right = encoder.answer_text(example.completion, encoder.stops)
        # The right answer first; it is one of the labels, where there are any.
        prompt, (expected, *labels) = encoder.choices(
            table.format, row, [text for _, text in table.labels]
        )
        completions = labels or [expected]
        row_tokens = [*example.prompt, *example.completion]
        right = completions.index(row_tokens[len(prompt) :])
        if not prompt:
            prompt, completions = _begun(encoder, completions)
        self.question = Question(
            prompt=prompt,
            completions=completions,
            right=right,
            is_hopeless=None if whole or table.labels else self._is_hopeless,
        )

    def _is_hopeless(self, written: list[int]) -> bool:
        """Return whether an answer that begins so is wrong, however it goes on."""
        if len(written) < SHOWN:
            return False
        text = self._encoder.answer_text(written)
        if text and self._encoder.template.lead.startswith(text):
            return False
        return not may_become(text, self._right)

    def judged(self, reply: Reply) -> Judged:
        text = self._encoder.answer_text(reply.written)
        return Judged(
            expected=self._row["label"] or self._right,
            wanted=self._right,
            label=self._labels[int(np.argmax(reply.scores))] if self._labels else "",
            text=text + CUT if reply.cut else text,
            nll=-reply.scores[self.question.right or 0],
            tokens=self._tokens,
            cut=reply.cut,
        )


def _begun(encoder: Encoder, completions: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Return what stands before answers where a row asks nothing, and the answers after it.

    It is what the tokenizer begins texts with, or else the token that ends them, as lm-eval has it.
    Raises InputError where there is neither.
    """
    begin = encoder.begin
    if begin:
        n = len(begin) if all(c[: len(begin)] == begin for c in completions) else 0
        return begin, [c[n:] for c in completions]
    if encoder.eos is None:
        raise InputError(
            "a prompt is empty, and the tokenizer has no token that begins or ends a text",
            where=encoder.where,
            hint="leave out the row, or give the template a text",
        )
    return [encoder.eos], completions


def may_become(text: str, right: str) -> bool:
    """Return whether a text may, with more after it, be the right answer up to its `normal` form.

    The last characters of a text are not certain yet: a token may hold a part of one, and marks
    that follow a letter change it.
    """
    certain = normal(text.rstrip("\N{REPLACEMENT CHARACTER}"))[:-UNCERTAIN]
    return normal(right).startswith(certain)


UNCERTAIN = 4
"""Characters at the end of a text that marks which follow might still change."""


def _read(
    runtime: Runtime, encoder: Encoder, rows: Sequence[dict[str, str]]
) -> Iterator[tuple[int, Judged]]:
    """Yield the likelihood of each text, in windows of its own.

    The first token of each is given, not asked.
    """
    for i, row in enumerate(rows):
        example = encoder.encode("text", row)
        ids = example.prompt + example.completion
        windows = [ids[k : k + WINDOW] for k in range(0, len(ids) - 1, WINDOW - 1)]
        questions = [Question(prompt=w[:1], completions=[w[1:]], right=0) for w in windows]
        replies = runtime.ask(questions, 0, set())
        nll = -sum(reply.scores[0] for reply in replies)
        yield i, Judged(row["label"], "", "", "", nll, sum(len(w) - 1 for w in windows))
