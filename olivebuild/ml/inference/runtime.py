"""A model that can be asked.

Hugging Face folders through transformers, ONNX folders through onnxruntime-genai.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from olivebuild.core.errors import StepError, Where, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.scoring import Judged
from olivebuild.ml.data.end_tokens import ends_of
from olivebuild.ml.data.examples import Table
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.context import check_prompts, examples_of, room_of
from olivebuild.ml.models import genai, load
from olivebuild.ml.nn.reach import border_of
from olivebuild.ml.onnx.trial import capacity

BATCH = 8
WINDOW = 512
"""Tokens of a text that are read at once: the likelihoods of all words at each of them take memory.
"""


@dataclass(frozen=True)
class Question:
    """A prompt, the completions whose likelihood is asked, and where a free answer ends."""

    prompt: list[int]
    completions: list[list[int]]


@dataclass(frozen=True)
class Reply:
    """The answer to a question.

    `scores`: log-likelihood of each completion given the prompt, in nats; `written`: the greedy
    answer, end token excluded.
    """

    scores: list[float]
    written: list[int]


class Runtime(Protocol):
    tokenizer: Any
    ends: set[int]
    """The tokens at which the model stops when it is deployed."""

    def ask(self, questions: list[Question], new_tokens: int, ends: set[int]) -> list[Reply]:
        """Replies in the order of the questions."""


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


def judge(
    runtime: Runtime, table: Table, new_tokens: int, *, whole: bool = False
) -> Iterator[tuple[dict[str, str], Judged]]:
    """Each row and what became of it, in order.

    `whole`: an answer that is longer than every right one is still wanted in full.
    """
    encoder = Encoder(runtime.tokenizer, ends=runtime.ends)
    if table.format == "text":
        for row in table.rows:
            yield row, _read(runtime, encoder, row)
        return
    examples = examples_of(encoder, table)
    room = room_of([len(e.completion) for e in examples], new_tokens, whole=whole)
    check_prompts(
        str(runtime.tokenizer.name_or_path), [len(e.prompt) for e in examples], room, table
    )
    for i in range(0, len(examples), BATCH):
        rows, wanted = table.rows[i : i + BATCH], examples[i : i + BATCH]
        questions = []
        for row in rows:
            # The right answer first; it is one of the labels, where there are any.
            prompt, (expected_choice, *labels) = encoder.choices(
                table.format, row, [text for _, text in table.labels]
            )
            questions.append(Question(prompt, labels or [expected_choice]))
        for row, example, question, reply in zip(
            rows, wanted, questions, runtime.ask(questions, room, encoder.ends), strict=True
        ):
            label = table.labels[int(np.argmax(reply.scores))][0] if table.labels else ""
            right, text = (
                encoder.answer_text(example.completion, encoder.stops),
                encoder.answer_text(reply.written),
            )
            whole_row = [*example.prompt, *example.completion]
            nll = -reply.scores[question.completions.index(whole_row[len(question.prompt) :])]
            yield (
                row,
                Judged(row["label"] or right, right, label, text, nll, len(example.completion)),
            )


def _read(runtime: Runtime, encoder: Encoder, row: dict[str, str]) -> Judged:
    """Return the likelihood of a text, in windows of its own.

    The first token of each is given, not asked.
    """
    example = encoder.encode("text", row)
    ids = example.prompt + example.completion
    nll, count = 0.0, 0
    for i in range(0, len(ids) - 1, WINDOW - 1):
        window = ids[i : i + WINDOW]
        nll -= runtime.ask([Question(window[:1], [window[1:]])], 0, set())[0].scores[0]
        count += len(window) - 1
    return Judged(row["label"], "", "", "", nll, count)


class HuggingFaceRuntime:
    def __init__(
        self,
        folder: str | Path,
        trust_remote_code: bool,
        date: str = "",
        where: Where | None = None,
    ) -> None:
        device, dtype = load.platform()
        self.tokenizer = load.load_tokenizer(folder, trust_remote_code=trust_remote_code, date=date)
        self.model = load.load_model(
            folder, dtype, device, trust_remote_code=trust_remote_code, where=where
        )
        self.device = device
        self.ends = ends_of(Path(folder))
        self.border = border_of(self.model.config.get_text_config())[0]

    @torch.inference_mode()
    def ask(self, questions: list[Question], new_tokens: int, ends: set[int]) -> list[Reply]:
        """Answer each question as it would be answered alone.

        What passes the length above which positions mean something else shares no batch.
        """
        if not self.border:
            return self._ask(questions, new_tokens, ends)
        longest = [len(q.prompt) + max([new_tokens, *map(len, q.completions)]) for q in questions]
        short = [q for q, length in zip(questions, longest, strict=True) if length <= self.border]
        replies = iter(self._ask(short, new_tokens, ends) if short else [])
        return [
            next(replies) if length <= self.border else self._ask_anew(q, new_tokens, ends)
            for q, length in zip(questions, longest, strict=True)
        ]

    def _ask_anew(self, question: Question, new_tokens: int, ends: set[int]) -> Reply:
        """Answer by the whole text for each token.

        What a cache holds of a shorter one is not what a longer one has in its place.
        """

        def logits(ids: list[int], keep: int) -> torch.Tensor:
            out = self.model(
                input_ids=torch.tensor([ids], device=self.device),
                use_cache=False,
                logits_to_keep=keep,
            )
            return torch.log_softmax(out.logits[0, -keep:].float(), -1)

        scores = []
        for completion in question.completions:
            log_probs = logits(question.prompt + completion, len(completion) + 1)[:-1]
            scores.append(
                float(
                    log_probs.gather(1, torch.tensor(completion, device=self.device)[:, None]).sum()
                )
            )
        written: list[int] = []
        while len(written) < new_tokens:
            token = int(logits(question.prompt + written, 1)[0].argmax())
            if token in ends:
                break
            written.append(token)
        return Reply(scores, written)

    def _ask(self, questions: list[Question], new_tokens: int, ends: set[int]) -> list[Reply]:
        ids, mask = _pad_left([q.prompt for q in questions])
        ids, mask = ids.to(self.device), mask.to(self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        first = torch.log_softmax(out.logits[:, -1].float(), -1)
        scores = (
            self._scores(questions, mask, first, copy.deepcopy(out.past_key_values))
            if questions[0].completions
            else [[] for _ in questions]
        )
        written = self._write(mask, first, out.past_key_values, new_tokens, ends)
        return [Reply(s, w) for s, w in zip(scores, written, strict=True)]

    def _scores(
        self, questions: list[Question], mask: torch.Tensor, first: torch.Tensor, cache: Any
    ) -> list[list[float]]:
        """Return the scores of all completions of all questions, in one pass.

        The prompts' cache is repeated for each completion.
        """
        count = len(questions[0].completions)
        many = [c for q in questions for c in q.completions]
        longest = max(len(c) for c in many)
        tokens = torch.zeros(len(many), longest, dtype=torch.long, device=self.device)
        real = torch.zeros_like(tokens)
        for i, completion in enumerate(many):
            tokens[i, : len(completion)] = torch.tensor(completion)
            real[i, : len(completion)] = 1
        total = first.repeat_interleave(count, 0).gather(1, tokens[:, :1]).squeeze(1)
        if longest > 1:
            cache.batch_repeat_interleave(count)
            whole = torch.cat([mask.repeat_interleave(count, 0), real[:, :-1]], 1)
            positions = _positions(whole)[:, -(longest - 1) :]
            out = self.model(
                input_ids=tokens[:, :-1],
                attention_mask=whole,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            later = (
                torch.log_softmax(out.logits.float(), -1).gather(2, tokens[:, 1:, None]).squeeze(2)
            )
            total = total + (later * real[:, 1:]).sum(1)
        return [row.tolist() for row in total.view(len(questions), count)]

    def _write(
        self, mask: torch.Tensor, first: torch.Tensor, cache: Any, new_tokens: int, ends: set[int]
    ) -> list[list[int]]:
        written: list[list[int]] = [[] for _ in range(len(mask))]
        open_rows = set(range(len(mask)))
        token = first.argmax(-1)
        for _ in range(new_tokens):
            for row in sorted(open_rows):
                if int(token[row]) in ends:
                    open_rows.discard(row)
                else:
                    written[row].append(int(token[row]))
            if not open_rows:
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            positions = _positions(mask)[:, -1:]
            out = self.model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            token = out.logits[:, -1].argmax(-1)
        return written


def _pad_left(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(r) for r in rows)
    ids = torch.tensor([[0] * (length - len(r)) + r for r in rows])
    return ids, torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


class OnnxRuntime:
    def __init__(self, folder: str | Path, date: str = "", *, trust: bool = False) -> None:
        self.tokenizer = load.load_tokenizer(folder, date=date)
        self.config = read_json(Path(folder, "genai_config.json"))
        self.ends = ends_of(Path(folder))
        try:
            self.model = genai.open_model(Path(folder), trust=trust)
        except RuntimeError as e:
            hint = "the provider it was built for must be there: see `olivebuild doctor`"
            raise StepError(
                f"onnxruntime-genai can't load the model: {first_line(e)}",
                where=str(folder),
                hint=hint,
            ) from None

    def ask(self, questions: list[Question], new_tokens: int, ends: set[int]) -> list[Reply]:
        return [self._ask(q, new_tokens, ends) for q in questions]

    def _ask(self, question: Question, new_tokens: int, ends: set[int]) -> Reply:
        import onnxruntime_genai as og

        prompt = np.array(question.prompt, dtype=np.int32)
        context = int(self.config["model"]["context_length"])
        needed = len(prompt) + max((len(c) - 1 for c in question.completions), default=0)
        if needed > context:
            fact = (
                f"a prompt and its answer have {needed} tokens, and the ONNX model takes {context} "
                "(context_length in its genai_config.json)"
            )
            raise StepError(fact, hint="shorter rows, or a model with a longer context")
        room = max([new_tokens, *(len(c) for c in question.completions)])
        params = og.GeneratorParams(self.model)
        params.set_search_options(
            max_length=capacity(self.config, len(prompt) + room + 1), do_sample=False
        )
        generator = og.Generator(self.model, params)
        generator.append_tokens(prompt)
        first = _log_softmax(np.asarray(generator.get_logits(), dtype=np.float32).reshape(1, -1))[0]
        scores = []
        for completion in question.completions:
            score = float(first[completion[0]])
            if len(completion) > 1:
                generator.append_tokens(np.array(completion[:-1], dtype=np.int32))
                logits = np.asarray(generator.get_output("logits"), dtype=np.float32)[0]
                later = _log_softmax(logits[-(len(completion) - 1) :])
                score += float(sum(later[i, token] for i, token in enumerate(completion[1:])))
                generator.rewind_to(len(prompt))
            scores.append(score)
        return Reply(
            scores, self._write(generator, first, min(new_tokens, context - len(prompt)), ends)
        )

    def _write(
        self, generator: Any, first: np.ndarray, new_tokens: int, ends: set[int]
    ) -> list[int]:
        # Greedy by hand: the search of genai stops by its own settings, which the folder's config
        # decides.
        written: list[int] = []
        token = int(first.argmax())
        while token not in ends and len(written) < new_tokens:
            written.append(token)
            if len(written) < new_tokens:
                generator.append_tokens(np.array([token], dtype=np.int32))
                token = int(
                    np.asarray(generator.get_logits(), dtype=np.float32).reshape(-1).argmax()
                )
        return written


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
