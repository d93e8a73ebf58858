"""Scales of rounded weights, tuned end to end so that a model answers as it did before rounding.

Levels and zero points stay. What is minimised is the Kullback-Leibler divergence of the next
token's distribution from that of the model before, over the tokens that moments are collected on.
Chen et al. 2024, "EfficientQAT", https://arxiv.org/abs/2407.11062, section 3.3 (end-to-end training
of quantisation parameters), with the model before as teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from olivebuild.ml.kernels import gptq
from olivebuild.ml.kernels.blockwise import STORED, widen
from olivebuild.ml.onnx.calibration.moments import batches_of, first_seen
from olivebuild.ml.onnx.skeleton import Quantised, TensorRecipe, stacked_rows
from olivebuild.steps.parts.conversion_options import Tuning

TOKENS = 1024
"""Tokens that are computed at once, padding included."""
WARM_UP = 5
"""Steps until the rate is reached. It falls to `LAST` of it linearly then."""
LAST = 0.02
BETAS = (0.9, 0.95)


class Untunable(Exception):
    """A matrix that is not computed as a module's product; the text names it."""


class Placed(NamedTuple):
    """Rows of a rounded tensor that are rows of a weight, one after the other."""

    tensor: str
    start: int
    end: int


@dataclass
class Matrix:
    """A rounded tensor [n, k] in blocks of `block` along k.

    `levels` [n, k] are less their zero points, int8 or int16. `scales` [n, k / block] are float32;
    `factors`, of the same shape, are what they are multiplied by less 1, None where they stay.
    """

    levels: torch.Tensor
    scales: torch.Tensor
    factors: torch.Tensor | None

    def scaled(self, start: int, end: int) -> torch.Tensor:
        """Return the scales of some rows as they are tuned so far."""
        scales = self.scales[start:end]
        return scales if self.factors is None else scales * (1 + self.factors[start:end])


def matrix_of(
    parts: tuple[bytes, bytes, bytes],
    shape: tuple[int, int],
    quantised: Quantised,
    device: torch.device,
    *,
    tuned: bool,
) -> Matrix:
    """Return a tensor [n, k] of its stored parts: levels, scales, zero points."""
    n, block = shape[0], quantised.block
    if quantised.bits == 4:
        rounded = gptq.of_stored(parts, quantised.scales, shape)
        raw, stored, zeros = rounded.levels, rounded.scales, rounded.zeros
        narrow: type[np.signedinteger[Any]] = np.int8
    else:
        raw, points = (np.frombuffer(part, np.uint8) for part in (parts[0], parts[2]))
        stored = np.frombuffer(parts[1], STORED[quantised.scales]).reshape(n, -1)
        middle = np.full(stored.shape, 128, np.uint8)
        zeros = points.reshape(n, -1) if points.size else middle
        narrow = np.int16 if points.size else np.int8
    levels = raw.astype(np.int16).reshape(n, -1, block) - zeros[:, :, None]
    wide = torch.from_numpy(widen(stored, quantised.scales)).to(device)
    factors = torch.zeros_like(wide, requires_grad=True) if tuned else None
    return Matrix(torch.from_numpy(levels.reshape(shape).astype(narrow)).to(device), wide, factors)


class Student:
    """A model that computes with rounded weights while `rounded` is entered."""

    def __init__(
        self,
        model: Any,
        recipes: Mapping[str, TensorRecipe],
        exact: Iterable[TensorRecipe],
        matrices: Mapping[str, Matrix],
        *,
        looks_up: bool = True,
    ) -> None:
        """Take a model's `recipes` of quantised tensors, by name, and those of the others.

        `looks_up`: the graph has an embedding. Raises Untunable.
        """
        self.model, self.matrices = model, matrices
        self.is_active = False
        placed = placed_in(recipes)
        also_exact = {name for recipe in exact for name in recipe.sources()}
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        left = dict(placed)
        for module in model.modules():
            own = names.get(id(getattr(module, "weight", None)), [])
            name = next((n for n in own if n in placed), "")
            if not name:
                continue
            embeds = isinstance(module, torch.nn.Embedding)
            if embeds and (name in also_exact or not looks_up):
                # Tokens are looked up in a copy that is not rounded, or before the graph.
                continue
            rows = sum(part.end - part.start for part in placed[name])
            if not (embeds or type(module) is torch.nn.Linear) or rows != len(module.weight):
                raise Untunable(name)
            forward = _looked_up if embeds else _multiplied
            factor = _factor_of(module, name) if embeds else 1.0
            vars(module).update(
                student=self, placed=placed[name], exact=module.forward, factor=factor
            )
            vars(module)["forward"] = MethodType(forward, module)
            left.pop(name, None)
        if left:
            raise Untunable(min(left))
        self._kept = torch.empty(0, dtype=torch.bool)
        model.get_output_embeddings().register_forward_pre_hook(self._keep)

    def logits(self, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Return what follows the tokens `kept` (bool, as `ids` [rows, length]), [kept, words]."""
        self._kept = kept
        return self.model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]

    def _keep(self, _: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # The head of a large vocabulary is a good part of a small model.
        return (args[0][self._kept], *args[1:])

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Let the model compute with rounded weights."""
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False


def placed_in(recipes: Mapping[str, TensorRecipe]) -> dict[str, list[Placed]]:
    """Return for each weight where its rows are in rounded tensors, in the order of rows.

    Raises Untunable for a weight whose first rows are not there, or some between.
    """
    found: dict[str, list[tuple[int, int, Placed]]] = {}
    for key, recipe in recipes.items():
        stacked = stacked_rows(recipe.view.transposed, cast=True)
        if stacked is None:
            raise Untunable(min(recipe.sources()))
        at = 0
        for name, start, end in stacked:
            found.setdefault(name, []).append((start, end, Placed(key, at, at + end - start)))
            at += end - start
    placed = {}
    for name, parts in found.items():
        end, kept = 0, []
        for start, stop, part in sorted(parts, key=lambda p: p[:2]):
            if stop <= end:
                # The same rows once more, as those of an embedding that is the head, too.
                continue
            if start != end:
                raise Untunable(name)
            kept.append(part)
            end = stop
        placed[name] = kept
    return placed


def _scales(module: Any) -> torch.Tensor:
    """Return the scales of a module's rows as they are tuned so far, [n, k / block]."""
    parts = [module.student.matrices[p.tensor].scaled(p.start, p.end) for p in module.placed]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _levels(module: Any) -> torch.Tensor:
    parts = [module.student.matrices[p.tensor].levels[p.start : p.end] for p in module.placed]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _multiplied(module: Any, x: torch.Tensor) -> torch.Tensor:
    if not module.student.is_active:
        return module.exact(x)  # type: ignore[no-any-return]
    scales = _scales(module)
    out: torch.Tensor = _Product.apply(x, scales, _levels(module))
    return out if module.bias is None else out + module.bias


def _looked_up(module: Any, ids: torch.Tensor) -> torch.Tensor:
    if not module.student.is_active:
        return module.exact(ids)  # type: ignore[no-any-return]
    scales = _scales(module)
    levels = _levels(module)[ids].to(scales.dtype)
    blocks = levels.unflatten(-1, (scales.shape[1], -1)) * scales[ids].unsqueeze(-1)
    values: torch.Tensor = blocks.flatten(-2)
    return values if module.factor == 1 else values * module.factor


@torch.no_grad()
def _factor_of(module: Any, name: str) -> float:
    """Return what an embedding multiplies each of its rows by, as Gemma's does.

    Raises Untunable for one that does anything else.
    """
    if type(module) is torch.nn.Embedding:
        return 1.0
    ids = torch.arange(min(64, len(module.weight)), device=module.weight.device)
    plain, found = module.weight[ids].double(), module.forward(ids).double()
    factor = float((plain * found).sum() / plain.square().sum().clamp(min=1e-300))
    if found.shape != plain.shape or not torch.allclose(found, factor * plain, rtol=1e-4):
        raise Untunable(name)
    return factor


def _values(levels: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[n, k] and [n, k / block] -> float32 [n, k]."""
    # Products of two number formats are many times slower on a processor.
    blocks = levels.to(scales.dtype).view(len(levels), scales.shape[1], -1)
    return blocks.mul_(scales.unsqueeze(-1)).view(levels.shape)


class _Product(torch.autograd.Function):
    """x W', with W computed of levels and scales for each product, also on the way back.

    So memory holds the values of one matrix at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scales: torch.Tensor, levels: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scales)
        ctx.levels = levels
        return functional.linear(x, _values(levels, scales))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, Any, None]:
        x, scales = ctx.saved_tensors
        by_x = by_scales = None
        if ctx.needs_input_grad[0]:
            by_x = grads[0] @ _values(ctx.levels, scales)
        if ctx.needs_input_grad[1]:
            by_values = grads[0].flatten(0, -2).T @ x.flatten(0, -2)
            by_values.mul_(ctx.levels.to(by_values.dtype))
            by_scales = by_values.view(len(scales), scales.shape[1], -1).sum(-1)
        return by_x, by_scales, None


class Report(NamedTuple):
    """The divergence a token over the first steps and over the last ones, in nats."""

    before: float
    after: float


def tune(
    student: Student,
    rows: Sequence[np.ndarray],
    settings: Tuning,
    tell: Callable[[int], None],
) -> Report:
    """Tune the factors of a student's matrices; `tell` gets the number of each step that is done.

    `rows` are tokens. A token counts once for all rows that begin alike up to it, as for moments;
    the last one of a row is followed by nothing that counts.
    """
    factors = [m.factors for m in student.matrices.values() if m.factors is not None]
    optimizer = torch.optim.Adam(factors, lr=settings.lr, betas=BETAS, eps=1e-10)
    masks = first_seen(rows)
    for mask in masks:
        mask[-1:] = False
    counted = [i for i, mask in enumerate(masks) if mask.any()]
    if not counted:
        return Report(0.0, 0.0)
    order, losses = _batches(counted, settings.batch, settings.seed), []
    for step in range(settings.steps):
        rate = min(1.0, (step + 1) / WARM_UP) * max(LAST, 1 - step / settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate
        numbers = next(order)
        total = sum(int(masks[i].sum()) for i in numbers)
        loss = 0.0
        for piece in batches_of([rows[i] for i in numbers], TOKENS):
            taken = [numbers[i] for i in piece]
            loss += _divergence(student, [rows[i] for i in taken], [masks[i] for i in taken], total)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        tell(step + 1)
    few = max(1, min(5, settings.steps // 2))
    return Report(float(np.mean(losses[:few])), float(np.mean(losses[-few:])))


def _batches(numbers: Sequence[int], batch: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of rows, all rows in a new order each time they are used up."""
    random = np.random.default_rng(seed)
    left: list[int] = []
    while True:
        while len(left) < batch:
            left += random.permutation(numbers).tolist()
        yield left[:batch]
        left = left[batch:]


def _divergence(
    student: Student, rows: list[np.ndarray], masks: list[np.ndarray], total: int
) -> float:
    """Return the divergence of rows, as a share of `total` tokens; its gradient is added up."""
    shape = (len(rows), len(rows[0]))
    ids, counts = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        ids[number, : len(row)], counts[number, : len(row)] = row, mask
    device = student.model.device
    # No token attends to one that comes later, so padding changes nothing before it.
    given, kept = torch.from_numpy(ids).to(device), torch.from_numpy(counts).to(device)
    if not counts.any():
        return 0.0
    with torch.no_grad():
        wanted = student.logits(given, kept).log_softmax(-1)
    with student.rounded():
        found = student.logits(given, kept).log_softmax(-1)
        loss = functional.kl_div(found, wanted, reduction="sum", log_target=True) / total
        loss.backward()
    return float(loss.detach())
