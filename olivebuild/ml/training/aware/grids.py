"""Which of a base's weights a conversion rounds, and how: read from the conversion itself.

The model builder is watched once, as for an `onnx` target (ml/onnx/skeleton_cache.py); a target of
the same options then finds the skeleton made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.core.fs import trees
from olivebuild.ml.nn.aware import layers
from olivebuild.ml.nn.aware.rounding import Grid
from olivebuild.ml.onnx.skeleton import Skeleton, TensorRecipe, stacked_rows
from olivebuild.ml.onnx.skeleton_cache import skeleton_of
from olivebuild.ml.weights.lora import open_input
from olivebuild.ml.weights.view import Weights
from olivebuild.steps.onnx import OnnxFields

if TYPE_CHECKING:
    from olivebuild.steps.adapter import AdapterFields

HINT = "leave `aware` out, or convert by other options"
Spans = list[tuple[int, int, Grid]]
"""(first row, end, grid) of parts of a weight."""


def see_rounded(job: Job, fields: AdapterFields, model: Any) -> None:
    """Let peft's `model` compute with weights as `aware` says that they will be rounded.

    Raises InputError where that can't be known or done.
    """
    assert fields.aware
    weights = open_input(job.store, job.input("model"))
    skeleton = skeleton_for(job, fields, weights)
    try:
        grids, apart = grids_of(skeleton, weights)
        moving, still = layers.see_rounded(model, grids, apart)
    except layers.Unseen as e:
        raise InputError(
            f"{e} is rounded by the conversion in a way that training can't see",
            where=job.where("aware"),
            hint=HINT,
        ) from None
    if not moving:
        raise InputError(
            "the conversion rounds no weight that the adapter changes",
            where=job.where("aware"),
            hint="leave `aware` out: there is nothing that the adapter could learn to make up for",
        )
    bits = sorted({grid.bits for grid in grids.values()})
    job.note(
        f"weights are seen as {' and '.join(f'int{n}' for n in bits)}: {moving} rounded with the "
        f"adapter in each pass, {still} once"
    )


def skeleton_for(job: Job, fields: AdapterFields, weights: Weights) -> Skeleton:
    """Return the skeleton of the base converted by the options of `aware`.

    Raises InputError where there is none.
    """
    assert fields.aware
    options = OnnxFields.model_validate({"model": str(fields.model), **fields.aware.options()})
    # A folder of its own: other processes of this training look at the same time.
    scratch = job.out.parent / f"rounding-{os.getpid()}"
    (scratch / "out").mkdir(parents=True)
    inner = _Within(job, job.action._replace(out=str(scratch / "out")))
    try:
        _, skeleton = skeleton_of(inner, options, weights)
    finally:
        trees.delete(job.out.parent, scratch)
    if skeleton.fallback_reason:
        raise InputError(
            f"it is not known which weights the conversion rounds: {skeleton.fallback_reason}",
            where=job.where("aware"),
            hint=HINT,
        )
    return skeleton


class _Within(Job):
    """A job with another place to work in, which speaks as the first one does."""

    def __init__(self, job: Job, action: Any) -> None:
        super().__init__(action, None)
        self._job = job

    def say(self, event: str, **data: object) -> None:
        self._job.say(event, **data)


def grids_of(skeleton: Skeleton, weights: Weights) -> tuple[dict[str, Grid], set[str]]:
    """Return the grid of each weight that is rounded, and those of which a copy is not.

    Raises layers.Unseen for a weight that is not rounded row by row, and all of it alike.
    """
    spans: dict[str, Spans] = {}
    exact: set[str] = set()
    by_name = weights.by_name
    for recipe in skeleton.tensors:
        if recipe.quantised is None:
            exact |= recipe.sources()
            continue
        stacked = stacked_rows(recipe.view.transposed)
        if stacked is None:
            raise layers.Unseen(min(recipe.sources()))
        for name, start, end in stacked:
            spans.setdefault(name, []).append((start, end, _grid(recipe, by_name[name].dtype)))
    grids = {name: _whole(name, parts, by_name[name].shape[0]) for name, parts in spans.items()}
    return grids, exact & grids.keys()


def _grid(recipe: TensorRecipe, stored: str) -> Grid:
    q = recipe.quantised
    assert q
    if q.algorithm != "default":
        raise layers.Unseen(min(recipe.sources()))
    return Grid(q.bits, q.block, q.symmetric, q.scales, recipe.dtype, stored)


def _whole(name: str, spans: Spans, rows: int) -> Grid:
    """Return the one grid of all rows of a weight. Raises layers.Unseen."""
    end = 0
    for start, stop, grid in sorted(spans, key=lambda span: span[:2]):
        if start > end or grid != spans[0][2]:
            raise layers.Unseen(name)
        end = max(end, stop)
    if end != rows:
        raise layers.Unseen(name)
    return spans[0][2]
