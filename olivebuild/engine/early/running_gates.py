"""Benchmarks while their rows are judged: figures so far, and decisions as soon as they stand.

Workers tell which answers are right (`Job.judged`); rows of models that are judged already are read
from the store. Nothing of this is kept: gates are judged by the benchmark's table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from msgspec.structs import asdict

from olivebuild.api.node import Node
from olivebuild.core.errors import Damaged, StoreError
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict

if TYPE_CHECKING:
    from olivebuild.metrics.early_decision import EarlyGates, Standing

MADE = (Verdict.FRESH, Verdict.CACHED)
"""Verdicts of a table that is there, or is restored: it says what its gates are."""
ROLE = re.compile(r"(?:accuracy|adapter)\[(\d+)\]")
"""The role by which a table reads a model's answers, those of the recipe's own seed."""


class Say(Protocol):
    """Tells an event of a node."""

    def __call__(self, name: str, node: Node, **data: object) -> None: ...


class _Benchmark(Struct, kw_only=True):
    """A benchmark with gates, the nodes that judge its models, and its data sets."""

    table: Node
    gates: EarlyGates
    models: dict[str, str]
    """Accuracy node -> the model's name in the table."""
    sets: list[str]
    read: set[str]
    """Nodes whose rows were read from the store."""


class RunningGates:
    """The benchmarks of one build, by target."""

    def __init__(self, planner: Planner, say: Say) -> None:
        self.decided: dict[tuple[str, str], Standing] = {}
        """(target, gate) -> what was decided before the table was there."""
        self._planner = planner
        self._say = say
        self._benchmarks: dict[str, _Benchmark | None] = {}
        self._plan: Plan | None = None
        self._targets: list[str] = []
        """The benchmarks of that plan."""

    def judged(self, plan: Plan, node: Node, data: Mapping[str, Any]) -> None:
        """Take in rows that a worker has judged, and tell what they say."""
        benchmark = self._benchmark(node.target)
        model = benchmark.models.get(node.name) if benchmark else None
        if benchmark is None or model is None or not data["rows"]:
            return
        name = benchmark.sets[int(data["data"])]
        rows = benchmark.gates.rows(model, name, int(data["rows"]))
        for row, outcomes in data["outcomes"].items():
            rows.add(int(row), outcomes)
        self._read_finished(plan, benchmark)
        standing = {"model": model, "data": name, "rows": rows.answered, "of": len(rows.outcomes)}
        decided = benchmark.gates.decide()
        gates = [asdict(gate) for gate in benchmark.gates.running.values()]
        self._say("figures", node, **standing, figures=rows.shares(), gates=gates)
        self._tell(benchmark, decided)

    def look(self, plan: Plan) -> None:
        """Take in the rows of all models that are judged, of benchmarks that are not made yet."""
        if self._plan is not plan:
            self._plan = plan
            self._targets = [t for t in plan.targets if plan.states[t].node.kind == "benchmark"]
        for target in self._targets:
            if plan.states[target].verdict in MADE:
                continue
            if benchmark := self._benchmark(target):
                self._read_finished(plan, benchmark)
                self._tell(benchmark, benchmark.gates.decide())

    def deciding(self) -> set[str]:
        """Return the nodes whose rows open gates wait for."""
        names: set[str] = set()
        for benchmark in self._benchmarks.values():
            if benchmark:
                needed = {model for model, _ in benchmark.gates.needs()}
                names.update(n for n, model in benchmark.models.items() if model in needed)
        return names

    def standing(self, target: str) -> list[Standing]:
        """Return the decisions of a benchmark, where no further row can change what they say."""
        benchmark = self._benchmarks.get(target)
        if benchmark is None or not benchmark.gates.stand:
            return []
        return benchmark.gates.decisions

    def left_to_the_table(self, target: str) -> list[str]:
        """Return the gates of a benchmark that rows alone do not decide."""
        benchmark = self._benchmark(target)
        return benchmark.gates.later if benchmark else []

    def _tell(self, benchmark: _Benchmark, decided: list[Standing]) -> None:
        for standing in decided:
            self.decided[benchmark.table.target, standing.gate] = standing
            self._say("decided", benchmark.table, **asdict(standing))

    def _benchmark(self, target: str) -> _Benchmark | None:
        if target not in self._benchmarks:
            self._benchmarks[target] = self._open(target)
        return self._benchmarks[target]

    def _open(self, target: str) -> _Benchmark | None:
        """Return a benchmark by its table; None where the target is none, or has no gates."""
        from olivebuild.metrics.early_decision import EarlyGates

        graph = self._planner.graph
        table = graph.nodes.get(target)
        if table is None or table.kind != "benchmark":
            return None
        declared = graph.recipe.targets[target]
        names = [str(model) for model in declared.fields.models]  # type: ignore[attr-defined]
        models, sets = dict[str, str](), dict[str, None]()
        for edge, source, _ in graph.inputs[target]:
            if number := ROLE.fullmatch(edge.role):
                models[source.name] = names[int(number[1])]
                sets |= dict.fromkeys(_data_sets(graph.inputs[source.name]))
        gates = EarlyGates(target, declared.step.gates(declared.fields), names, list(sets))
        return _Benchmark(table=table, gates=gates, models=models, sets=list(sets), read=set())

    def _read_finished(self, plan: Plan, benchmark: _Benchmark) -> None:
        """Read the rows of models that are judged, where an open gate needs them."""
        needed = {model for model, _ in benchmark.gates.needs()}
        for name, model in benchmark.models.items():
            state = plan.states.get(name)
            if model not in needed or name in benchmark.read or state is None:
                continue
            if state.verdict is Verdict.FRESH and state.key:
                benchmark.read.add(name)
                for data, rows in zip(benchmark.sets, self._stored(state.key), strict=False):
                    into = benchmark.gates.rows(model, data, len(rows))
                    for row, outcomes in enumerate(rows):
                        into.add(row, outcomes)

    def _stored(self, key: str) -> list[list[dict[str, bool]]]:
        """Return the outcomes of each row of each data set that a node has stored under its key.

        Nothing where its file can't be read: the table's own reader will tell.
        """
        from olivebuild.metrics.early_decision import outcomes_in

        store, trace = self._planner.store, self._planner.traces.get(key)
        try:
            for entry in store.manifest(trace.manifest).files if trace else ():
                if entry.name == "metrics.json":
                    text = b"".join(store.read(blob) for blob, _ in entry.runs())
                    return outcomes_in(json.loads(text))
        except (Damaged, ValueError, StoreError):
            pass
        return []


def _data_sets(inputs: list[tuple[Any, Node, str]]) -> Iterator[str]:
    """Yield the targets of the data sets that an accuracy node asks, in their order."""
    for edge, source, _ in inputs:
        if edge.role.startswith("data["):
            yield source.target
