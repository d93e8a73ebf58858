"""Copies, with other seeds, of what is trained and of all that is made from it.

They show how far a metric moves though nothing was changed. The copies are nodes of the benchmark
that asks for them. They have the keys that targets of a recipe with those seeds would have, so
that each is trained once for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from msgspec import structs

from olivebuild.api.step import Edge, Fields, Node, Ref, Target


def part(name: str, seed: int) -> str:
    return f"{name}.seed{seed}"


class Retraining:
    """The targets to train again for a benchmark.

    `trained`: those of the `wanted` targets and their inputs that depend on training, inputs first.
    """

    def __init__(self, owner: str, wanted: Iterable[str], targets: Mapping[str, Target]) -> None:
        self._owner, self._targets = owner, targets
        self.trained: dict[str, Target] = {}
        for name in wanted:
            self._collect(name, ())

    def _collect(self, name: str, path: tuple[str, ...]) -> bool:
        """Add a target, after its inputs, if it depends on training; return whether it does."""
        target = self._targets.get(name)
        if target is None or name in path:
            # Unknown names and cycles are reported where the graph is made.
            return False
        if name in self.trained:
            return True
        is_trained = _training(target.fields) is not None
        for node in target.step.nodes(target, self._targets):
            for edge in node.edges:
                if edge.sibling or "dataset" in edge.kinds:
                    continue
                # All inputs are collected, also when the first is trained: each may add targets.
                is_trained |= self._collect(edge.ref.target, (*path, name))
        if is_trained:
            self.trained[name] = target
        return is_trained

    def nodes(self, seed: int) -> list[Node]:
        """Return `owner:target.seedN` for each target, trained with the recipe's seed + N."""
        return [node for target in self.trained.values() for node in self._copy(target, seed)]

    def _copy(self, target: Target, seed: int) -> list[Node]:
        fields = target.fields
        if training := _training(fields):
            new_seed = int(getattr(training, "seed", 0)) + seed
            fields = fields.model_copy(
                update={"training": training.model_copy(update={"seed": new_seed})}
            )
        nodes = []
        for node in target.step.nodes(replace(target, fields=fields), self._targets):
            name = part(target.name + node.name[len(target.name) :].replace(":", "."), seed)
            edges = tuple(self.edge(edge, seed, target.name) for edge in node.edges)
            nodes.append(
                structs.replace(
                    node,
                    name=f"{self._owner}:{name}",
                    target=self._owner,
                    edges=edges,
                    resources=target.resources,
                )
            )
        return nodes

    def edge(self, edge: Edge, seed: int, inside: str = "") -> Edge:
        """Return an edge of the target `inside` to the copy of its input, where there is one."""
        if edge.sibling:
            return structs.replace(
                edge, ref=Ref(self._owner), sibling=part(f"{inside}.{edge.sibling}", seed), field=()
            )
        if source := self.trained.get(edge.ref.target):
            output = edge.ref.output or (
                edge.output if edge.output in source.step.outputs(source.fields) else ""
            )
            return structs.replace(
                edge, ref=Ref(self._owner), sibling=part(source.name, seed), output=output, field=()
            )
        return structs.replace(edge, field=("models",))


def _training(fields: Fields) -> Fields | None:
    training = getattr(fields, "training", None)
    return (
        training if isinstance(training, Fields) and not getattr(fields, "source", None) else None
    )
