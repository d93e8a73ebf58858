"""What a step declares: its fields in the recipe, the inputs they name, and what it takes part in the key. Runs nothing.

A kind is a file in olivebuild/steps/ (or an entry point in the group `olivebuild.steps`) that holds `STEP`, an instance of a
subclass of `Step`. Its module imports nothing heavy; `run` does, in a worker process.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticSerializationUnexpectedValue, core_schema

from olivebuild.sources import Source

if TYPE_CHECKING:
    from olivebuild.gates import Gate
    from olivebuild.worker import Job

KINDS = ("model", "dataset", "adapter", "merged", "onnx", "benchmark", "command")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Fields(BaseModel):
    """The recipe fields of a kind. Unknown keys are errors, and numbers are not made from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Ref:
    """A reference to another target, `tone`, or to one of its outputs, `tone.train`."""

    target: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.target}.{self.output}" if self.output else self.target

    @classmethod
    def parse(cls, text: str) -> Ref:
        target, dot, output = text.partition(".")
        if not NAME.fullmatch(target) or (dot and not NAME.fullmatch(output)):
            raise ValueError(f"{text!r} is not the name of a target or of a target's output")
        return cls(target, output)

    @staticmethod
    def _dump(value: object) -> str:
        if not isinstance(value, Ref):
            # In a union this makes pydantic try the next type; a list of references has a text, too.
            raise PydanticSerializationUnexpectedValue("not a reference")
        return str(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        serialise = core_schema.plain_serializer_function_ser_schema(cls._dump)
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema(), serialization=serialise)


@dataclass(frozen=True)
class Edge:
    """An input: what it is to the step (`role`), the target it comes from and what kinds will do.

    `output` names the part of the target that is read when the reference names none: "train" for an adapter's data.
    `field` is the recipe field that made the edge, for error messages. `part` instead names another node of the same target.
    `by_tensors`: the step reads single tensors from the store, so an input that is not in build/ need not be put there.
    """

    role: str
    ref: Ref
    kinds: tuple[str, ...]
    output: str = ""
    field: tuple[str | int, ...] = ()
    part: str = ""
    by_tensors: bool = False


@dataclass(frozen=True)
class FileInput:
    """Files that the step reads: a path or a glob relative to the recipe. `label` goes into the key, the path does not.

    An `optional` one is taken literally, and counts only if it is a file.
    """

    label: str
    pattern: str
    field: tuple[str | int, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Node:
    """One action to be: what runs, with which fields and inputs. Most targets are one node; a benchmark is several.

    `name` is the target's, or `target:part` for the nodes that a target is made of.
    """

    name: str
    target: str
    step: Step
    fields: Fields
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True)
class Target:
    """A named artifact of the recipe."""

    name: str
    kind: str
    step: Step
    fields: Fields


class Step(ABC):
    """One kind of artifact. Raise `version` whenever the same inputs would give other bytes."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    fields: ClassVar[type[Fields]]
    summary: ClassVar[str] = ""
    lazy: ClassVar[bool] = False
    """Put into build/ only when it is a goal or a running step needs the folder."""
    exclusive: ClassVar[bool] = False
    """Runs alone, whatever -j."""
    gpu: ClassVar[bool] = False
    """Takes a GPU where there is one."""
    machine: ClassVar[bool] = False
    """The result belongs to this machine: processor, cores, memory and GPU enter the key."""

    def takes_gpu(self, fields: Any) -> bool:
        return self.gpu

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        """Output name -> path in the artifact's folder; "" is the whole folder."""
        return {"": "."}

    def edges(self, fields: Any) -> list[Edge]:
        return []

    def files(self, fields: Any) -> list[FileInput]:
        return []

    def libraries(self, fields: Any) -> tuple[str, ...]:
        """The libraries whose versions can change the bytes."""
        return ()

    def source(self, fields: Any) -> Source | None:
        """Where the artifact or its raw material comes from, if from outside the graph."""
        return getattr(fields, "source", None)

    def lies_at(self, fields: Any) -> str | None:
        """The folder that *is* the artifact, for kinds that are referenced where they lie."""
        return None

    def parameters(self, fields: Fields) -> dict[str, object]:
        """What the recipe says and can change the bytes; edges, files and the source are parts of their own."""
        edges = {e.field[0] for e in self.edges(fields) if e.field}
        files = {f.field[0] for f in self.files(fields) if f.field}
        return fields.model_dump(mode="json", exclude={str(name) for name in edges | files} | {"source"})

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """The nodes that make the target, the last one being the target itself; `targets` are all of the recipe."""
        return [Node(target.name, target.name, self, target.fields, tuple(self.edges(target.fields)))]

    def gates(self, fields: Any) -> list[Gate]:
        """Conditions on the artifact's figures, judged on every build; see gates.py."""
        return []

    def check(self, fields: Any) -> str | None:
        """What is wrong with fields that are each right but don't go together; None if nothing."""
        return None

    @abstractmethod
    def run(self, job: Job) -> None:
        """Make the artifact in `job.out`. Runs in a worker process; raises BuildError for what the user can mend."""


@dataclass(frozen=True)
class Result:
    """What a worker reports at its end: digests that say more than bytes, figures for the trace, a folder referenced in place.

    `manifest` is the blob of a manifest that the step stored itself, instead of writing files.
    """

    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    reference: Path | None = None
    manifest: str = ""


@cache
def step_of(kind: str) -> Step | None:
    """The step of a kind; None if there is none of that name."""
    module = f"olivebuild.steps.{kind.replace('-', '_')}"
    if re.fullmatch(r"[a-z][a-z0-9-]*", kind):
        try:
            step: Step = importlib.import_module(module).STEP
            return step
        except ModuleNotFoundError as e:
            if e.name != module:
                raise
    for entry in entry_points(group="olivebuild.steps", name=kind):
        loaded: Step = entry.load()
        return loaded
    return None


@cache
def kinds() -> tuple[str, ...]:
    """The kinds that a recipe may name, ours first. Looking for other packages' kinds reads the metadata of all."""
    return (*KINDS, *sorted(e.name for e in entry_points(group="olivebuild.steps")))
