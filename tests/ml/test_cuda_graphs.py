"""Batches of a CUDA graph's fixed shape: no row loses anything, and no padding counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn import cuda_graphs
from olivebuild.ml.nn.cuda_graphs import Shape, numbers_of, uniform

token_rows = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=12), min_size=1, max_size=5)


@given(token_rows, st.integers(0, 11))
def test_each_counted_token_stands_behind_its_own_row(rows: list[list[int]], prompt: int) -> None:
    batch = [Tokens(np.array(ids, np.int32), np.arange(len(ids)) >= prompt) for ids in rows]
    shape = Shape(len(batch), 12, 64)
    numbers = torch.from_numpy(numbers_of(batch, shape))
    ids, predict, targets = numbers.split([shape.tokens, shape.counted, shape.counted])
    part = uniform(ids, predict, targets, shape)
    expected = [(ids[:i], ids[i]) for ids in rows for i in range(max(1, prompt), len(ids))]
    counted = part.targets >= 0
    assert int(counted.sum()) == len(expected)
    told = []
    for place, target in zip(part.predict[counted], part.targets[counted], strict=True):
        start = int(place) - int(part.positions[0, place])
        told.append((part.ids[0, start : int(place) + 1].tolist(), int(target)))
    assert told == expected


def test_lengths_are_padded_to_few() -> None:
    sizes = [cuda_graphs._padded(count, 32) for count in range(1, 1025)]
    assert sorted(set(sizes)) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(count <= size for count, size in enumerate(sizes, 1))


def test_each_rounding_of_a_base_has_graphs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph has the addresses of the weights that it was captured with."""
    made = list[int]()

    class Graph:
        def __init__(self, forward: Any, _shape: Shape) -> None:
            self.turn = forward.turn
            made.append(self.turn)

        def fill(self, *_: object) -> None:
            pass

        def capture(self, _pool: object) -> None:
            pass

        def replay(self) -> torch.Tensor:
            return torch.tensor(float(self.turn))

    class Forward:
        model, turn, scale, most_tokens = SmallModel(), 0, 1.0, 4096

    monkeypatch.setattr(cuda_graphs, "_Graph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    forward: Any = Forward()
    graphs = cuda_graphs.StepGraphs(forward)
    batch = [Tokens(np.arange(5, dtype=np.int32), np.arange(5) >= 2)]
    found = []
    for turn in (0, 1, 0, 1):
        forward.turn = turn
        loss = graphs.backward(batch, 3)
        assert loss is not None
        found.append(float(loss))
    assert found == [0, 1, 0, 1]
    assert made == [0, 1]


class SmallModel(torch.nn.Linear):
    """As far as it is asked."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=10))
