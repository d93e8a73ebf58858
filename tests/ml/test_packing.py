"""Micro-batches: no row is lost, none is cut, what rows begin with alike lies there once, and each
token sees what it saw alone.
"""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.packing import micro_batches, pack, pad
from olivebuild.ml.training.schedule import Schedule, batches_of, lr_factor, steps_of

CPU = torch.device("cpu")
token_rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


def row(ids: list[int], prompt: int = 0) -> Tokens:
    return Tokens(np.array(ids, np.int32), np.arange(len(ids)) >= prompt)


@given(token_rows, st.integers(1, 20))
def test_bins_hold_each_row_once_and_no_more_than_fits(rows: list[list[int]], limit: int) -> None:
    batch = [row(ids) for ids in rows]
    bins = list(micro_batches(batch, limit))
    assert sorted(id(r) for b in bins for r in b) == sorted(id(r) for r in batch)
    assert all(sum(map(len, b)) <= limit or len(b) == 1 for b in bins)


def test_best_fit_fills_bins() -> None:
    bins = list(micro_batches([row([0] * n) for n in (6, 5, 4, 3, 2)], 10))
    assert [sorted(map(len, b)) for b in bins] == [[4, 6], [2, 3, 5]]


def seen_by(batch: list[Tokens], share: bool, window: int | None = None) -> list[list[int]]:
    """For each counted token, in order of the packed rows: the ids that its prediction sees, by the
    groups' masks.
    """
    part = pack(batch, CPU, share_prefixes=share, padded_groups=True)
    assert part.rows.back is not None
    flat, masks = [], []
    for group in part.rows.groups:
        rows, width = group.queries.shape
        flat += [group.keys[r] for r in range(rows) for _ in range(width)]
        masks += [group.mask(window)[r, 0, q] for r in range(rows) for q in range(width)]
    result = []
    for place in part.predict.tolist():
        at = int(part.rows.back[place])
        result.append(part.ids[0][flat[at][masks[at]]].tolist())
    return result


@given(token_rows, st.booleans())
def test_each_prediction_sees_its_own_row_up_to_itself(rows: list[list[int]], share: bool) -> None:
    batch = [row(ids) for ids in rows]
    if not any(r.labels for r in batch):
        return
    order = sorted(rows) if share else rows
    assert seen_by(batch, share) == [ids[: i + 1] for ids in order for i in range(len(ids) - 1)]


@given(token_rows, st.integers(1, 5))
def test_a_window_hides_what_lies_further_back(rows: list[list[int]], window: int) -> None:
    batch = [row(ids) for ids in rows]
    if any(r.labels for r in batch):
        assert seen_by(batch, False, window) == [
            ids[max(0, i + 1 - window) : i + 1] for ids in rows for i in range(len(ids) - 1)
        ]


@given(token_rows)
def test_shared_beginnings_lie_there_once(rows: list[list[int]]) -> None:
    part = pack([row(ids) for ids in rows], CPU, share_prefixes=True, padded_groups=False)
    beginnings = {tuple(ids[:i]) for ids in rows for i in range(1, len(ids) + 1)}
    assert part.ids.numel() == len(beginnings)
    assert part.targets.numel() == sum(len(ids) - 1 for ids in rows)


@given(token_rows, st.booleans())
def test_varlen_places_agree_with_the_rows(rows: list[list[int]], share: bool) -> None:
    part = pack([row(ids) for ids in rows], CPU, share_prefixes=share, padded_groups=False)
    keys = part.rows.keys if part.rows.keys is not None else torch.arange(part.ids.numel())
    found = [
        part.ids[0][keys[a:b]].tolist()
        for a, b in zip(part.rows.key_starts[:-1], part.rows.key_starts[1:], strict=True)
    ]
    # A row that is another's beginning, or the same again, has nothing of its own to compute.
    assert found == (
        [ids for i, ids in enumerate(sorted(rows)) if ids not in sorted(rows)[:i]]
        if share
        else rows
    )
    ends = part.rows.starts[1:] - part.rows.starts[:-1]
    assert part.rows.longest == int(ends.max())


def test_padded_rows_end_at_the_right() -> None:
    part = pad([row([1, 2, 3], 2), row([4], 0)], CPU)
    assert part.ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert part.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert part.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    # Nothing stands before the second row's only token that could predict it.
    assert part.targets.tolist() == [[3], [-100]]


def test_orders_and_rates() -> None:
    assert steps_of(10, 4, 2) == 6
    epoch = islice(batches_of(10, 4, 7), 3)
    assert sorted(chain(*epoch)) == list(range(10))
    shuffled = Schedule(
        count=10, batch=4, steps=6, lr=1.0, warmup=0, scheduler="linear", decay=0, seed=7
    )
    assert list(shuffled.batches(2)) == list(shuffled.batches())[2:]
    in_order = Schedule(
        count=10, batch=4, steps=3, lr=1.0, warmup=1, scheduler="stable", decay=1, seed=None
    )
    assert list(in_order.batches()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [in_order.rate(s) for s in range(3)] == [0.5, 1.0, 0.5]
    assert [lr_factor(s, 4, 0, "linear") for s in range(5)] == [1, 0.75, 0.5, 0.25, 0]
