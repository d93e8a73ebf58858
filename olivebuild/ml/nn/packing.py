"""How the rows of a batch lie in a micro-batch: end to end, without padding, and a beginning that
rows share only once.

A causal model sees nothing but what stands before a token, so rows that begin alike (a system
prompt, an instruction) have the
same values there, and one copy serves all of them; its gradient is the sum of theirs. Only who
attends to whom has to be known
(`Rows`, read by ml/nn/attention.py). Positions count from each row's own beginning. Knows nothing
of
models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from olivebuild.ml.data.examples import Tokens

ALIKE = 0.6
"""Rows whose lengths differ by more than this factor are attended to in separate groups: padding
costs its square there.
"""


@dataclass(frozen=True)
class Group:
    """Some rows, padded: the places of their queries [rows, q] and of all that they see [rows, k].

    `at`, `key_at`: where in its row each of them stands; the number of keys where it is padding.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    at: torch.Tensor
    key_at: torch.Tensor
    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    """Those that were asked for, since layers of one window share theirs."""

    def mask(self, window: int | None) -> torch.Tensor:
        """What each query sees, [rows, 1, q, k].

        `window`: how many tokens back it does, itself included.
        """
        depth = self.keys.shape[1]
        window = depth if window is None else min(window, depth)
        if window not in self.masks:
            # A padded query sees everything, since nothing at all would give NaN; a padded key is
            # seen by none but those.
            at, key_at = self.at[:, None, :, None], self.key_at[:, None, None, :]
            mask = key_at <= at
            self.masks[window] = (
                mask if window == depth else mask & ((at - key_at < window) | (at == depth))
            )
        return self.masks[window]


@dataclass(frozen=True)
class Rows:
    """Who attends to whom.

    `lengths`: of each row, how many tokens are its own and how many it sees in all.

    `keys`: the places of all that each row sees, row after row; None if that is the order in which
    they lie.
    """

    keys: torch.Tensor | None
    starts: torch.Tensor
    key_starts: torch.Tensor
    longest: int
    longest_keys: int
    groups: tuple[Group, ...] = ()
    back: torch.Tensor | None = None
    """Where each token's output lies among the groups' padded ones."""
    alike: int = 0
    """How many rows these are, if all are whole and of the one length that most rows have; else 0.
    """
    flash: bool = False
    """FlashAttention 4 attends to them."""


@dataclass(frozen=True)
class Packed:
    """A micro-batch: ids and positions [1, tokens], and for each counted token the place that
    predicts it.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    rows: Rows


@dataclass(frozen=True)
class Padded:
    """A micro-batch of left-padded rows, for models whose attention takes no other: [rows, length]
    and the last positions' targets.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


def micro_batches(batch: Sequence[Tokens], limit: int) -> Iterator[list[Tokens]]:
    """The rows of a batch in bins of at most `limit` tokens: best fit, longest first.

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
    share: bool,
    grouped: bool,
    usual: int = 0,
    flash: bool = False,
) -> Packed:
    """Lay rows out.

    `share`: beginnings once; `grouped`: also as padded groups, for attention that takes rows of one
    length.

    `usual`: the length that most rows have, if there is one. `flash`: FlashAttention 4 is to attend
    to them.
    """
    order = (
        sorted(range(len(batch)), key=lambda i: batch[i].ids.tolist())
        if share
        else range(len(batch))
    )
    ids, positions, keys, starts, predict, targets = [], [], [], [0], [], []
    path, before, count = np.zeros(0, np.int64), np.zeros(0, np.int32), 0
    for index in order:
        row = batch[index]
        common = _common(before, row.ids) if share else 0
        own = len(row) - common
        path = np.concatenate([path[:common], np.arange(count, count + own)])
        before, count = row.ids, count + own
        counted = np.flatnonzero(row.counted[1:])
        predict.append(path[counted])
        targets.append(row.ids[1:][counted])
        keys.append(path)
        if own:
            ids.append(row.ids[common:])
            positions.append(np.arange(common, len(row)))
            starts.append(count)
        else:
            # The same row again: its tokens are there, only its labels are counted once more.
            keys.pop()
    rows = _rows(keys, starts, device, plain=count == sum(map(len, keys)), grouped=grouped)
    if rows.keys is None and all(len(row) == usual for row in batch):
        rows = replace(rows, alike=len(batch))
    rows = replace(rows, flash=flash)
    return Packed(
        _tensor(np.concatenate(ids), device)[None],
        _tensor(np.concatenate(positions), device)[None],
        _tensor(np.concatenate(predict), device),
        _tensor(np.concatenate(targets), device),
        rows,
    )


def _common(before: np.ndarray, ids: np.ndarray) -> int:
    """How many tokens two rows begin with alike."""
    length = min(len(before), len(ids))
    differs = np.flatnonzero(before[:length] != ids[:length])
    return int(differs[0]) if len(differs) else length


def _rows(
    keys: list[np.ndarray], starts: list[int], device: torch.device, *, plain: bool, grouped: bool
) -> Rows:
    own = np.diff(starts)
    seen = np.array([len(k) for k in keys])
    groups, back = _groups(keys, starts, device) if grouped else ((), None)
    return Rows(
        None if plain else _tensor(np.concatenate(keys), device),
        _tensor(np.array(starts), device, np.int32),
        _tensor(np.array([0, *np.cumsum(seen)]), device, np.int32),
        int(own.max()),
        int(seen.max()),
        groups,
        back,
    )


def _groups(
    keys: list[np.ndarray], starts: list[int], device: torch.device
) -> tuple[tuple[Group, ...], torch.Tensor]:
    own = np.diff(starts)
    order = sorted(range(len(keys)), key=lambda i: (-len(keys[i]), i))
    members: list[list[int]] = []
    for i in order:
        if not members or len(keys[i]) < ALIKE * len(keys[members[-1][0]]):
            members.append([])
        members[-1].append(i)
    groups, back, offset = [], np.zeros(starts[-1], np.int64), 0
    for rows in members:
        width, depth = max(int(own[i]) for i in rows), len(keys[rows[0]])
        queries, places = (
            np.zeros((len(rows), width), np.int64),
            np.zeros((len(rows), depth), np.int64),
        )
        at, key_at = np.full((len(rows), width), depth), np.full((len(rows), depth), depth)
        for r, i in enumerate(rows):
            n, total = int(own[i]), len(keys[i])
            queries[r, :n] = np.arange(starts[i], starts[i + 1])
            at[r, :n] = np.arange(total - n, total)
            places[r, :total], key_at[r, :total] = keys[i], np.arange(total)
            back[starts[i] : starts[i + 1]] = offset + r * width + np.arange(n)
        groups.append(
            Group(
                _tensor(queries, device),
                _tensor(places, device),
                _tensor(at, device),
                _tensor(key_at, device),
            )
        )
        offset += queries.size
    return tuple(groups), _tensor(back, device)


def _tensor(values: np.ndarray, device: torch.device, dtype: type = np.int64) -> torch.Tensor:
    given = torch.from_numpy(np.ascontiguousarray(values, dtype=dtype))
    # From memory that may be swapped, a copy waits for all that the device was told before.
    return (given.pin_memory() if device.type == "cuda" else given).to(device, non_blocking=True)


def pad(batch: Sequence[Tokens], device: torch.device) -> Padded:
    """Left-padded, so that all rows end at the right edge; -100 counts not."""
    length = max(map(len, batch))
    keep = max(1, max(len(row) - max(1, row.first) for row in batch))
    ids, mask = np.zeros((len(batch), length), np.int64), np.zeros((len(batch), length), np.int64)
    targets = np.full((len(batch), keep), -100, np.int64)
    for r, row in enumerate(batch):
        ids[r, length - len(row) :], mask[r, length - len(row) :] = row.ids, 1
        known = np.where(row.counted, row.ids, -100)[1:][-keep:]
        if len(known):
            targets[r, -len(known) :] = known
    # Its own, also of a padded row: where positions are counted from the padding, a model may take
    # the row for a longer one.
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    return Padded(*(_tensor(x, device) for x in (ids, mask, positions, targets)))
