"""One action to be, as plain data.

All that planning asks of a kind and its fields, so that a graph can be kept in a file.

Knows nothing of how fields are checked: step.py makes nodes, and a graph that was kept brings them
back without it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

from olivebuild.core.errors import InvalidValue
from olivebuild.core.hashing import canonical_json
from olivebuild.core.text import size_of
from olivebuild.formats.source import Source

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
STEPS = "olivebuild.steps"
"""The package of the built-in kinds, and the group of entry points of all others."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Short in a file and quick to read: a graph may have ten thousand nodes."""


class Ref(Record, frozen=True):
    """A reference to another target, `tone`, or to one of its outputs, `tone.train`."""

    target: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.target}.{self.output}" if self.output else self.target

    @classmethod
    def parse(cls, text: str) -> Ref:
        target, dot, output = text.partition(".")
        if not NAME.fullmatch(target) or (dot and not NAME.fullmatch(output)):
            raise InvalidValue(f"{text!r} is not the name of a target or of a target's output")
        return cls(target, output)

    @staticmethod
    def _dump(value: object) -> str:
        from pydantic_core import PydanticSerializationUnexpectedValue

        if not isinstance(value, Ref):
            # In a union this makes pydantic try the next type; a list of references has a text,
            # too.
            raise PydanticSerializationUnexpectedValue("not a reference")
        return str(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        serialise = core_schema.plain_serializer_function_ser_schema(cls._dump)
        return core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(), serialization=serialise
        )


class Edge(Record, frozen=True):
    """An input of a node.

    `role` names it for the step; `ref` is the target that it comes from, and `kinds` are those that
    the target may have.

    `output` names the output of the target that is read when the reference names none: "train" for
    an adapter's data. `field` is the recipe field that made the edge, for error messages.
    `sibling` names another node of the same target instead, and `output` then one of its outputs.
    `streams_tensors`: the step reads single tensors from the store, so an input that is not in
    build/ need not be put there.
    `keyed`: the content is a part of the node's key. Where it is not, another input stands for what
    counts of it.
    """

    role: str
    ref: Ref
    kinds: tuple[str, ...]
    """() for any, those of other packages too."""
    output: str = ""
    field: tuple[str | int, ...] = ()
    sibling: str = ""
    streams_tensors: bool = False
    keyed: bool = True


class FileInput(Record, frozen=True):
    """Files that the step reads: a path or a glob relative to the recipe.

    `label` goes into the key, the path does not.

    An `optional` one is taken literally, and counts only if it is a file.
    """

    label: str
    pattern: str
    field: tuple[str | int, ...] = ()
    optional: bool = False


class Program(Record, frozen=True):
    """A command line as it is read before it runs; see steps/parts/command_line.py."""

    words: tuple[str, ...] = ()
    """What may be a path ..."""
    modules: tuple[str, ...] = ()
    """... a module that Python is to run ..."""
    code: tuple[str, ...] = ()
    """... or a program of Python in a word."""
    roots: tuple[str, ...] = ()
    """Where it has Python look for modules."""


class Outline(Record, frozen=True):
    """Facts of a target that planning needs.

    `gated`: conditions on its metrics are judged on every build.
    """

    name: str
    kind: str
    lazy: bool = False
    gated: bool = False
    positions: dict[str, tuple[int, int, str]] = {}
    """field -> (line, column, the override of the command line that gave it): where a worker's
    error points.
    """
    executor: str = ""
    """The name of the executor that is to make it; "" where the recipe names none."""
    executor_kind: str = ""
    """Its kind."""
    placeholders: dict[str, str] = {}
    """field -> what a placeholder there asks for"""


class Node(Record, frozen=True):
    """One action to be: what runs, with which fields and inputs.

    Most targets are one node; a benchmark is several.

    `name` is the target's, or `target:part` for the nodes that a target is made of. What the rest
    means, step.py tells.
    """

    name: str
    target: str
    kind: str
    version: int
    fields: dict[str, Any]
    """As the recipe gives them: what the worker reads again."""
    edges: tuple[Edge, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    files: tuple[FileInput, ...] = ()
    libraries: tuple[str, ...] = ()
    outputs: dict[str, str] = {}
    source: Source | None = None
    referenced_folder: str | None = None
    lazy: bool = False
    exclusive: bool = False
    gpu: bool = False
    reuses_worker: bool = False
    runner: str = ""
    machine_bound: bool = False
    trusts_remote_code: bool = False
    """Code from the model's folder may run."""
    resources: dict[str, float] = {}
    """How much it takes of what is limited, while it runs; see engine/scheduler.py."""
    computes: bool = False
    """Its bytes depend on the numerics of the machine; see numerics.py."""
    strict: bool = False
    """These are part of its key."""
    keyed: tuple[str, ...] = ()
    """Variables of the environment whose values are part of its key."""
    program: Program | None = None
    """The command line that it runs, whose words and scripts name files."""
    template: str = ""
    """What it does with the chat template of its model: "rendered", "published", or nothing; see
    planner/template_dates.py.
    """
    max_age: float | None = None
    """Seconds after which its result counts no more; None for never."""

    @property
    def gpus(self) -> int:
        """Return how many GPUs it takes where there are so many: one, or what its resources say."""
        return max(1, ceil(self.resources.get("gpu", 0.0))) if self.gpu else 0


def module_of(kind: str) -> str:
    """Return the module of a kind that is built in; empty for a name that no such kind can have.

    Those of a benchmark's nodes, `benchmark-accuracy` for example, have a folder of their own.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", kind):
        return ""
    part = kind.removeprefix("benchmark-")
    return f"{STEPS}.{'measurements.' * (part != kind)}{part.replace('-', '_')}"


def is_builtin(kind: str) -> bool:
    """Return whether a kind comes with this package. Imports no kind."""
    module = module_of(kind)
    return bool(module) and importlib.util.find_spec(module) is not None


def flatten(value: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Return (dotted name, text) pairs of nested values, sorted.

    {"training": {"lr": 1e-4}} gives [("training.lr", "0.0001")]. What is None says nothing and is
    left out.
    """
    result: list[tuple[str, str]] = []
    for name, item in sorted(value.items()):
        if isinstance(item, Mapping):
            result += flatten(item, f"{prefix}{name}.")
        elif item is not None:
            result.append((prefix + name, canonical_json(item)))
    return result


def amount_of(value: object) -> float:
    """Return the number that `2`, `0.5` or `8GB` means. Raises InvalidValue."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    text = str(value)
    try:
        amount = float(size_of(text)) if text[-1:].isalpha() else float(text)
    except ValueError:
        amount = float("nan")
    if not 0 <= amount < float("inf"):
        raise InvalidValue(f"{value!r} is not an amount", "write 1, 0.5 or 8GB")
    return amount
