"""Replies of a model that are kept, so that rows which are added are asked alone.

A row's reply depends on the model, on the row and on what all prompts begin with, and not on the
rows beside it. So the reply that is kept is, bit for bit, the one that asking again would give.
Losing them costs time, nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence

from olivebuild.api.job import Job
from olivebuild.cache.memo import Derived
from olivebuild.core import code_version, hashing
from olivebuild.core.host import installed
from olivebuild.ml.inference.questions import Question, Reply, shared_prefix
from olivebuild.ml.inference.runtime import Runtime

VERSION = 1
FIRST, SECONDS = 32, 2.0
"""Replies are written after the first 32, whenever there are twice as many as the last time, and
every two seconds.
"""


class KeptReplies:
    """The replies to one data set that are kept under the model's content, and what reads it.

    That is our code, libraries and the numerics of the machine. None are kept of a model whose
    content has no digest.
    """

    def __init__(self, job: Job, role: str, libraries: Collection[str]) -> None:
        self._derived = Derived(job.store)
        self._job = job
        self._set = job.input(role).target
        models = {
            name: job.input(name) for name in ("model", "adapter") if name in job.action.inputs
        }
        self._has_digests = all(model.digest for model in models.values())
        self._about = [
            VERSION,
            code_version.code(),
            {name: installed(name) for name in sorted(libraries)},
            {name: model.digest for name, model in models.items()},
            dict(job.action.numerics),
            dict(job.action.fields),
            self._set,
        ]

    def answers(
        self,
        runtime: Runtime,
        questions: Sequence[Question],
        new_tokens: int,
        ends: Collection[int],
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the number of each question with its reply, as they come; say which were kept."""
        beginning = shared_prefix([question.prompt for question in questions])
        key = hashing.of_json(["replies", self._about, beginning, new_tokens, sorted(ends)])
        names = [_name(question) for question in questions]
        kept = self._read(key) if self._has_digests else {}
        missing = [i for i, name in enumerate(names) if name not in kept]
        for i, name in enumerate(names):
            if name in kept:
                yield i, kept[name]
        if count := len(names) - len(missing):
            self._job.note(
                f"{count} of {len(names)} rows of {self._set} keep their answers: the model and "
                "their prompts are as they were"
            )
        if not missing:
            return
        asked, writing = [questions[i] for i in missing], _Writing()
        for k, reply in runtime.answers(asked, new_tokens, ends, among=questions):
            kept[names[missing[k]]] = reply
            if writing.is_due() and self._has_digests and runtime.repeats:
                self._write(key, {name: kept[name] for name in names if name in kept})
            yield missing[k], reply
        if self._has_digests and runtime.repeats:
            self._write(key, {name: kept[name] for name in names})

    def _read(self, key: str) -> dict[str, Reply]:
        try:
            rows = json.loads(self._derived.read(key) or b"{}")
            return {
                name: Reply(scores=[*map(float, scores)], written=[*map(int, written)], cut=cut)
                for name, (scores, written, cut) in rows.items()
            }
        except (ValueError, TypeError, AttributeError):
            return {}

    def _write(self, key: str, replies: dict[str, Reply]) -> None:
        rows = {name: [r.scores, r.written, r.cut] for name, r in replies.items()}
        self._derived.write(key, json.dumps(rows).encode())


class _Writing:
    """When replies are written before all are there: whoever ends the step loses few of them."""

    def __init__(self) -> None:
        self._count = 0
        self._next = FIRST
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Count a reply; return whether those so far are to be written."""
        self._count += 1
        if self._count < self._next and time.monotonic() - self._last < SECONDS:
            return False
        if self._count >= self._next:
            self._next *= 2
        self._last = time.monotonic()
        return True


def _name(question: Question) -> str:
    """Return a digest of all that is asked."""
    may_be_cut = question.is_hopeless is not None
    return hashing.of_json([question.prompt, question.completions, question.right, may_be_cut])
