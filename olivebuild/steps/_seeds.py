"""Copies of what is trained, and of all that is made from it, with other seeds: how far a figure
moves though nothing was changed.

The copies are nodes of the benchmark that asks for them. They have the keys that a recipe's own
targets with those seeds would have, so
each is trained once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from msgspec import structs

from olivebuild.api.step import Edge, Fields, Node, Ref, Target


def part(name: str, seed: int) -> str:
    return f"{name}.seed{seed}"


class Retraining:
    """`trained` are the targets, inputs first, that training has a part in and that `wanted` need,
    themselves among them.
    """

    def __init__(self, owner: str, wanted: Iterable[str], targets: Mapping[str, Target]) -> None:
        self._owner, self._targets = owner, targets
        self.trained: dict[str, Target] = {}
        for name in wanted:
            self._collect(name, ())

    def _collect(self, name: str, path: tuple[str, ...]) -> bool:
        target = self._targets.get(name)
        if target is None or name in path:
            # Unknown names and cycles are told where the graph is made.
            return False
        if name in self.trained:
            return True
        edges = [
            edge
            for node in target.step.nodes(target, self._targets)
            for edge in node.edges
            if not edge.sibling
        ]
        # All are asked: each may have targets to add.
        below = [
            self._collect(edge.ref.target, (*path, name))
            for edge in edges
            if "dataset" not in edge.kinds
        ]
        if _training(target.fields) or any(below):
            self.trained[name] = target
            return True
        return False

    def nodes(self, seed: int) -> list[Node]:
        """`owner:target.seedN` for each, trained with the recipe's own seed + N."""
        return [node for target in self.trained.values() for node in self._copy(target, seed)]

    def _copy(self, target: Target, seed: int) -> list[Node]:
        fields = target.fields
        if training := _training(fields):
            given = int(getattr(training, "seed", 0))
            fields = fields.model_copy(
                update={"training": training.model_copy(update={"seed": given + seed})}
            )
        found = []
        for node in target.step.nodes(replace(target, fields=fields), self._targets):
            own = part(target.name + node.name[len(target.name) :].replace(":", "."), seed)
            edges = tuple(self.edge(edge, seed, target.name) for edge in node.edges)
            found.append(
                structs.replace(
                    node,
                    name=f"{self._owner}:{own}",
                    target=self._owner,
                    edges=edges,
                    resources=target.resources,
                )
            )
        return found

    def edge(self, edge: Edge, seed: int, inside: str = "") -> Edge:
        """To the copy, where there is one; `inside` is the target that the edge belongs to."""
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
