"""Second moments of the inputs of a model's matrices on rows of a data set, layer by layer.

For a matrix W [n, k] whose input is x [k], they are the mean of x x^T over tokens, float32. Half of
them is stored: the lower triangle, row by row, [k (k + 1) / 2]. A token counts once for all rows
that begin alike up to it: its input is the same in each, and a question that all rows share would
otherwise outweigh what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olivebuild.ml.models.layered import LayeredModel

TOKENS = 1 << 17
"""Tokens from which on rows are left out, the others being at equal distances."""
BATCH = 4096
"""Tokens that are computed at once, padding included."""


def chosen(lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of the rows that are computed: all, or each so many-th."""
    step = max(1, -(-int(lengths.sum()) // TOKENS))
    return np.arange(0, len(lengths), step)


def batches_of(rows: Sequence[np.ndarray], most: int = BATCH) -> list[list[int]]:
    """Return the numbers of rows that are computed at once: those of like length together.

    Together they have `most` tokens, padding included; a longer row is computed alone.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    batches: list[list[int]] = []
    for number in order:
        longest = len(rows[batches[-1][0]]) if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > most:
            batches.append([])
        batches[-1].append(number)
    return batches


def first_seen(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return for each row which of its tokens, bool, no row before has after the same beginning."""
    after: dict[tuple[int, int], int] = {}
    masks = []
    for row in rows:
        mask, place = np.zeros(len(row), bool), -1
        for i, token in enumerate(row.tolist()):
            known = after.get((place, token))
            mask[i] = known is None
            place = after.setdefault((place, token), len(after))
        masks.append(mask)
    return masks


class Collector:
    """Collects the moments of one layer's inputs, in float64."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self.same: dict[str, str] = {}
        """Module -> the module whose input it shares; itself for the first one."""
        self._sums: dict[str, torch.Tensor] = {}
        self._inputs: list[tuple[str, torch.Tensor]] = []
        self._real = torch.empty(0, dtype=torch.bool)
        self._count = 0
        self._hooks = [
            module.register_forward_pre_hook(self._hook(name)) for name, module in modules.items()
        ]

    def begin(self, real: torch.Tensor) -> None:
        """Begin a batch of which the tokens `real` [rows, length] count."""
        self._inputs = []
        self._real = real
        self._count += int(real.sum())

    def _hook(self, name: str) -> Callable[..., None]:
        def collect(_: Any, args: tuple[Any, ...]) -> None:
            x = args[0]
            for other, known in self._inputs:
                if known is x:
                    self.same.setdefault(name, other)
                    return
            self._inputs.append((name, x))
            self.same.setdefault(name, name)
            tokens = x[self._real.to(x.device)].float()
            product = (tokens.T @ tokens).to("cpu", torch.float64)
            self._sums[name] = self._sums[name] + product if name in self._sums else product

        return collect

    def end(self) -> dict[str, np.ndarray]:
        """Return the lower triangle of each input's moments, by its first module."""
        for hook in self._hooks:
            hook.remove()
        halves = {}
        for name in list(self._sums):
            mean = self._sums.pop(name).numpy() / max(1, self._count)
            halves[name] = mean[np.tril_indices(len(mean))].astype(np.float32)
        return halves


def collect(
    model: LayeredModel, rows: Sequence[np.ndarray], scratch: Path
) -> Iterator[tuple[dict[str, str], dict[str, np.ndarray]]]:
    """Yield layer by layer, then of the head: weight -> name of its moments, and name -> half.

    What goes from layer to layer is in a file, so that memory is that of a layer.
    """
    batches, starts = batches_of(rows), np.cumsum([0, *map(len, rows)])
    counted = first_seen(rows)
    hidden: Any = None
    for number in range(len(model.layers) + 1):
        modules = model.linear_modules(number)
        if not modules:
            continue
        collector = Collector(modules)
        with model.layer(number):
            for batch in batches:
                ids = _padded(rows, batch, np.int64)
                collector.begin(_padded(counted, batch, np.bool_))
                before = _stored(hidden, starts, batch, ids.shape) if number else None
                out = model.compute(number, ids, before)
                if number == len(model.layers):
                    # Its hook stands before the one that ends the pass.
                    continue
                if hidden is None:
                    shape = (int(starts[-1]), out.shape[-1])
                    hidden = np.memmap(scratch / "hidden", np.float32, "w+", shape=shape)
                for row, i in enumerate(batch):
                    hidden[starts[i] : starts[i + 1]] = out[row, : len(rows[i])].numpy()
        names = {
            weight: _name(model, modules[first])
            for module, first in collector.same.items()
            for weight in model.names_of(modules[module])
        }
        halves = {_name(model, modules[n]): half for n, half in collector.end().items()}
        yield names, halves


def _name(model: LayeredModel, module: Any) -> str:
    """Return the name of a matrix's moments: that of its weight."""
    return min(model.names_of(module), default="")


def _padded(rows: Sequence[np.ndarray], batch: list[int], dtype: Any) -> torch.Tensor:
    """Return rows with zeros up to the length of the longest, [rows, length].

    No token attends to one that comes later, so padding changes nothing before it.
    """
    out = np.zeros((len(batch), len(rows[batch[0]])), dtype)
    for row, i in enumerate(batch):
        out[row, : len(rows[i])] = rows[i]
    return torch.from_numpy(out)


def _stored(
    hidden: np.ndarray, starts: np.ndarray, batch: list[int], shape: tuple[int, ...]
) -> torch.Tensor:
    """Return what the layer before gave for a batch, zeros for padding."""
    out = np.zeros((*shape, hidden.shape[1]), np.float32)
    for row, i in enumerate(batch):
        out[row, : starts[i + 1] - starts[i]] = hidden[starts[i] : starts[i + 1]]
    return torch.from_numpy(out)
