"""Sequences of tokens, cut from the texts of a data set's rows.

All texts lie end to end in one stream, in the order of the rows; a sequence is a span of it. So
blocks need no batches of rows: Olive joins 1,024 rows at a time and carries the rest on, which
gives the same blocks. Spans are numbers; tokens are read from the shards when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import overload

import numpy as np

from olivebuild.ml.data.examples import Flaw, Tokens
from olivebuild.ml.data.token_shards import Flawed, TokenRows
from olivebuild.steps.parts.sequences import APART, Sequences

Spans = np.ndarray
"""int64 [sequences, 2]: where each begins in the stream, and where it ends."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceRows(Sequence[Tokens]):
    """Sequences of a stream: `spans` of it, of whose tokens the first `context` are not learnt.

    Tokens that equal `masked`, if that is one, are neither attended to nor learnt.
    """

    stream: TokenRows
    spans: Spans
    context: int = 0
    masked: int | None = None

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sequence."""
        lengths: np.ndarray = self.spans[:, 1] - self.spans[:, 0]
        return lengths

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        piece = self.stream.piece(*map(int, self.spans[index]))
        counted = piece.counted & (np.arange(len(piece)) >= self.context)
        attended = None
        if self.masked is not None:
            attended = piece.ids != self.masked
            counted &= attended
        return Tokens(
            piece.ids, counted, attended=None if attended is None or attended.all() else attended
        )

    def take(self, indices: np.ndarray) -> SequenceRows:
        """Return the sequences with these indices, in their order."""
        return replace(self, spans=self.spans[indices])


def cut(stream: TokenRows, wanted: Sequences, length: int, masked: int | None) -> SequenceRows:
    """Return the sequences of at most `length` tokens that a recipe wants of a stream.

    Those of which nothing is learnt are left out.
    """
    bounds = np.concatenate([[0], np.cumsum(stream.lengths)]).astype(np.int64)
    context = length - wanted.stride if wanted.stride else 0
    rows = SequenceRows(
        stream=stream,
        spans=spans_of(wanted, length, bounds),
        context=context,
        masked=masked if wanted.mask_padding else None,
    )
    if wanted.form in APART and not wanted.mask_padding:
        return rows
    return _trimmed(rows)


def _trimmed(rows: SequenceRows) -> SequenceRows:
    """Return sequences without those that have no label, and without ends that are masked.

    In a causal model what follows the last label has no effect.
    """
    if rows.masked is None:
        learnt = rows.lengths > max(1, rows.context)
        return rows if learnt.all() else rows.take(np.flatnonzero(learnt))
    spans = rows.spans.copy()
    keep = np.zeros(len(spans), bool)
    for i, row in enumerate(rows):
        keep[i] = row.labels > 0
        attended = np.flatnonzero(row.ids != rows.masked)
        spans[i, 1] = spans[i, 0] + (attended[-1] + 1 if len(attended) else 0)
    return replace(rows, spans=spans[keep])


def spans_of(wanted: Sequences, length: int, bounds: np.ndarray) -> Spans:
    """Return the spans of sequences of at most `length` tokens.

    `bounds`, int64 [rows + 1], are where rows begin in the stream, and where the last one ends.
    """
    match wanted.form:
        case "blocks" | "windows":
            spans = _regular(int(bounds[-1]), length, wanted.stride or length, wanted.remainder)
            return spans[: wanted.limit]
        case "random-blocks" | "random-lines":
            drawn = list(_drawn(wanted, length, bounds)) if len(bounds) > 1 else []
            return np.array(drawn, np.int64).reshape(-1, 2)
    spans = np.stack([bounds[:-1], bounds[1:]], 1)[: wanted.limit]
    return _lines(spans, length, wanted.min_length) if wanted.form == "lines" else spans


def _regular(total: int, length: int, step: int, remainder: str) -> Spans:
    """Return spans that begin every `step` tokens.

    `drop-last` is range(0, total - length, step), which loses a last one that is exactly full
    (olive/data/component/text_generation.py up to 0.13.0).
    """
    past = total - length + (0 if remainder == "drop-last" else 1)
    starts = np.arange(0, max(0, past), step, dtype=np.int64)
    spans = np.stack([starts, starts + length], 1)
    following = len(starts) * step
    # What overlaps with the window before was learnt there.
    if remainder == "keep" and total - following > length - step:
        return np.concatenate([spans, [[following, total]]])
    return spans


def _lines(spans: Spans, length: int, min_length: int | None) -> Spans:
    """Return each row's first tokens, of rows that are long enough."""
    lengths = spans[:, 1] - spans[:, 0]
    first = np.stack([spans[:, 0], spans[:, 0] + np.minimum(lengths, length)], 1)
    long_enough: Spans = first[lengths >= (min_length or 0)]
    return long_enough


def _drawn(wanted: Sequences, length: int, bounds: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the spans of drawn rows, or of full blocks that begin with them."""
    random = Random(wanted.seed)  # noqa: S311
    for _ in range(wanted.limit or 0):
        for _ in range(wanted.retries):
            row = random.randint(0, len(bounds) - 2)
            begin = int(bounds[row])
            # A block goes on with the rows after; a line ends with its row.
            joins = wanted.form == "random-blocks"
            end = int(bounds[-1] if joins else bounds[row + 1])
            if end - begin >= (length if joins else wanted.min_length or 0):
                yield begin, min(end, begin + length)
                break


def hold_out(count: int, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of sequences to train on and of those held out, both shuffled.

    `size` is a share below 1, rounded up, or a count. As `Dataset.train_test_split(test_size,
    shuffle=True, seed)` of the library datasets (arrow_dataset.py).
    """
    held = math.ceil(size * count) if size < 1 else int(size)
    order = np.random.default_rng(seed).permutation(count)
    return order[held:], order[:held]


def note_cuts(stream: TokenRows, wanted: Sequences, length: int) -> None:
    """Note the rows of a stream that are cut at `length` tokens, as flaws of theirs.

    They are no faults: the recipe asks for it.
    """
    if wanted.form != "lines":
        return
    lengths = stream.lengths[: wanted.limit]
    numbers = stream.numbers()
    for i in np.flatnonzero(lengths > length):
        flaw = Flaw(f"longer than max_length {length}: its end is cut", int(lengths[i]), False)
        stream.flawed.append(Flawed(int(numbers[i]), flaw, cut=True))


def left_out(parts: Sequence[SequenceRows], wanted: Sequences) -> int | None:
    """Return how many tokens at the end of a stream are in no sequence; None of forms without end.

    `parts` are the sequences of the stream: those to train on, and those held out.
    """
    if wanted.form not in ("blocks", "windows"):
        return None
    ends = [int(part.spans[:, 1].max()) for part in parts if len(part)]
    return int(parts[0].stream.lengths.sum()) - max(ends, default=0)


def has_masked(rows: Sequence[Tokens]) -> bool:
    """Tell whether some of these rows have tokens that are not attended to."""
    if isinstance(rows, TokenRows):
        return False
    if isinstance(rows, SequenceRows) and rows.masked is None:
        return False
    return any(row.attended is not None for row in rows)
