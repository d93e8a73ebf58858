"""Scheduling: the critical path first, within cores, memory and other resources. Starts nothing.

The learning rate and the rows of a training's steps are ml/training/schedule.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil
from typing import NamedTuple, Protocol

from olivebuild.api.action import Action
from olivebuild.api.executor import (
    NO_REQUIREMENTS,
    Executor,
    Requirements,
    Resources,
    free_slots,
)
from olivebuild.api.node import Node, amount_of
from olivebuild.core import host, numerics
from olivebuild.core.errors import InvalidValue, RecipeError
from olivebuild.engine.actions import judged_model
from olivebuild.engine.remote.elsewhere import Elsewhere, without_machine
from olivebuild.engine.scheduling.foresight import Foresight
from olivebuild.planner.plan import Plan, Planner

NOT_SHARED = ("time", "nodes")
"""Resources that are no amount of anything here: they say what is asked of a cluster."""
ON_ONE_CORE = ("benchmark-baseline",)
"""Kinds that compute on one core, whatever threads their libraries start."""
LIBRARIES, COPIES = 1e9, 3
"""A guess at the memory of a step that never ran here: torch and its like in bytes, and how often
the bytes of what it reads lie in memory (as read, as computed with, and once between).
"""


class ResourcePool:
    """The amount that is left of each named resource.

    What has no limit counts as one unit, so that it is not shared unawares.

    `gpu` alone may have no limit: then the executor, which knows the machine's GPUs, gives each
    action its own.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = dict(limits)
        self._in_use: dict[str, float] = {}

    def limit(self, name: str) -> float:
        return self._limits.get(name, 1.0)

    def exceeded_by(self, node: Node) -> str | None:
        """Return the resource of which a node takes more than there is, if any."""
        for name, amount in self._amounts(node).items():
            if amount > self.limit(name):
                return name
        return None

    def fits(self, node: Node) -> bool:
        """Return whether enough is left for a node now."""
        return all(
            self._in_use.get(name, 0.0) + amount <= self.limit(name)
            for name, amount in self._amounts(node).items()
        )

    def acquire(self, node: Node) -> None:
        for name, amount in self._amounts(node).items():
            self._in_use[name] = self._in_use.get(name, 0.0) + amount

    def release(self, node: Node) -> None:
        for name, amount in self._amounts(node).items():
            self._in_use[name] -= amount

    def _amounts(self, node: Node) -> dict[str, float]:
        resources = {name: n for name, n in node.resources.items() if name not in NOT_SHARED}
        if "gpu" not in self._limits:
            resources.pop("gpu", None)
            return resources
        return resources | ({"gpu": float(node.gpus)} if node.gpus else {})


class Room:
    """What of this machine is left for one more action, beside those that run.

    Two actions that compute on the same cores both lose: threads that wait for each other are not
    running at the same time. So one that computes on the processor takes all the cores that its
    libraries start threads on. It gets no fewer to make room, since the last bits of what torch
    computes depend on their number. An ONNX Runtime model gives the same bits with any number of
    threads, and takes the cores that are left; one core feeds each GPU.

    `jobs`: how many actions may run at once, as the user said; 0 for one beside any number of a
    benchmark's nodes.
    """

    def __init__(self, jobs: int, pool: ResourcePool, *, gpus: int = 0) -> None:
        self._jobs = jobs
        self._pool = pool
        self._gpus = gpus
        self._in_use: dict[str, tuple[Node, int]] = {}
        """Node -> itself, and its cores."""
        self._stepping: set[str] = set()
        """Trainings that make steps; before that they import libraries and load models."""

    @property
    def cores(self) -> int:
        return max(1, int(self._pool.limit("cores")))

    @property
    def left(self) -> int:
        """Return how many cores no action uses."""
        return self.cores - sum(cores for _, cores in self._in_use.values())

    @property
    def is_full(self) -> bool:
        return bool(self._in_use) and self.left < 1

    def fits(self, node: Node, model: Node | None, memory: Memory) -> bool:
        """Return whether a node may start now. `model` is the one that it judges, if it does."""
        if not self._in_use:
            return True
        if node.kind in ON_ONE_CORE and self._is_starting():
            return False
        if not self._jobs and not _measures(node):
            others = [other for other, _ in self._in_use.values() if not _measures(other)]
            if others:
                return False
        least = max(1, self._for_onnx // 2) if self._adapts(node, model) else self._cores(node)
        return least <= self.left and memory.fits(node, [n for n, _ in self._in_use.values()])

    def take(self, node: Node, model: Node | None) -> int:
        """Reserve the cores of a node; return how many threads it is to start, 0 for its own."""
        adapts = self._adapts(node, model)
        cores = max(1, min(self.left, self._for_onnx)) if adapts else self._cores(node)
        self._in_use[node.name] = (node, cores)
        if node.kind == "benchmark-check" and self.needs_gpu(node, model) and not node.strict:
            # It reads a few rows by an ONNX model, too, while another process judges one.
            return max(1, self.cores // 4)
        return cores if adapts and cores < self.cores else 0

    def give_back(self, node: Node) -> None:
        del self._in_use[node.name]
        self._stepping.discard(node.name)

    def steps(self, node: Node) -> None:
        """Take note that a training makes steps."""
        self._stepping.add(node.name)

    def _is_starting(self) -> bool:
        """Return whether a training begins, which what starts beside it would hold up."""
        nodes = [node for node, _ in self._in_use.values()]
        return any(n.kind == "adapter" and n.name not in self._stepping for n in nodes)

    def needs_gpu(self, node: Node, model: Node | None) -> bool:
        """Return whether a node computes on a GPU of this machine."""
        return bool(node.gpus and self._gpus) and not self._adapts(node, model)

    @property
    def _for_onnx(self) -> int:
        """Return the cores for an ONNX model: those that feed GPUs are left."""
        return max(1, self.cores - self._gpus)

    def _adapts(self, node: Node, model: Node | None) -> bool:
        """Return whether a node runs an ONNX model on the processor, and little else."""
        if node.kind != "benchmark-accuracy" or model is None or node.strict:
            return False
        return model.kind == "onnx" and not (self._gpus and has_genai_for_gpus())

    def _cores(self, node: Node) -> int:
        if "cores" in node.resources:
            return max(1, ceil(node.resources["cores"]))
        if not node.computes or (node.gpus and self._gpus) or node.kind in ON_ONE_CORE:
            return 1
        return min(self.cores, int(numerics.threads()))


class Memory(Protocol):
    """What is expected of nodes' memory."""

    def fits(self, node: Node, running: Sequence[Node]) -> bool:
        """Return whether there is memory for a node beside those that run."""


class ExpectedMemory:
    """Memory by what nodes took the last time, or by the size of what they read."""

    def __init__(self, planner: Planner, plan: Plan, limit: float) -> None:
        self._planner = planner
        self._plan = plan
        self._limit = limit

    def fits(self, node: Node, running: Sequence[Node]) -> bool:
        expected = self._expected(node)
        total = expected + sum(map(self._expected, running))
        return total <= self._limit and expected <= host.available_memory()

    def _expected(self, node: Node) -> float:
        """Return bytes: what the recipe says, else the last run's peak, else a guess."""
        if "memory" in node.resources:
            return node.resources["memory"]
        last = self._planner.workspace.last.get(node.name)
        trace = self._planner.traces.get(last.key) if last else None
        if trace and trace.peak_rss:
            return float(trace.peak_rss)
        sources = self._planner.graph.inputs[node.name]
        return LIBRARIES + COPIES * sum(self._size(source.name) for _, source, _ in sources)

    def _size(self, name: str) -> int:
        state = self._plan.states[name]
        if state.trace and state.trace.size:
            return state.trace.size
        if state.folder is None:
            return 0
        return sum(file.stat().st_size for file in state.folder.glob("*") if file.is_file())


def _measures(node: Node) -> bool:
    """Return whether a node is a part of a benchmark that may run beside others."""
    return node.kind.startswith("benchmark-") and not node.exclusive


@cache
def has_genai_for_gpus() -> bool:
    """Return whether onnxruntime-genai is installed in a variant for GPUs."""
    try:
        host.version("onnxruntime-genai-cuda")
    except ModuleNotFoundError:
        return False
    return True


class Share(NamedTuple):
    """What of this machine an action has, where that is shared out."""

    has_gpus: bool = True
    threads: int | None = None
    """How many it is to start, 0 for its own number; None where the machine is not shared out."""

    def of(self, action: Action) -> Action:
        """Return an action with its GPUs and threads."""
        if self.threads is None:
            return action
        return action._replace(gpus=action.gpus if self.has_gpus else 0, threads=self.threads)


class Space:
    """Room for actions in all respects: the executor's slots, named resources, and this machine."""

    def __init__(
        self,
        planner: Planner,
        executor: Executor,
        pool: ResourcePool,
        room: Room | None,
        elsewhere: Elsewhere,
    ) -> None:
        self._elsewhere = elsewhere
        self._planner = planner
        self._executor = executor
        self._pool = pool
        self._room = room
        self._promised: Counter[str] = Counter()
        """Place -> how many nodes have space there and have not started."""
        self._foresight = Foresight(planner.graph, executor)

    def has_slot(self) -> bool:
        """Return whether there is any use in asking for single nodes."""
        promised = self._promised.total()
        if self._elsewhere:
            return self._elsewhere.has_room(promised)
        if self._room and self._room.is_full:
            return False
        return free_slots(self._executor, NO_REQUIREMENTS) > promised

    def fits(self, plan: Plan, node: Node) -> bool:
        if node in self._elsewhere:
            return self._pool.fits(without_machine(node)) and self._can_start(node, node)
        if not self._pool.fits(node):
            return False
        if self._room is None:
            return self._can_start(node, node)
        model = judged_model(self._planner.graph, node)
        gpus = node.gpus if self._room.needs_gpu(node, model) else 0
        if not self._can_start(node, Resources(gpus, node.exclusive)):
            return False
        memory = ExpectedMemory(self._planner, plan, self._pool.limit("memory"))
        return self._room.fits(node, model, memory)

    def _can_start(self, node: Node, action: Requirements) -> bool:
        """Return whether the executor has a slot for a node beside those that were promised."""
        return free_slots(self._executor, action) > self._promised[self._elsewhere.place_of(node)]

    def reserve(self, node: Node) -> Share:
        """Reserve what a node takes that is about to start."""
        self._promised[self._elsewhere.place_of(node)] += 1
        if node in self._elsewhere:
            self._pool.acquire(without_machine(node))
            return Share()
        self._pool.acquire(node)
        if self._room is None:
            return Share()
        model = judged_model(self._planner.graph, node)
        has_gpus = self._room.needs_gpu(node, model)
        return Share(has_gpus=has_gpus, threads=self._room.take(node, model))

    def started(self, node: Node) -> None:
        """Take note that the executor was given a node, or that it is given back."""
        self._promised[self._elsewhere.place_of(node)] -= 1

    def foresee(self, plan: Plan, node: Node) -> None:
        """Have processes get ready for what comes after a node that makes steps."""
        if self._room is None or node in self._elsewhere:
            return
        self._room.steps(node)
        if self._room.left:
            self._foresight.trains(plan, node, self._room)

    def give_back(self, node: Node) -> None:
        if node in self._elsewhere:
            self._pool.release(without_machine(node))
            return
        self._pool.release(node)
        if self._room:
            self._room.give_back(node)


def limits_of(words: tuple[str, ...], defaults: Mapping[str, float]) -> dict[str, float]:
    """Return limits with the command line's `gpu=2` and `memory=8GB` in place of defaults.

    The recipe and the machine give the defaults.

    Raises RecipeError.
    """
    limits = dict(defaults)
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = amount_of(value)
        except InvalidValue as e:
            fact, hint = e.problem
            raise RecipeError(fact, where=f"--resource {word}", hint=hint) from None
    return limits
