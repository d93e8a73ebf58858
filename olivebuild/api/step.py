"""Declaration of a kind. Runs nothing.

Its fields in the recipe, the inputs they name, and its part in the key.

A kind is a file in olivebuild/steps/ (or an entry point in the group `olivebuild.steps`) that holds
`STEP`, an instance of a
subclass of `Step`. Its module imports nothing heavy; its `runner` does, in a worker process.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from olivebuild.api.fields import Alternatives, Fields
from olivebuild.api.node import STEPS, Edge, FileInput, Node, Program, Ref, flatten, module_of
from olivebuild.api.plugins import entry_points
from olivebuild.api.result import Result
from olivebuild.core.errors import Problem
from olivebuild.formats.source import Source

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.metrics.gates import Gate

__all__ = [
    "KINDS",
    "Alternatives",
    "Edge",
    "Fields",
    "FileInput",
    "Node",
    "Problem",
    "Ref",
    "Result",
    "Step",
    "Target",
    "kinds",
    "step_of",
]

TRUST = ("trust", "trust_remote_code")
"""Fields that let what a folder from elsewhere names load code; the second is transformers' own
word for a model's.
"""
KINDS = (
    "model",
    "dataset",
    "adapter",
    "merged",
    "onnx",
    "onnx-adapter",
    "benchmark",
    "choice",
    "command",
)


@dataclass(frozen=True)
class Target:
    """A named artifact of the recipe."""

    name: str
    kind: str
    step: Step
    fields: Fields
    resources: dict[str, float] = field(default_factory=dict)
    executor: str = ""
    """The name of the executor that is to make it; "" for this machine."""
    placeholders: dict[str, str] = field(default_factory=dict)
    """field -> what a placeholder there asks for"""


class Step:
    """One kind of artifact.

    Raise `version` whenever the same inputs would give other bytes, and say in `changes` what
    differs.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    changes: ClassVar[Mapping[int, str]] = {}
    """What each version does differently from the one before it, for `why`: version -> a sentence
    without its full stop.
    """
    fields: ClassVar[type[Fields]]
    alternatives: ClassVar[tuple[Alternatives, ...]] = ()
    """Fields that don't go together: `check` refuses them, and `--set` of one drops the other."""
    summary: ClassVar[str] = ""
    lazy: ClassVar[bool] = False
    """Put into build/ only when it is a goal or a running step needs the folder."""
    exclusive: ClassVar[bool] = False
    """Runs alone, whatever -j."""
    gpu: ClassVar[bool] = False
    """Takes a GPU where there is one."""
    spans_nodes: ClassVar[bool] = False
    """Several machines can share its work: `resources: {nodes: 2}`."""
    preload: ClassVar[tuple[str, ...]] = ()
    """Modules that `run` imports, all but torch and its like: a worker that waits for such a step
    can import them meanwhile.
    """
    preload_once: ClassVar[tuple[str, ...]] = ()
    """Modules that `run` imports besides for a model of a structure that it has not seen: torch
    and its like. A worker that holds those already goes on to such a step.
    """
    runner: ClassVar[str] = "olivebuild.ml.kinds.plugin"
    """The module whose `run(job)` makes the artifact, in a worker process; raises BuildError for
    what the user can mend. The default is for kinds that define `run` themselves.
    """
    machine_bound: ClassVar[bool] = False
    """The result belongs to this machine: processor, cores, memory and GPU enter the key."""

    floating: ClassVar[bool] = False
    """Computes with floating-point numbers, whose last bits depend on the machine; see numerics.py.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.runner == Step.runner and cls.run is Step.run and "kind" in vars(cls):
            raise TypeError(f"{cls.__name__} needs a `runner`, or a `run` of its own")

    def takes_gpu(self, fields: Any) -> bool:
        return self.gpu

    def computes(self, fields: Any) -> bool:
        """The bytes belong to the numerics of the machine that made them."""
        return self.floating

    def reuses_worker(self, fields: Any) -> bool:
        """Return whether the step may run in a process that ran another, which saves the start.

        Such a step needs no GPU and leaves nothing behind.
        """
        return False

    def template(self, fields: Any) -> str:
        """Return the use of a chat template: "rendered", "published" or "".

        "rendered": rows become text by the model's template. "published": the artifact has it.
        """
        return ""

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        """Output name -> path in the artifact's folder; "" is the whole folder."""
        return {"": "."}

    def edges(self, fields: Any) -> list[Edge]:
        return []

    def files(self, fields: Any) -> list[FileInput]:
        return []

    def keyed(self, fields: Any) -> tuple[str, ...]:
        """The variables of the environment whose values can change the bytes."""
        return ()

    def max_age(self, fields: Any) -> float | None:
        """Return the seconds after which a result is made anew; None for never."""
        return None

    def program(self, fields: Any) -> Program | None:
        """The command line that the recipe has it run."""
        return None

    def version_of(self, fields: Any) -> int:
        """Return the version for a target with these fields.

        An older one where what changed is not about them.
        """
        return self.version

    def libraries(self, fields: Any) -> tuple[str, ...]:
        """The libraries whose versions can change the bytes."""
        return ()

    def source(self, fields: Any) -> Source | None:
        """Return where the artifact or its raw material comes from, if from outside the graph."""
        return getattr(fields, "source", None)

    def referenced_folder(self, fields: Any) -> str | None:
        """The folder that *is* the artifact, for kinds that are referenced where they lie."""
        return None

    def parameters(self, fields: Fields) -> dict[str, object]:
        """Return what the recipe says and can change the bytes.

        Edges, files and the source are parts of their own.
        """
        edges = {e.field[0] for e in self.edges(fields) if e.field}
        files = {f.field[0] for f in self.files(fields) if f.field}
        return fields.model_dump(
            mode="json", exclude={str(name) for name in edges | files} | {"source"}
        )

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """Return the nodes that make the target, the last one being the target itself.

        `targets` are all of the recipe.
        """
        return [self.node(target.name, target.name, target.fields, self.edges(target.fields))]

    def node(self, name: str, target: str, fields: Fields, edges: Iterable[Edge]) -> Node:
        """Return a node of the target, with all that planning asks of the step."""
        return Node(
            name=name,
            target=target,
            kind=self.kind,
            version=self.version_of(fields),
            fields=fields.model_dump(mode="json", exclude_unset=True),
            edges=tuple(edges),
            parameters=tuple(flatten(self.parameters(fields))),
            files=tuple(self.files(fields)),
            libraries=self.libraries(fields),
            outputs=dict(self.outputs(fields)),
            source=self.source(fields),
            referenced_folder=self.referenced_folder(fields),
            lazy=self.lazy,
            exclusive=self.exclusive,
            gpu=self.takes_gpu(fields),
            reuses_worker=self.reuses_worker(fields),
            runner=self.runner,
            machine_bound=self.machine_bound,
            computes=self.computes(fields),
            keyed=self.keyed(fields),
            program=self.program(fields),
            trusts_remote_code=any(getattr(fields, name, False) for name in TRUST),
            template=self.template(fields),
            max_age=self.max_age(fields),
        )

    def gates(self, fields: Any) -> list[Gate]:
        """Return conditions on the artifact's metrics, judged on every build (metrics/gates.py)."""
        return []

    def check(self, fields: Any) -> Problem | None:
        """Return what is wrong with fields that don't go together, though each is right.

        None if nothing.

        A kind that still returns the text "fact; hint" is understood until the release after
        0.1, with a note on stderr.
        """
        return None

    def run(self, job: Job) -> None:
        """Make the artifact in `job.out`, for a kind that names no `runner` of its own.

        Runs in a worker process; raises BuildError for what the user can mend.
        """
        raise NotImplementedError(f"{self.kind} names no runner and defines no `run`")


@cache
def step_of(kind: str) -> Step | None:
    """The step of a kind; None if there is none of that name."""
    module = module_of(kind)
    if module:
        try:
            step: Step = importlib.import_module(module).STEP
            return step
        except ModuleNotFoundError as e:
            if e.name != module:
                raise
    for entry in entry_points(group=STEPS, name=kind):
        loaded: Step = entry.load()
        return loaded
    return None


@cache
def kinds() -> tuple[str, ...]:
    """The kinds that a recipe may name, ours first.

    Looking for other packages' kinds reads the metadata of all.
    """
    return (*KINDS, *sorted(e.name for e in entry_points(group=STEPS)))
