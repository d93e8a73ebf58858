"""Processes that get ready for the judging of a model while a GPU still trains it.

What loads models takes seconds to import, and while a GPU computes there are cores for it.
"""

from __future__ import annotations

from typing import Protocol

from olivebuild.api.executor import Executor, Expecting
from olivebuild.api.node import Node
from olivebuild.core import host
from olivebuild.engine.actions import JUDGES, judged_model
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Verdict
from olivebuild.recipe.graph import Graph

MEMORY = 4e9
"""Bytes that must be free for each process, which takes about one of libraries."""
RUNTIME = "onnxruntime_genai"
"""The module that runs ONNX models."""


class Devices(Protocol):
    """What knows where nodes compute."""

    def needs_gpu(self, node: Node, model: Node | None) -> bool:
        """Return whether a node computes on a GPU of this machine. `model` is what it judges."""


class Foresight:
    """Starts such processes: for each build one without a GPU, and one with as many as one has."""

    def __init__(self, graph: Graph, executor: Executor) -> None:
        self._graph = graph
        self._executor = executor if isinstance(executor, Expecting) else None
        self._started: set[int] = set()
        """Numbers of GPUs, for each of which there was a process."""
        self._seen: set[str] = set()

    def trains(self, plan: Plan, node: Node, devices: Devices) -> None:
        """Start processes for the judges that wait, if a node that makes steps has a GPU for them.

        Before its first step it imports libraries itself, and the more processes do that at once,
        the longer each takes.
        """
        if self._executor is None or node.name in self._seen:
            return
        self._seen.add(node.name)
        if not devices.needs_gpu(node, None):
            return
        for judge in self._waiting(plan):
            model = judged_model(self._graph, judge)
            gpus = min(judge.gpus, node.gpus) if devices.needs_gpu(judge, model) else 0
            if gpus not in self._started and host.available_memory() > MEMORY:
                self._started.add(gpus)
                self._executor.expect(
                    JUDGES if gpus else [judge.kind],
                    [*_modules(judge.kind), *([] if gpus else [RUNTIME])],
                    gpus=gpus,
                )

    def _waiting(self, plan: Plan) -> list[Node]:
        """Return the nodes that will judge or check a model that is still to be made."""
        return [
            state.node
            for state in plan.states.values()
            if state.node.kind in JUDGES
            and state.node.reuses_worker
            and state.verdict in (Verdict.STALE, Verdict.WAITING)
        ]


def _modules(kind: str) -> list[str]:
    """Return the modules that a step of a kind imports."""
    # Not imported where nothing is trained.
    from olivebuild.api.step import step_of

    step = step_of(kind)
    return [step.runner, *step.preload, *step.preload_once] if step else []
