"""Layout of a batch's rows in micro-batches: end to end, without padding, common beginnings once.

A causal model sees nothing but the tokens before a token. So rows that begin alike (a system
prompt, an instruction) have the same values there, and one copy serves all of them; its gradient is
the sum of theirs. Only the keys that each query attends to have to be known (`Rows`, read by
ml/nn/attention.py). Positions count from each row's own beginning. Models are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from olivebuild.ml.data.examples import Tokens

ALIKE = 0.6
"""Factor of lengths beyond which rows are attended to in separate groups.

The cost of padding is quadratic there.
"""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some rows, padded: the places of their queries [rows, q] and of their keys [rows, k].

    `at` and `key_at` are the positions of those in their rows; of padding, the number of keys.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    at: torch.Tensor
    key_at: torch.Tensor
    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    """Masks by window, since layers of one window share theirs."""

    def mask(self, window: int | None) -> torch.Tensor:
        """Return the keys that each query sees, bool [rows, 1, q, k].

        `window` is the number of last tokens that a query sees, itself included.
        """
        depth = self.keys.shape[1]
        window = depth if window is None else min(window, depth)
        if window not in self.masks:
            # A padded query sees everything, since a query without keys gives NaN; only padded
            # queries see a padded key.
            at, key_at = self.at[:, None, :, None], self.key_at[:, None, None, :]
            mask = key_at <= at
            self.masks[window] = (
                mask if window == depth else mask & ((at - key_at < window) | (at == depth))
            )
        return self.masks[window]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Queries and keys of the rows of a micro-batch, for attention.

    `keys` are the places of all tokens that each row sees, row after row; None if that is the order
    in which they lie. `starts` and `key_starts`, int32 [rows + 1], are the bounds of each row's
    queries and keys.
    """

    keys: torch.Tensor | None
    starts: torch.Tensor
    key_starts: torch.Tensor
    longest: int
    longest_keys: int
    groups: tuple[Group, ...] = ()
    back: torch.Tensor | None = None
    """The place of each token's output among the groups' padded ones."""
    alike: int = 0
    """The number of rows, if all are complete and have the length that most rows have; else 0."""
    flash: bool = False
    """FlashAttention 4 attends to them."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A micro-batch without padding: ids and positions, int64 [1, tokens].

    `targets` are the counted tokens, and `predict` the places that predict them, [counted tokens].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class Padded:
    """A micro-batch of left-padded rows, [rows, length], for models that take no packed ones.

    `targets`, [rows, kept], are those of the last positions; -100 where none is counted.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


def micro_batches(batch: Sequence[Tokens], limit: int) -> Iterator[list[Tokens]]:
    """Yield the rows of a batch in bins of at most `limit` tokens: best fit, longest first.

    A row longer than that has a bin to itself.
    """
    bins: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(batch)), key=lambda i: (-len(batch[i]), i)):
        length = len(batch[index])
        fitting = [b for b, (room, _) in enumerate(bins) if room >= length]
        if fitting:
            best = min(fitting, key=lambda b: bins[b][0])
            bins[best] = (bins[best][0] - length, [*bins[best][1], index])
        else:
            bins.append((max(0, limit - length), [index]))
    # In the batch's own order, so that sums don't depend on how ties were broken.
    return ([batch[i] for i in sorted(rows)] for _, rows in sorted(bins, key=lambda b: min(b[1])))


def pack(
    batch: Sequence[Tokens],
    device: torch.device,
    *,
    share_prefixes: bool,
    padded_groups: bool,
    uniform_length: int = 0,
    flash: bool = False,
) -> Packed:
    """Lay rows out end to end.

    `share_prefixes`: common beginnings lie there once. `padded_groups`: groups are made as well,
    for attention that takes rows of one length. `uniform_length` is the length that most rows have,
    if there is one. `flash`: FlashAttention 4 is to attend to them.
    """
    order = (
        sorted(range(len(batch)), key=lambda i: batch[i].ids.tolist())
        if share_prefixes
        else range(len(batch))
    )
    ids, positions, keys, starts, predict, targets = [], [], [], [0], [], []
    path, before, count = np.zeros(0, np.int64), np.zeros(0, np.int32), 0
    for index in order:
        row = batch[index]
        common = _common(before, row.ids) if share_prefixes else 0
        new = len(row) - common
        path = np.concatenate([path[:common], np.arange(count, count + new)])
        before, count = row.ids, count + new
        counted = np.flatnonzero(row.counted[1:])
        predict.append(path[counted])
        targets.append(row.ids[1:][counted])
        keys.append(path)
        if new:
            ids.append(row.ids[common:])
            positions.append(np.arange(common, len(row)))
            starts.append(count)
        else:
            # The same row again: its tokens lie there, only its labels are counted once more.
            keys.pop()
    in_order = count == sum(map(len, keys))
    rows = _rows(keys, starts, device, in_order=in_order, padded_groups=padded_groups)
    if rows.keys is None and all(len(row) == uniform_length for row in batch):
        rows = replace(rows, alike=len(batch))
    rows = replace(rows, flash=flash)
    return Packed(
        ids=_tensor(np.concatenate(ids), device)[None],
        positions=_tensor(np.concatenate(positions), device)[None],
        predict=_tensor(np.concatenate(predict), device),
        targets=_tensor(np.concatenate(targets), device),
        rows=rows,
    )


def _common(before: np.ndarray, ids: np.ndarray) -> int:
    """Return the number of first tokens that two rows have in common."""
    length = min(len(before), len(ids))
    differs = np.flatnonzero(before[:length] != ids[:length])
    return int(differs[0]) if len(differs) else length


def _rows(
    keys: list[np.ndarray],
    starts: list[int],
    device: torch.device,
    *,
    in_order: bool,
    padded_groups: bool,
) -> Rows:
    """Return rows by their keys' places and their queries' bounds; `in_order`: keys lie so."""
    key_counts = np.array([len(k) for k in keys])
    groups, back = _groups(keys, starts, device) if padded_groups else ((), None)
    return Rows(
        keys=None if in_order else _tensor(np.concatenate(keys), device),
        starts=_tensor(np.array(starts), device, np.int32),
        key_starts=_tensor(np.array([0, *np.cumsum(key_counts)]), device, np.int32),
        longest=int(np.diff(starts).max()),
        longest_keys=int(key_counts.max()),
        groups=groups,
        back=back,
    )


def _groups(
    keys: list[np.ndarray], starts: list[int], device: torch.device
) -> tuple[tuple[Group, ...], torch.Tensor]:
    """Return padded groups of rows, and each token's place among their outputs, [tokens]."""
    counts = np.diff(starts)
    groups, back, offset = [], np.zeros(starts[-1], np.int64), 0
    for rows in _by_length(keys):
        width, depth = max(int(counts[i]) for i in rows), len(keys[rows[0]])
        queries = np.zeros((len(rows), width), np.int64)
        places = np.zeros((len(rows), depth), np.int64)
        at, key_at = np.full((len(rows), width), depth), np.full((len(rows), depth), depth)
        for r, i in enumerate(rows):
            n, total = int(counts[i]), len(keys[i])
            queries[r, :n] = np.arange(starts[i], starts[i + 1])
            at[r, :n] = np.arange(total - n, total)
            places[r, :total], key_at[r, :total] = keys[i], np.arange(total)
            back[starts[i] : starts[i + 1]] = offset + r * width + np.arange(n)
        groups.append(
            Group(
                queries=_tensor(queries, device),
                keys=_tensor(places, device),
                at=_tensor(at, device),
                key_at=_tensor(key_at, device),
            )
        )
        offset += queries.size
    return tuple(groups), _tensor(back, device)


def _by_length(keys: list[np.ndarray]) -> list[list[int]]:
    """Return the rows in groups of similar lengths, longest first."""
    members: list[list[int]] = []
    for i in sorted(range(len(keys)), key=lambda i: (-len(keys[i]), i)):
        if not members or len(keys[i]) < ALIKE * len(keys[members[-1][0]]):
            members.append([])
        members[-1].append(i)
    return members


def _tensor(values: np.ndarray, device: torch.device, dtype: type = np.int64) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=dtype))
    # A copy from memory that may be swapped waits for all that the device was told before.
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def pad(batch: Sequence[Tokens], device: torch.device) -> Padded:
    """Lay rows out left-padded, so that all end at the right edge."""
    length = max(map(len, batch))
    keep = max(1, max(len(row) - max(1, row.first) for row in batch))
    ids, mask = np.zeros((len(batch), length), np.int64), np.zeros((len(batch), length), np.int64)
    targets = np.full((len(batch), keep), -100, np.int64)
    at = np.zeros((len(batch), length), np.int64)
    for r, row in enumerate(batch):
        start = length - len(row)
        ids[r, start:], mask[r, start:] = row.ids, 1 if row.attended is None else row.attended
        # Counted from the row's own beginning: counted from the padding, a model may take the row
        # for a longer one.
        at[r, start:] = np.arange(len(row))
        labels = np.where(row.counted, row.ids, -100)[1:][-keep:]
        if len(labels):
            targets[r, -len(labels) :] = labels
    return Padded(
        ids=_tensor(ids, device),
        mask=_tensor(mask, device),
        positions=_tensor(at, device),
        targets=_tensor(targets, device),
    )
