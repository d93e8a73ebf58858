"""Forward passes of a Hugging Face model over many rows.

The tokens with which all prompts begin are read once. Passes have fixed shapes: so many rows of so
many tokens, padded in front and filled up with a copy of a row. So the logits of a row depend on
itself, on the shared beginning and on the machine, and not on the rows that stand beside it: those
of other shapes differ in the last digits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import torch

from olivebuild.ml.inference import kv_cache
from olivebuild.ml.inference.questions import Inquiry, Logits, Path, chunks
from olivebuild.ml.nn.reach import keeps_state, windows_of

T = TypeVar("T")
STEP, ROWS = 4, 8
"""Lengths of passes are multiples of so many tokens, and they have so many rows at most."""
GPU_STEP, GPU_ROWS = 32, 64
"""The same on GPUs, which take as long for a pass of few tokens as for one of many."""
PASS_TOKENS = 1 << 14
"""The most tokens of a pass with what they attend to, whose keys and values are kept."""
PASS_LOGITS = 1 << 26
"""The most logits of a pass."""
AGREES = {torch.float32: 0.01}
"""The most by which logits of two ways may differ, in units of their spread, by dtype."""
AGREES_ROUGHLY = 0.3
"""The most for shorter dtypes."""


class Way(Enum):
    """How a row is read.

    SHARED is after the shared beginning, BATCHED with others but from its own beginning, ALONE by
    itself and without padding.
    """

    SHARED = 1
    BATCHED = 2
    ALONE = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is to be read: the prompt of an inquiry, and a path after it."""

    inquiry: Inquiry
    path: Path

    @property
    def tokens(self) -> list[int]:
        return [*self.inquiry.question.prompt, *self.path]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a pass: tokens of each row and rows, and of how many tokens logits are kept."""

    way: Way
    tokens: int
    logits: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Open:
    """A row whose answer goes on: what is kept of it, and which of its slots count."""

    inquiry: Inquiry
    cache: kv_cache.Row
    mask: torch.Tensor


class Reader:
    """Reads rows whose prompts all begin with `prefix`; `learn`s what their inquiries ask."""

    def __init__(self, model: Any, device: torch.device, prefix: list[int]) -> None:
        self._model = model
        self._device = device
        self._step_tokens, self._rows = (
            (STEP, ROWS) if device.type == "cpu" else (GPU_STEP, GPU_ROWS)
        )
        self._prefix = prefix
        text = model.config.get_text_config()
        self._vocabulary = int(text.vocab_size)
        self._window = min(windows_of(model), default=0)
        self._is_tried = False
        self.fell_back = False
        """Rows are read one by one, since together they were read otherwise."""
        # A slot that never counts: where all do, attention may be computed another way.
        self._prefix_mask = torch.tensor([[0] + [1] * len(prefix)], device=device)
        self._cache = self._read_prefix()
        self._pads = self._cache is not None
        """Whether rows may be padded: no state goes from token to token."""

    def _read_prefix(self) -> Any:
        """Return the cache of the shared beginning; None where a model keeps something else."""
        if keeps_state(self._model):
            return None
        ids = torch.tensor([[0, *self._prefix]], device=self._device)
        out = self._forward(ids, self._prefix_mask, logits_to_keep=1, use_cache=True)
        return out.past_key_values if kv_cache.can_share(out.past_key_values) else None

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
        """Run the model on the last tokens [rows, tokens] of those of a mask [rows, slots]."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._model(input_ids=ids, attention_mask=mask, position_ids=positions, **options)

    def read(self, rows: Sequence[Row], new_tokens: int = 0) -> None:
        """Read rows, and with `new_tokens` write their answers, which have so many at most."""
        groups = defaultdict[Shape, list[Row]](list)
        for row in rows:
            groups[self._shape(row, new_tokens)].append(row)
        for shape, members in groups.items():
            if not self._read_group(shape, members, new_tokens):
                self.read(rows, new_tokens)
                return

    def _shape(self, row: Row, new_tokens: int) -> Shape:
        whole, kept = len(row.tokens), len(row.path) + 1
        if not self._pads:
            return Shape(way=Way.ALONE, tokens=whole, logits=kept, rows=1)
        tokens, way = _rounded(whole - len(self._prefix), self._step_tokens), Way.SHARED
        slots = 1 + len(self._prefix) + tokens
        if self._window and slots + new_tokens > self._window:
            # With a token more, so that some slot does not count here, too.
            tokens, way = _rounded(whole + 1, self._step_tokens), Way.BATCHED
            slots = tokens
        logits = min(tokens, kept if kept < STEP // 2 else _rounded(kept, STEP))
        rows = self._rows
        while rows > 1 and (
            rows * slots > PASS_TOKENS or rows * logits * self._vocabulary > PASS_LOGITS
        ):
            rows //= 2
        return Shape(way=way, tokens=tokens, logits=logits, rows=rows)

    def _read_group(self, shape: Shape, members: Sequence[Row], new_tokens: int) -> bool:
        """Read rows of one shape; return False if that way turns out to be wrong."""
        open_rows: list[Open] = []
        for part in chunks(len(members), shape.rows):
            batch = [members[i] for i in part]
            out, mask = self._pass(shape, batch)
            if shape.way is Way.SHARED and not self._agrees(shape, batch[0], out):
                return False
            self._learn(shape, batch, out)
            if new_tokens and shape.way is Way.SHARED:
                for k, row in enumerate(batch):
                    if not row.inquiry.is_answered():
                        open_rows.append(_open(row, out.past_key_values, mask, k))
                while len(open_rows) >= shape.rows:
                    self._go_on(open_rows[: shape.rows])
                    del open_rows[: shape.rows]
        if open_rows:
            self._go_on(_filled(open_rows, shape.rows))
        if new_tokens and shape.way is not Way.SHARED:
            self._write(shape.rows, [row.inquiry for row in members])
        return True

    def _pass(self, shape: Shape, batch: Sequence[Row], **options: Any) -> tuple[Any, torch.Tensor]:
        """Read a batch; return what the model gives, and the mask [rows, slots]."""
        skipped = len(self._prefix) if shape.way is Way.SHARED else 0
        rows = [row.tokens[skipped:] for row in _filled(batch, shape.rows)]
        ids = torch.tensor([[0] * (shape.tokens - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (shape.tokens - len(row)) + [1] * len(row) for row in rows])
        ids, mask = ids.to(self._device), mask.to(self._device)
        if shape.way is Way.SHARED:
            mask = torch.cat([self._prefix_mask.expand(shape.rows, -1), mask], 1)
            cache = kv_cache.repeated(self._cache, shape.rows)
            options = {"past_key_values": cache, "use_cache": True}
        return self._forward(
            ids, mask, logits_to_keep=shape.logits, **{"use_cache": False, **options}
        ), mask

    def _agrees(self, shape: Shape, row: Row, out: Any) -> bool:
        """Return whether the first row that is read after the shared beginning is read right.

        It is read alone, too. If the two differ by more than rounding, all rows are read alone.
        """
        if self._is_tried:
            return True
        self._is_tried = True
        keep = len(row.path) + 1
        ids = torch.tensor([row.tokens], device=self._device)
        alone = self._model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        right, ours = alone[0, -keep:].float(), out.logits[0, -keep:].float()
        limit = AGREES.get(alone.dtype, AGREES_ROUGHLY) * float(right.std())
        if float((ours - right).square().mean().sqrt()) <= limit:
            return True
        print("rows are read one by one: with a shared beginning their logits differ", flush=True)
        self._cache, self._pads, self.fell_back = None, False, True
        return False

    def _learn(self, shape: Shape, batch: Sequence[Row], out: Any) -> None:
        """Tell each row's inquiry of the logits after each part of its path."""
        logits = out.logits[:, -shape.logits :]
        wanted = [(row.inquiry, row.path[:n]) for row in batch for n in range(len(row.path) + 1)]
        indices = [
            (k, shape.logits - 1 - len(row.path) + n)
            for k, row in enumerate(batch)
            for n in range(len(row.path) + 1)
        ]
        rows, places = zip(*indices, strict=True)
        _tell(wanted, logits[list(rows), list(places)])

    def _go_on(self, rows: Sequence[Open]) -> None:
        cache = kv_cache.joined(self._cache, [row.cache for row in rows])
        mask = torch.stack([row.mask for row in rows])
        self._step([row.inquiry for row in rows], cache, mask)

    def _write(self, rows: int, inquiries: Sequence[Inquiry]) -> None:
        """Write answers to prompts whose caches were not kept: they are read once more."""
        groups = defaultdict[Shape, list[Row]](list)
        for inquiry in inquiries:
            if not inquiry.is_answered():
                row = Row(inquiry=inquiry, path=tuple(inquiry.written))
                tokens = len(row.tokens)
                if self._pads:
                    tokens = _rounded(tokens + 1, self._step_tokens)
                way = Way.BATCHED if self._pads else Way.ALONE
                groups[Shape(way=way, tokens=tokens, logits=1, rows=rows)].append(row)
        for shape, members in groups.items():
            for part in chunks(len(members), rows):
                batch = [members[i] for i in part]
                out, mask = self._pass(shape, batch, use_cache=True)
                _tell([(row.inquiry, row.path) for row in batch], out.logits[: len(batch), -1])
                filled = [row.inquiry for row in _filled(batch, rows)]
                self._step(filled, out.past_key_values, mask)

    def _step(self, inquiries: Sequence[Inquiry], cache: Any, mask: torch.Tensor) -> None:
        """Write answers on, a token of each at a time; the last one written is not read yet."""
        while waiting := [k for k, inquiry in enumerate(inquiries) if not inquiry.is_answered()]:
            tokens = [inquiry.written[-1] if inquiry.written else 0 for inquiry in inquiries]
            ids = torch.tensor(tokens, device=self._device)[:, None]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = self._forward(ids, mask, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            wanted = [(inquiries[k], tuple(inquiries[k].written)) for k in waiting]
            _tell(wanted, out.logits[waiting, -1])


def _open(row: Row, cache: Any, mask: torch.Tensor, number: int) -> Open:
    """Return what a batch holds of a row, of whose path the answer has a part alone."""
    mask = mask[number].clone()
    if unwritten := len(row.path) - (len(row.inquiry.written) - 1):
        mask[-unwritten:] = 0
    return Open(inquiry=row.inquiry, cache=kv_cache.row_of(cache, number), mask=mask)


def _tell(wanted: Sequence[tuple[Inquiry, Path]], logits: torch.Tensor) -> None:
    """Tell inquiries of the logits [paths, vocabulary] after their paths."""
    logits = logits.float()
    likeliest = logits.argmax(-1).tolist()
    asked = [inquiry.continuations(path) for inquiry, path in wanted]
    rows = [i for i, tokens in enumerate(asked) for _ in tokens]
    nats: Iterator[float] = iter(())
    if rows:
        log_shares = torch.log_softmax(logits, -1)
        nats = iter(log_shares[rows, [token for tokens in asked for token in tokens]].tolist())
    for (inquiry, path), best, tokens in zip(wanted, likeliest, asked, strict=True):
        inquiry.learn(path, Logits(likeliest=best, nats={t: next(nats) for t in tokens}))


def _filled(rows: Sequence[T], count: int) -> list[T]:
    """Return rows, and copies of the first, so that there are `count`."""
    return [*rows, *[rows[0]] * (count - len(rows))]


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step
