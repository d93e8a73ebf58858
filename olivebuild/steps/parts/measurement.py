"""A node of a benchmark to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olivebuild.api.step import Edge, Node, step_of


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A node of a benchmark to be: what it measures, and the role by which the table reads it.

    `part` follows the target's name in the node's; `output` is that which the table reads.
    """

    part: str
    role: str
    kind: str
    fields: Mapping[str, object]
    inputs: tuple[Edge, ...]
    output: str = ""

    def node(self, owner: str) -> Node:
        step = step_of(self.kind)
        assert step is not None
        fields = step.fields.model_validate(self.fields)
        return step.node(f"{owner}:{self.part}", owner, fields, self.inputs)
