"""Origins of a benchmark's models: which of them each was made from, and what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from olivebuild.api.step import Edge, Ref, Target
from olivebuild.core.errors import RecipeError
from olivebuild.steps.adapter import AdapterFields
from olivebuild.steps.dataset import DatasetFields
from olivebuild.steps.moments import KIND
from olivebuild.steps.onnx import OnnxFields

ROUNDED = ("int4", "int8")


class Lineage:
    """What the models of a benchmark are made of, by the recipe."""

    def __init__(self, models: Sequence[Ref], targets: Mapping[str, Target]) -> None:
        self._models = [str(model) for model in models]
        self._targets = targets
        self.trained_on: dict[str, list[Ref]] = {
            name: list(self._training_rows(name)) for name in self._models
        }

    def fields(self) -> dict[str, dict[str, object]]:
        """Return for each model the fields of metrics/diagnostics/lineage.py, as JSON."""
        return {
            name: {
                "source": self._source(name),
                "trained_on": [side_of(ref) for ref in self.trained_on[name]],
                "precision": self._precision(name),
            }
            for name in self._models
        }

    def _source(self, name: str) -> str:
        """Return the nearest model of the benchmark that one was made from; "" for none."""
        for ancestor in self._ancestors(name):
            if ancestor != name and ancestor in self._models:
                return ancestor
        return ""

    def _precision(self, name: str) -> str:
        target = self._targets.get(name)
        match target.fields if target else None:
            case OnnxFields(model=Ref() as model, adapter=None, precision=precision) if (
                precision in ROUNDED and model.target in self._models
            ):
                return str(precision)
        return ""

    def _training_rows(self, name: str) -> Iterator[Ref]:
        """Yield the data sets by which a model was trained or rounded, each once."""
        refs: dict[str, Ref] = {}
        for ancestor in self._ancestors(name):
            target = self._targets.get(ancestor)
            match target.fields if target else None:
                case AdapterFields(data=Ref() as data) | OnnxFields(calibration=Ref() as data):
                    refs.setdefault(side_of(data), data)
        yield from refs.values()

    def _ancestors(self, name: str) -> Iterator[str]:
        """Yield a model and what it was made from, nearest first, adapters before their bases."""
        row, seen = [name], {name}
        while row:
            yield from row
            parents = [ref for each in row for ref in self._parents(each)]
            row = [ref for ref in dict.fromkeys(parents) if ref not in seen]
            seen.update(row)

    def _parents(self, name: str) -> list[str]:
        target = self._targets.get(name)
        if target is None:
            return []
        try:
            nodes = target.step.nodes(target, self._targets)
        except RecipeError:
            # It is raised again where the target's own nodes are made, with its place.
            return []
        # Moments are taken of a model that the target need not be made from.
        edges = [edge for node in nodes if node.kind != KIND for edge in node.edges]
        models = [e for e in edges if not e.sibling and "dataset" not in e.kinds]
        models.sort(key=lambda edge: "adapter" not in edge.kinds)
        return [edge.ref.target for edge in models if edge.ref.target != name]


def side_of(ref: Ref) -> str:
    """Return the name of the rows that are trained on: `tone`, also for `tone.train`."""
    return ref.target if ref.output in ("", "train") else str(ref)


def unguarded(
    train: Sequence[Ref], data: Sequence[Ref], targets: Mapping[str, Target]
) -> list[list[int]]:
    """Return [i, j, near] of the training and test rows that a split has not kept apart.

    A data set that holds rows out keeps its near-duplicates on one side. Where one says
    `near_duplicates: false`, its rows are alike by nature, and only equal ones count.
    """
    pairs = []
    for i, one in enumerate(train):
        for j, other in enumerate(data):
            target = targets.get(other.target)
            fields = target.fields if target else None
            apart = isinstance(fields, DatasetFields) and fields.test is None
            if one.target == other.target and one.output in ("", "train") and apart:
                continue
            near = not isinstance(fields, DatasetFields) or fields.near_duplicates
            pairs.append([i, j, int(near)])
    return pairs


def edges_of(role: str, refs: Sequence[Ref], output: str, field: str) -> list[Edge]:
    """Return the edges to data sets, `role[0]` ..., as read for the field of a recipe."""
    return [Edge(f"{role}[{i}]", ref, ("dataset",), output, (field,)) for i, ref in enumerate(refs)]
