"""Benchmark: models side by side in accuracy, generation, latency, memory and size.

Classical text classifiers stand beside them. A benchmark is several nodes, so that models that did
not change are not measured again: one accuracy a model, one latency for all (it belongs to this
machine and to the models' structures), one for the baselines, and the table that joins them. An
adapter answers on its base. Its speed is not measured, since adapters are not shipped that way,
but for those in the slots of an ONNX model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import Field, ValidationInfo, field_validator

from olivebuild.api.step import Edge, Fields, Node, Ref, Step, Target
from olivebuild.core.errors import Problem, RecipeError
from olivebuild.metrics.gates import METRICS, Gate
from olivebuild.steps.adapter import AdapterFields, begins_elsewhere
from olivebuild.steps.measurements.latency import LatencyFields
from olivebuild.steps.merged import MergedFields
from olivebuild.steps.onnx import OnnxFields
from olivebuild.steps.onnx_adapter import OnnxAdapterFields
from olivebuild.steps.parts.diagnosing import overlap, sensitivity
from olivebuild.steps.parts.lineage import Lineage
from olivebuild.steps.parts.measurement import Measurement
from olivebuild.steps.parts.seeds import Retraining, part

MODEL_KINDS = ("model", "merged", "onnx")
Positive = Annotated[int, Field(gt=0)]
ScoreName = Annotated[str, Field(pattern=r"^[^:]+\.py:[a-z][a-z0-9_]*$")]


class BenchmarkFields(Fields):
    models: Annotated[list[Ref], Field(min_length=1)]
    data: Ref | Annotated[list[Ref], Field(min_length=1)]
    baseline: Ref | None = None
    max_new_tokens: Positive = 16
    json_schema: str | None = None
    """A file; the answers are to be JSON that follows it."""
    score: ScoreName | list[ScoreName] = []
    """`eval.py:function`, called with what the model wrote and the row; returns a number, more
    being better.
    """
    metrics: list[Ref] = []
    """`command` targets whose `metrics` stand beside ours."""
    latency: LatencyFields = LatencyFields()
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    """Everything that is trained is trained with so many seeds, and judged: what retraining alone
    changes.
    """
    strict: bool = False
    """A gate that the rows can't decide counts as missed."""
    gates: list[str] = []

    @field_validator("gates")
    @classmethod
    def _readable(cls, value: list[str], info: ValidationInfo) -> list[str]:
        # A field that is not valid itself is missing from the data.
        if {"score", "metrics"} <= info.data.keys():
            _parse(value, info.data["score"], info.data["metrics"], strict=False)
        return value

    @property
    def data_sets(self) -> list[Ref]:
        return self.data if isinstance(self.data, list) else [self.data]

    @property
    def scores(self) -> list[str]:
        return self.score if isinstance(self.score, list) else [self.score]

    @property
    def judges(self) -> list[Gate]:
        return _parse(self.gates, self.score, self.metrics, strict=self.strict)


class TableFields(BenchmarkFields):
    """Fields of the node that makes the table: what it compares by, read off the recipe."""

    lineage: dict[str, dict[str, Any]] = {}
    """Of each model, as metrics/diagnostics/lineage.py has it."""


def _parse(
    gates: list[str], score: str | list[str], metrics: list[Ref], *, strict: bool
) -> list[Gate]:
    scores = score_names([score] if isinstance(score, str) else score)
    commands = [ref.target for ref in metrics]
    return [Gate.parse(text, scores, commands, strict=strict) for text in gates]


def score_names(scores: Iterable[str]) -> list[str]:
    """Return the function names of scores such as `eval.py:function`."""
    return [text.rpartition(":")[2] for text in scores]


class Benchmark(Step):
    kind = "benchmark"
    version = 7
    changes: ClassVar = {7: "it says what is wrong with models and rows: `diagnostics`"}
    fields = BenchmarkFields
    summary = "accuracy and latency of `models` on `data`, side by side, with `gates`"
    runner = "olivebuild.ml.kinds.benchmark"

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, BenchmarkFields)
        # The table names its rows and columns. Gates judge it afterwards and are no part of it.
        parameters: dict[str, object] = {
            "models": [str(m) for m in fields.models],
            "data": [d.target for d in fields.data_sets],
        }
        if isinstance(fields, TableFields):
            parameters["lineage"] = fields.lineage
        return parameters

    def libraries(self, fields: BenchmarkFields) -> tuple[str, ...]:
        return ("scipy",)

    def reuses_worker(self, fields: BenchmarkFields) -> bool:
        return True

    def gates(self, fields: BenchmarkFields) -> list[Gate]:
        return fields.judges

    def check(self, fields: BenchmarkFields) -> Problem | None:
        names = [str(m) for m in fields.models]
        if len(set(names)) != len(names):
            return Problem("a model is listed twice", "list each once")
        if len({d.target for d in fields.data_sets}) != len(fields.data_sets):
            return Problem("a data set is listed twice", "list each once")
        if problem := _check_scores(fields):
            return problem
        measured = {*names, *(d.target for d in fields.data_sets)}
        return _check_gates(fields, measured, {m.target for m in fields.metrics})

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        fields = target.fields
        assert isinstance(fields, BenchmarkFields)
        accuracy = list(_accuracy(fields, targets))
        nodes, table = [row.node(target.name) for row in accuracy], list(accuracy)
        if fields.seeds > 1:
            retraining = Retraining(target.name, [m.target for m in fields.models], targets)
            for seed in range(1, fields.seeds):
                again = seeded(accuracy, seed, retraining)
                nodes += [*retraining.nodes(seed), *(row.node(target.name) for row in again)]
                table += again
        lineage = Lineage(fields.models, targets)
        others = [*_checks(fields, targets), *_baseline(fields)]
        others += _latency(target.name, fields, targets)
        others += overlap(fields.data_sets, _data_edges(fields), lineage, targets)
        others += sensitivity(target.name, fields.models, _data_edges(fields), lineage, targets)
        nodes += [row.node(target.name) for row in others]
        edges = [
            *(
                Edge(row.role, Ref(target.name), (), row.output, sibling=row.part)
                for row in (*table, *others)
            ),
            *(
                Edge(f"metrics[{i}]", ref, ("command",), "metrics", ("metrics", i))
                for i, ref in enumerate(fields.metrics)
            ),
        ]
        table_fields = TableFields.model_validate(
            fields.model_dump(mode="json", exclude_unset=True) | {"lineage": lineage.fields()}
        )
        return [*nodes, self.node(target.name, target.name, table_fields, edges)]


def _data_edges(fields: BenchmarkFields) -> list[Edge]:
    listed = isinstance(fields.data, list)
    return [
        Edge(f"data[{i}]", ref, ("dataset",), "test", ("data", i) if listed else ("data",))
        for i, ref in enumerate(fields.data_sets)
    ]


def _accuracy(fields: BenchmarkFields, targets: Mapping[str, Target]) -> Iterator[Measurement]:
    """Yield the accuracy of each model; an adapter answers on its base."""
    for i, ref in enumerate(fields.models):
        model, field = targets.get(ref.target), ("models", i)
        judge: dict[str, object] = {
            "max_new_tokens": fields.max_new_tokens,
            "json_schema": fields.json_schema,
            "score": fields.scores,
        }
        if model and _is_adapter(model):
            role, judge["adapter"] = f"adapter[{i}]", True
            if begins_elsewhere(ref, targets):
                judge["dequantised"] = True
            inputs = [
                Edge("model", _base(model), ("model", "merged"), "", field),
                Edge("adapter", ref, ("adapter",), "", field),
            ]
        elif model and (base := _slotted(model)):
            role, judge["adapter"], judge["in_slots"] = f"accuracy[{i}]", True, True
            inputs = [
                Edge("model", base, ("onnx",), "", field),
                Edge("adapter", ref, ("onnx-adapter",), "", field),
            ]
        else:
            role, inputs = f"accuracy[{i}]", [Edge("model", ref, MODEL_KINDS, "", field)]
        yield Measurement(
            part=f"accuracy.{ref}",
            role=role,
            kind="benchmark-accuracy",
            fields=judge,
            inputs=(*inputs, *_data_edges(fields)),
        )


def seeded(accuracy: Iterable[Measurement], seed: int, retraining: Retraining) -> list[Measurement]:
    """Return the accuracy of what is trained, trained with another seed."""

    def moved(edge: Edge) -> Edge:
        return edge if "dataset" in edge.kinds else retraining.edge(edge, seed)

    return [
        replace(
            row,
            part=part(row.part, seed),
            # The table reads those of an adapter by the same role as a model's.
            role=part(row.role.replace("adapter[", "accuracy["), seed),
            inputs=tuple(map(moved, row.inputs)),
        )
        for row in accuracy
        if not retraining.trained.keys().isdisjoint(edge.ref.target for edge in row.inputs)
    ]


def _checks(fields: BenchmarkFields, targets: Mapping[str, Target]) -> Iterator[Measurement]:
    """Yield the comparison of each converted model with what it was made from."""
    for i, ref in enumerate(fields.models):
        target = targets.get(ref.target)
        sources = _checked(target, targets)
        if target is None or not sources:
            continue
        what = "merge" if len(sources) > 1 else "onnx"
        precision = {"precision": getattr(target.fields, "precision", None)}
        model = Edge("model", ref, MODEL_KINDS, "", ("models", i))
        yield Measurement(
            part=f"check.{ref}",
            role=f"check.{ref}",
            kind="benchmark-check",
            fields={"what": what} | (precision if what == "onnx" else {}),
            inputs=(model, *sources, *_data_edges(fields)),
        )


def _baseline(fields: BenchmarkFields) -> Iterator[Measurement]:
    if fields.baseline:
        train = Edge("train", fields.baseline, ("dataset",), "train", ("baseline",))
        yield Measurement(
            part="baseline",
            role="baseline",
            kind="benchmark-baseline",
            fields={},
            inputs=(train, *_data_edges(fields)),
        )


def _latency(
    owner: str, fields: BenchmarkFields, targets: Mapping[str, Target]
) -> Iterator[Measurement]:
    """Yield structure and latency of all models but adapters that are not shipped so.

    The latency's key holds the structures, and of the models' content nothing, unless `remeasure`
    is `always`.
    """
    models, adapters = [], []
    for i, ref in enumerate(fields.models):
        target, field = targets.get(ref.target), ("models", i)
        if base := _slotted(target):
            models.append(Edge(f"model[{i}]", base, ("onnx",), "", field))
            adapters.append(Edge(f"adapter[{i}]", ref, ("onnx-adapter",), "", field))
        elif not _is_adapter(target):
            models.append(Edge(f"model[{i}]", ref, MODEL_KINDS, "", field))
    models += adapters
    if not models:
        return
    yield Measurement(
        part="structure",
        role="sizes",
        kind="benchmark-structure",
        fields={},
        inputs=tuple(models),
        output="sizes",
    )
    is_keyed = fields.latency.remeasure == "always"
    yield Measurement(
        part="latency",
        role="latency",
        kind="benchmark-latency",
        fields=fields.latency.model_dump(),
        inputs=(
            Edge("structure", Ref(owner), (), "structure", sibling="structure"),
            *(msgspec.structs.replace(edge, keyed=is_keyed) for edge in models),
        ),
    )


def _check_scores(fields: BenchmarkFields) -> Problem | None:
    names = score_names(fields.scores)
    for name in names:
        if name in METRICS or names.count(name) > 1:
            return Problem(
                f"there is more than one figure {name!r}",
                "call the function in `score` something else",
            )
    return None


def _check_gates(fields: BenchmarkFields, measured: set[str], commands: set[str]) -> Problem | None:
    for gate in fields.judges:
        if gate.command:
            continue
        if gate.over and fields.seeds == 1:
            return Problem(
                f"the gate {gate.text!r} asks for a {gate.over} over seeds", "set `seeds: 3`"
            )
        if name := unmeasured(gate, measured):
            return Problem(
                f"the gate {gate.text!r} names {name!r}, which is not measured here",
                f"measured are {', '.join(sorted(measured | commands))}",
            )
    return None


def unmeasured(gate: Gate, measured: Set[str]) -> str:
    """Return the first model or data set of a gate that is not measured; "" if all are."""
    for name in (*gate.names, gate.versus):
        if name and name not in measured:
            return name
    return ""


def _is_adapter(target: Target | None) -> bool:
    return target is not None and isinstance(target.fields, AdapterFields)


def _slotted(target: Target | None) -> Ref | None:
    """Return the ONNX model in whose slots an adapter answers; None for all else."""
    fields = target.fields if target else None
    return fields.base if isinstance(fields, OnnxAdapterFields) else None


def _base(adapter: Target) -> Ref:
    assert isinstance(adapter.fields, AdapterFields)
    if adapter.fields.model is None:
        raise RecipeError(
            f"the base of {adapter.name} is not known",
            hint="name its `model`, or list a merge of the two",
        )
    return adapter.fields.model


def _checked(target: Target | None, targets: Mapping[str, Target]) -> list[Edge]:
    """Return edges to what a converted model is compared with; none for other models.

    A merge is compared with its base and adapter, an ONNX model with its source.
    """
    match target.fields if target else None:
        case MergedFields(model=Ref() as model, adapter=Ref() as adapter, onto="base") if (
            not begins_elsewhere(adapter, targets)
        ):
            return [
                Edge("base", model, ("model", "merged")),
                Edge("adapter", adapter, ("adapter",)),
            ]
        case OnnxFields(model=Ref() as model, adapter=None, provider="cpu"):
            return [Edge("source", model, ("model", "merged"))]
        case _:
            return []


STEP = Benchmark()
