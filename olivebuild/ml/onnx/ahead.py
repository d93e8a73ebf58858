"""Tensors of ONNX models computed ahead of time: from merged weights while they are in memory.

A merge whose result ONNX models will be made of need not be read, or computed, again for them.
"""

from __future__ import annotations

import contextlib

from olivebuild.api.job import Job
from olivebuild.cache.blobs import Batch
from olivebuild.cache.memo import Blobs, Derived
from olivebuild.ml.onnx.assemble import compute
from olivebuild.ml.onnx.skeleton import NotFinite, TensorRecipe
from olivebuild.ml.onnx.skeleton_cache import known_recipes
from olivebuild.ml.weights.lora import Change
from olivebuild.ml.weights.merge import GroupSink, HoldingSink, MergeSink
from olivebuild.ml.weights.view import Weight, Weights


def sink_for(job: Job, batch: Batch, model: Weights) -> MergeSink:
    """Return the sink of a merge into `model`.

    Weights are stored where the result goes into build/; tensors of ONNX models are computed where
    their recipes are known.
    """
    weights_batch = batch if job.action.publish else None
    if recipes := known_recipes(job, model):
        return AheadOfTime(job, batch, weights_batch, recipes, model)
    return MergeSink(weights_batch)


class AheadOfTime(MergeSink):
    """A merge's sink that computes tensors of the ONNX models to come.

    `batch` takes these tensors, `weights_batch` the merged weights, if any.
    """

    def __init__(
        self,
        job: Job,
        batch: Batch,
        weights_batch: Batch | None,
        recipes: list[TensorRecipe],
        model: Weights,
    ) -> None:
        super().__init__(weights_batch)
        self._store = job.store
        self._tensors = batch
        self._recipes = recipes
        self._weights = model
        self._model = model.by_name
        self._blobs: dict[str, Blobs] = {}

    def groups(self, changed: list[Change]) -> list[list[Change]]:
        """Return the changes, those together that some recipe needs together."""
        of = {change.weight.name: [change] for change in changed}
        for recipe in self._recipes:
            together: list[list[Change]] = []
            for name in sorted(recipe.sources() & set(of)):
                if not any(of[name] is other for other in together):
                    together.append(of[name])
            for other in together[1:]:
                together[0].extend(other)
                of.update({change.weight.name: together[0] for change in other})
        return list({id(group): group for group in of.values()}.values())

    def open(self) -> GroupSink:
        return HoldingSink(self.batch, self.consume)

    def consume(self, merged: list[Weight]) -> None:
        """Compute all tensors that a group's merged weights are part of."""
        names, weights = {w.name for w in merged}, self._model | {w.name: w for w in merged}
        for recipe in self._recipes:
            if recipe.sources() & names:
                # A tensor that can't be converted is no fault of the merge; the conversion reports
                # it.
                with contextlib.suppress(NotFinite):
                    self._blobs[recipe.key(weights)] = compute(recipe, weights, self._tensors)

    def finish(self) -> None:
        """Remember the tensors. Raises InputError when the model changed meanwhile."""
        self._weights.check_unchanged(self._store)
        Derived(self._store).put(self._blobs)
