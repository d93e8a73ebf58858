"""Callback of a training that shows what the model would answer now to a few fixed rows.

It draws no random number and changes no weight, so the training is the same to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from olivebuild.ml.data.examples import Tokens

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.nn.forward import Forward
    from olivebuild.steps.parts.training import Eval, Training

TIMES = 5
"""How often samples are written in a training without evaluations."""
MOST_TOKENS = 24
"""The longest answer; none is longer than the row's own."""
LONGEST_ROW = 2048
"""Rows with more tokens of prompt are no samples: each token of an answer reads them all."""
SHARE = 0.01
"""The share of a training's work that samples may take, as it is reckoned before ..."""
MOST_TIME = 0.02
"""... and of its time, as it is measured."""
BACKWARD = 3
"""Work of a step for each token, in that of a forward pass."""
LEAST_WORK = {"cuda": 512}
"""Tokens whose forward pass takes as long as that of one, where starting it costs most."""
SHOWN = 80
"""The characters of a prompt's end that are shown."""


class SampleAnswers:
    """Answers a few rows at each evaluation, or TIMES times, where the budget allows it."""

    def __init__(self, encoder: Encoder, rows: Sequence[Tokens], training: Training) -> None:
        self._encoder = encoder
        self._rows = list(_asked(rows, training.sample_answers))
        self.record: list[dict[str, Any]] = []
        """The samples so far: step, prompt, expected, answer."""
        self.seconds = 0.0
        self._work = 0
        self._next = 0
        """The row whose turn it is."""

    def attach(
        self,
        job: Job,
        forward: Forward,
        spent: Callable[[], tuple[int, float]],
        steps: int,
        evaluation: Eval | None,
    ) -> None:
        """Answer by this forward pass; `spent` returns tokens and seconds of the training so far.

        `evaluation` is the recipe's, whose steps samples are written at.
        """
        self._job, self._forward, self._spent, self._steps = job, forward, spent, steps
        self._every = evaluation.every if evaluation else max(1, -(-steps // (TIMES + 1)))

    def due(self, step: int) -> bool:
        """Return whether answers are due and cheap enough. After the last step there are none."""
        if not self._rows or step % self._every or step >= self._steps:
            return False
        return self._is_cheap(self._rows[self._next])

    def _is_cheap(self, row: Tokens) -> bool:
        """Return whether the training so far has paid for the answer to one more row."""
        tokens, seconds = self._spent()
        work = self._work + self._work_of(row)
        if work > SHARE * BACKWARD * tokens:
            return False
        # What it will take is known by what answers took so far.
        expected = self.seconds * work / self._work if self._work else 0.0
        return expected <= MOST_TIME * seconds

    def _work_of(self, row: Tokens) -> int:
        """Return the most work that an answer takes, in tokens that pass through the model."""
        least = LEAST_WORK.get(self._forward.device.type, 0)
        return _room(row) * max(least, row.first + _room(row))

    def after(self, step: int, state: Callable[[], Any]) -> bool:
        """Answer rows in their turn and report; a training never ends by it."""
        for _ in self._rows:
            row = self._rows[self._next]
            if not self._is_cheap(row):
                break
            begin = time.monotonic()
            prompt, right = row.ids[: row.first], row.ids[row.first : row.first + _length(row)]
            self._work += self._work_of(row)
            sample = {
                "step": step,
                "prompt": self._encoder.tokenizer.decode(prompt, skip_special_tokens=True)[-SHOWN:],
                "expected": self._encoder.answer_text(right.tolist(), self._encoder.stops),
                "answer": self._answer(row),
            }
            self.record.append(sample)
            self._job.say("sample", steps=self._steps, **sample)
            self._next = (self._next + 1) % len(self._rows)
            self.seconds += time.monotonic() - begin
        return False

    def _answer(self, row: Tokens) -> str:
        """Return the likeliest answer to a row's prompt, token after token."""
        import numpy as np

        ids = row.ids[: row.first]
        for _ in range(_room(row)):
            token = self._forward.likeliest_next(ids)
            ids = np.append(ids, np.int32(token))
            if token in self._encoder.stops:
                break
        return self._encoder.answer_text(ids[row.first :].tolist(), self._encoder.stops)


def _asked(rows: Sequence[Tokens], count: int) -> list[Tokens]:
    """Return the first rows that have a prompt and an answer, of the first few."""
    some = (rows[i] for i in range(min(len(rows), 4 * count)))
    asked = [row for row in some if 1 < row.first <= LONGEST_ROW and row.attended is None]
    return [row for row in asked if _length(row)][:count]


def _length(row: Tokens) -> int:
    """Return how many counted tokens follow the prompt without a break."""
    counted = row.counted[row.first :]
    return len(counted) if counted.all() else int(counted.argmin())


def _room(row: Tokens) -> int:
    return min(MOST_TOKENS, _length(row))
