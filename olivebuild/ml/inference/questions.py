"""Questions to a model, and what has been read of it to answer one.

An answer needs the model's logits after the prompt and after some continuations of it (`paths`). A
runtime reads the right answer along with the prompt: the same pass gives its likelihood, and where
the model writes it, its own answer, too. Only where it writes something else is more read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from olivebuild.ml.data.plain_tokenizer import common_prefix

Path = tuple[int, ...]
"""Tokens after a prompt."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and the completions whose likelihood is asked.

    `right` is the index of the one whose likelihood is wanted; then of the others it is only asked
    which is the likeliest. Without it all are wanted. `is_hopeless` tells of an answer's first
    tokens that whatever follows is of no interest.
    """

    prompt: list[int]
    completions: list[list[int]]
    right: int | None = None
    is_hopeless: Callable[[list[int]], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a question.

    `scores` are the log-likelihoods of the completions given the prompt, in nats. Those of
    completions that are neither `right` nor the likeliest may be too high, but are below the
    likeliest's. `written` is the greedy answer without its end token, and without its rest where it
    was cut (`cut`).
    """

    scores: list[float]
    written: list[int]
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What is kept of the logits after a path.

    The likeliest token, and the log-likelihoods of tokens with which completions go on, in nats.
    """

    likeliest: int
    nats: dict[int, float]


class Inquiry:
    """What has been read to answer a question, and what is to be read next."""

    def __init__(self, question: Question, new_tokens: int, ends: Collection[int]) -> None:
        self.question = question
        self.written: list[int] = []
        self.cut = False
        self._new_tokens = new_tokens
        self._ends = ends
        self._has_ended = False
        self._read: dict[Path, Logits] = {}
        self._completions = [tuple(completion) for completion in question.completions]

    @property
    def draft(self) -> Path:
        """The path to read with the prompt: the right completion, but for its last token."""
        if not self._completions:
            return ()
        return self._completions[self.question.right or 0][:-1]

    def continuations(self, path: Path) -> list[int]:
        """Return the tokens with which completions go on after a path."""
        n = len(path)
        tokens = (c[n] for c in self._completions if len(c) > n and c[:n] == path)
        return list(dict.fromkeys(tokens))

    def parts_read(self, path: Path) -> int:
        """Return how many of a path's beginnings were read, the empty one being the first."""
        unread = (n for n in range(len(path) + 1) if path[:n] not in self._read)
        return next(unread, len(path) + 1)

    def learn(self, path: Path, logits: Logits) -> None:
        """Take in the logits after a path."""
        self._read[path] = logits

    def is_answered(self) -> bool:
        """Write on as far as is known; return whether that is to the answer's end."""
        while not self._has_ended:
            logits = self._read.get(tuple(self.written))
            if len(self.written) >= self._new_tokens:
                self._has_ended = True
            elif logits is None:
                is_hopeless = self.question.is_hopeless
                self.cut = self._has_ended = bool(is_hopeless and is_hopeless(self.written))
                break
            elif logits.likeliest in self._ends:
                self._has_ended = True
            else:
                self.written.append(logits.likeliest)
        return self._has_ended

    def unread_completion(self) -> Path | None:
        """Return the path of a completion whose likelihood has yet to be read, or None.

        A likelihood that is read in part is no higher than that part. So what is not above the
        likeliest one that is known need not be read.
        """
        scores = [self._score(c) for c in self._completions]
        right = self.question.right
        unread = [i for i, (_, is_whole) in enumerate(scores) if not is_whole]
        if right is not None and right not in unread:
            best = max(score for score, is_whole in scores if is_whole)
            unread = [i for i in unread if scores[i][0] >= best]
        elif right is not None:
            unread = [right]
        if not unread:
            return None
        return self._completions[max(unread, key=lambda i: scores[i][0])][:-1]

    def _score(self, completion: Path) -> tuple[float, bool]:
        """Return a completion's log-likelihood as far as it is read, and whether all of it is."""
        total = 0.0
        for i, token in enumerate(completion):
            logits = self._read.get(completion[:i])
            if logits is None:
                return total, False
            total += logits.nats[token]
        return total, True

    def reply(self) -> Reply:
        scores = [self._score(completion)[0] for completion in self._completions]
        return Reply(scores=scores, written=list(self.written), cut=self.cut)


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all prompts begin, each of which has one more at least."""
    if not prompts:
        return []
    # What the first and the last in order have in common, all have.
    first, last = min(prompts), max(prompts)
    return first[: min(common_prefix(first, last), min(map(len, prompts)) - 1)]


def chunks(count: int, size: int) -> Iterator[range]:
    """Yield consecutive indices, `size` at a time."""
    for start in range(0, count, size):
        yield range(start, min(count, start + size))
