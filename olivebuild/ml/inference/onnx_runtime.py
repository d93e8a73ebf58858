"""ONNX models, asked through onnxruntime-genai.

A generator is kept for all questions. What all prompts begin with stays in it: before each question
it is rewound to there. So a row's numbers depend on itself and on the shared beginning, and not on
the rows before it.
"""

from __future__ import annotations

import copy
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from olivebuild.core.errors import StepError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.ml.data.end_tokens import ends_of, trained_ends
from olivebuild.ml.inference.questions import (
    Inquiry,
    Logits,
    Path,
    Question,
    Reply,
    shared_prefix,
)
from olivebuild.ml.models import genai, load
from olivebuild.ml.onnx.slots import adapter_file
from olivebuild.ml.onnx.trial import capacity

AGREES = {np.dtype(np.float32): 2e-3}
"""The most by which logits after a rewind may differ from those of a generator of its own, as the
root mean square in units of their spread, by dtype. Graphs round otherwise where they read the same
tokens in other portions.
"""
AGREES_ROUGHLY = 0.05
"""The most for shorter dtypes."""
STATES = ("conv", "recurrent", "ssm", "state")
"""Parts of the names of what a graph keeps that is no key and no value of a token."""
_NUMBERS = itertools.count()
"""Numbers of adapters: the same folder may be loaded twice, and hold another one by then."""


class OnnxRuntime:
    """A model, and an adapter in its slots, if it is one that `adapted` returned."""

    def __init__(self, folder: str | pathlib.Path, date: str = "", *, trust: bool = False) -> None:
        self.tokenizer = load.load_tokenizer(folder, date=date)
        self.config = read_json(pathlib.Path(folder, "genai_config.json"))
        self.ends = ends_of(pathlib.Path(folder))
        self.folder = pathlib.Path(folder)
        self._rewound = 0
        """The length of a prompt up to which rewinds are known to be right."""
        self._adapters: list[Any] = []
        """The adapters (og.Adapters) of the model, one for all that are made from it."""
        self._adapter = ""
        """The name there of the adapter that answers; "" for none."""
        try:
            self.model = genai.open_model(pathlib.Path(folder), trust=trust)
        except RuntimeError as e:
            hint = "the provider it was built for must be there: see `olivebuild doctor`"
            raise StepError(
                f"onnxruntime-genai can't load the model: {first_line(e)}",
                where=str(folder),
                hint=hint,
            ) from None

    def adapted(self, folder: str | pathlib.Path, date: str = "") -> OnnxRuntime:
        """Return a runtime of the same loaded model with an adapter in its slots.

        `date` is what a chat template that the adapter brings is told. The two share memory, and
        are asked in any order. Raises InputError for an adapter that does not fit.
        """
        import onnxruntime_genai as og

        place = pathlib.Path(folder)
        adapter_file.check_fits(place, self.folder)
        if not self._adapters:
            self._adapters.append(og.Adapters(self.model))
        other = copy.copy(self)
        other._adapter = f"{next(_NUMBERS)}:{place}"
        try:
            self._adapters[0].load(str(place / adapter_file.FILE), other._adapter)
        except RuntimeError as e:
            raise StepError(
                f"onnxruntime-genai can't load the adapter: {first_line(e)}",
                where=str(place),
                hint="build it again",
            ) from None
        other.tokenizer = load.tokenizer_with(self.tokenizer, place, date)
        other.ends = self.ends | trained_ends(place, lambda: other.tokenizer)
        other._rewound = 0
        return other

    def generator(self, max_length: int) -> Any:
        """Return a generator (og.Generator) of up to so many tokens, with the adapter in place."""
        import onnxruntime_genai as og

        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=max_length, do_sample=False)
        generator = og.Generator(self.model, params)
        if self._adapter:
            generator.set_active_adapter(self._adapters[0], self._adapter)
        return generator

    def ask(
        self, questions: Sequence[Question], new_tokens: int, ends: Collection[int]
    ) -> list[Reply]:
        """Return the replies in the order of the questions."""
        replies = dict(self.answers(questions, new_tokens, ends))
        return [replies[i] for i in range(len(questions))]

    @property
    def repeats(self) -> bool:
        """Whether a question gets the same reply, bit for bit, whatever is asked beside it."""
        options = self.config["model"]["decoder"].get("session_options") or {}
        return not options.get("provider_options")

    def answers(
        self,
        questions: Sequence[Question],
        new_tokens: int,
        ends: Collection[int],
        among: Sequence[Question] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the number of each question with its reply.

        `among` are all questions of a set of which these are some: they decide what is shared.
        Raises StepError for a question that is longer than the model takes.
        """
        everyone = among or questions
        context = int(self.config["model"]["context_length"])
        for question in questions:
            _check_length(question, context)
        prefix = shared_prefix([question.prompt for question in everyone])
        longest = max((_longest(question, new_tokens) for question in everyone), default=0)
        length = capacity(self.config, longest)
        reader = _Reader(lambda: self.generator(length), prefix)
        is_whole = len(everyone) > 1 and keeps_all(self.config, longest)
        reader.rewinds = is_whole and self._rewinds(reader, everyone)
        for i, question in enumerate(questions):
            room = min(new_tokens, context - len(question.prompt))
            inquiry = Inquiry(question, room, ends)
            reader.answer(inquiry)
            yield i, inquiry.reply()

    def _rewinds(self, reader: _Reader, questions: Sequence[Question]) -> bool:
        """Return whether a rewound generator gives the logits that one of its own gives.

        It may not where the graph reads long texts otherwise than short ones, or for reasons of the
        runtime's: the longest question is tried, unless one as long was.
        """
        other, longest = sorted(questions, key=lambda q: len(q.prompt))[-2:]
        if len(longest.prompt) > self._rewound:
            reader.rewinds = False
            expected = reader.first_logits(longest)
            reader.drop()
            reader.rewinds = True
            reader.first_logits(other)
            if not _agree(expected, reader.first_logits(longest)):
                print("each prompt is read by itself: after a rewind logits differ", flush=True)
                return False
            self._rewound = len(longest.prompt)
        return True


def keeps_all(config: dict[str, Any], longest: int) -> bool:
    """Return whether a graph keeps the keys and values of `longest` tokens, and nothing else."""
    decoder = config["model"]["decoder"]
    names = " ".join([*decoder.get("inputs", ()), *decoder.get("outputs", ())])
    window = int((decoder.get("sliding_window") or {}).get("window_size") or 0)
    return not any(part in names for part in STATES) and not 0 < window < longest


def _agree(expected: np.ndarray, actual: np.ndarray) -> bool:
    limit = AGREES.get(expected.dtype, AGREES_ROUGHLY) * float(expected.std(dtype=np.float32))
    difference = actual.astype(np.float32) - expected
    return float(np.sqrt(np.square(difference).mean())) <= limit


def _check_length(question: Question, context: int) -> None:
    """Raise StepError where a prompt and its answer have more tokens than the model takes."""
    needed = len(question.prompt) + max((len(c) - 1 for c in question.completions), default=0)
    if needed > context:
        fact = (
            f"a prompt and its answer have {needed} tokens, and the ONNX model takes {context} "
            "(context_length in its genai_config.json)"
        )
        raise StepError(fact, hint="shorter rows, or a model with a longer context")


def _longest(question: Question, new_tokens: int) -> int:
    """Return how many tokens a question may come to, with its answer."""
    return len(question.prompt) + max([new_tokens, *(len(c) for c in question.completions)]) + 1


class _Reader:
    """A generator, and the tokens that it holds.

    Where it `rewinds`, it goes back to what all prompts begin with before each question, and to
    where paths part. Elsewhere a new one takes its place.
    """

    def __init__(self, new_generator: Callable[[], Any], prefix: list[int]) -> None:
        self.rewinds = False
        self._new_generator = new_generator
        self._prefix = prefix
        self._generator: Any = None
        self._held: list[int] = []
        self._gives_all = True
        """Whether the graph gives the logits of all tokens that it is given at once."""

    def answer(self, inquiry: Inquiry) -> None:
        """Read what an inquiry needs to be answered."""
        self._begin()
        self._read(inquiry, inquiry.draft)
        while not inquiry.is_answered():
            self._read(inquiry, tuple(inquiry.written))
        while (path := inquiry.unread_completion()) is not None:
            self._read(inquiry, path)

    def first_logits(self, question: Question) -> np.ndarray:
        """Return the logits [vocabulary] after a prompt."""
        self._begin()
        return self._logits(question.prompt, len(question.prompt))[0]

    def drop(self) -> None:
        """Hold nothing."""
        self._generator, self._held = None, []

    def _begin(self) -> None:
        """Hold what all prompts begin with, and nothing more."""
        if not self.rewinds:
            self.drop()
        elif self._generator is None:
            self._renew()
            if self._prefix:
                self._append(self._prefix)
        else:
            self._keep(len(self._prefix))

    def _renew(self) -> None:
        self._generator, self._held = self._new_generator(), []

    def _keep(self, count: int) -> None:
        """Hold the first `count` tokens alone, or none where the generator can't be rewound."""
        if self._generator is None or (count < len(self._held) and not (self.rewinds and count)):
            self._renew()
        elif count < len(self._held):
            self._rewind(count)
            del self._held[count:]

    def _rewind(self, count: int) -> None:
        self._generator.rewind_to(count)

    def _read(self, inquiry: Inquiry, path: Path) -> None:
        """Tell an inquiry of the logits after those parts of a path that are new to it."""
        prompt, first = inquiry.question.prompt, inquiry.parts_read(path)
        logits = self._logits([*prompt, *path], len(prompt) + first)
        for n, row in enumerate(logits, first):
            asked = inquiry.continuations(path[:n])
            shares = _log_softmax(row) if asked else row
            nats = {token: float(shares[token]) for token in asked}
            inquiry.learn(path[:n], Logits(likeliest=int(row.argmax()), nats=nats))

    def _logits(self, tokens: list[int], first: int) -> Sequence[np.ndarray]:
        """Return the logits [vocabulary] after the first `first` tokens, and after each more."""
        wanted = len(tokens) - first + 1
        self._hold_beginning(tokens[: first - 1])
        if self._gives_all or wanted == 1:
            logits = self._append(tokens[len(self._held) :])
            if len(logits) >= wanted:
                return list(logits[-wanted:])
            self._gives_all = False
            self._hold_beginning(tokens[: first - 1])
        rows = [self._append(tokens[len(self._held) : first])[-1]]
        return [*rows, *(self._append([token])[-1] for token in tokens[first:])]

    def _hold_beginning(self, tokens: list[int]) -> None:
        """Hold of some tokens those that are held already, and nothing else."""
        pairs = zip(self._held, tokens, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        self._keep(min(len(self._held), len(tokens)) if same is None else same)

    def _append(self, tokens: list[int]) -> np.ndarray:
        """Read tokens; return the logits [tokens, vocabulary], of the last one alone at times."""
        self._generator.append_tokens(np.array(tokens, dtype=np.int32))
        self._held += tokens
        logits: np.ndarray = np.asarray(self._generator.get_output("logits"))
        return np.asarray(logits[0])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float32) - np.float32(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
