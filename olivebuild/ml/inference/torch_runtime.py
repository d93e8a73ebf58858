"""Hugging Face models, asked through transformers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from olivebuild.core.errors import Where
from olivebuild.ml.data.end_tokens import ends_of
from olivebuild.ml.inference.passes import Reader, Row
from olivebuild.ml.inference.questions import Inquiry, Question, Reply, chunks, shared_prefix
from olivebuild.ml.kernels import onednn
from olivebuild.ml.models import load
from olivebuild.ml.nn.reach import border_of

CHUNK = 128
"""Questions that are read together: their answers come when all of them are there."""
MANY = 32
"""Questions from which on it is worth while to lay out weights for a faster library."""


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
        self._is_packed = False
        self._fell_back = False
        self.border = border_of(self.model.config.get_text_config())[0]

    def ask(
        self, questions: Sequence[Question], new_tokens: int, ends: Collection[int]
    ) -> list[Reply]:
        """Return the replies in the order of the questions."""
        replies = dict(self.answers(questions, new_tokens, ends))
        return [replies[i] for i in range(len(questions))]

    @property
    def repeats(self) -> bool:
        """Whether a question gets the same reply, bit for bit, whatever is asked beside it.

        A mixture's experts get as many tokens as all rows send them. Of GPUs nothing is promised.
        """
        mixes = any("expert" in name for name, _ in self.model.named_modules())
        return self.device.type == "cpu" and not mixes and not self._fell_back

    @torch.inference_mode()
    def answers(
        self,
        questions: Sequence[Question],
        new_tokens: int,
        ends: Collection[int],
        among: Sequence[Question] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the number of each question with its reply, as it is answered alone.

        What passes the length above which positions mean something else is read by itself. `among`
        are all questions of a set of which these are some: they decide what is shared.
        """
        if len(among or questions) >= MANY and not self._is_packed:
            self._is_packed = bool(onednn.pack_linear(self.model))
        anew = [i for i, question in enumerate(questions) if self._passes(question, new_tokens)]
        for i in anew:
            yield i, self._ask_anew(questions[i], new_tokens, ends)
        others = sorted(set(range(len(questions))) - set(anew))
        prefix = shared_prefix(
            [q.prompt for q in among or questions if not self._passes(q, new_tokens)]
        )
        reader = Reader(self.model, self.device, prefix)
        for chunk in chunks(len(others), CHUNK):
            numbers = [others[k] for k in chunk]
            inquiries = [Inquiry(questions[i], new_tokens, ends) for i in numbers]
            rows = [Row(inquiry=inquiry, path=inquiry.draft) for inquiry in inquiries]
            reader.read(rows, new_tokens)
            while rows := _unread(inquiries):
                reader.read(rows)
            self._fell_back = self._fell_back or reader.fell_back
            for i, inquiry in zip(numbers, inquiries, strict=True):
                yield i, inquiry.reply()

    def _passes(self, question: Question, new_tokens: int) -> bool:
        longest = len(question.prompt) + max([new_tokens, *map(len, question.completions)])
        return bool(self.border) and longest > self.border

    def _ask_anew(self, question: Question, new_tokens: int, ends: Collection[int]) -> Reply:
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
            if question.is_hopeless and question.is_hopeless(written):
                return Reply(scores=scores, written=written, cut=True)
        return Reply(scores=scores, written=written)


def _unread(inquiries: Sequence[Inquiry]) -> list[Row]:
    """Return the completions whose likelihoods decide something and have yet to be read."""
    paths = [(inquiry, inquiry.unread_completion()) for inquiry in inquiries]
    return [Row(inquiry=inquiry, path=path) for inquiry, path in paths if path is not None]
