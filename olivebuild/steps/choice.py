"""Choice: the best of a benchmark's ONNX models under gates.

The result is a folder with the same files, under a name of its own. Choosing is an action. Its key
holds the benchmark's metrics, the candidates, the metric and the gates. So an edited gate chooses
again and measures nothing, and a choice whose model was rebuilt follows it. The gates of a
benchmark stay outside of keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Annotated

from pydantic import Field

from olivebuild.api.step import Edge, Fields, Node, Ref, Step, Target
from olivebuild.core.errors import InvalidValue, RecipeError
from olivebuild.core.text import did_you_mean
from olivebuild.metrics.gates import METRICS, Gate
from olivebuild.steps.benchmark import BenchmarkFields, score_names, unmeasured


class ChoiceFields(Fields):
    by: Ref
    """The benchmark; the ONNX models that it lists are the candidates."""
    best: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]*\.)?[a-z][a-z0-9_]*$")] = "accuracy"
    """A metric of the benchmark, `accuracy`, `tokens_per_second` or `size` for example;
    `hard.accuracy` for that of another data set.
    """
    gates: list[str] = []
    """What a candidate must meet. A gate that names no model judges each."""
    strict: bool = False


class Choice(Step):
    kind = "choice"
    fields = ChoiceFields
    summary = "the `best` ONNX model of the benchmark `by` that meets all `gates`"
    runner = "olivebuild.ml.kinds.choice"

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        fields = target.fields
        assert isinstance(fields, ChoiceFields)
        edges = [Edge("by", fields.by, ("benchmark",), field=("by",))]
        judged = targets.get(fields.by.target)
        if judged and isinstance(judged.fields, BenchmarkFields):
            models = [
                ref
                for ref in judged.fields.models
                if ref.target in targets and targets[ref.target].kind == "onnx"
            ]
            if not models:
                raise RecipeError(
                    f"{fields.by} lists no ONNX model to choose from",
                    hint="list some under its `models`",
                )
            _check(fields, judged.fields)
            # Names are not in keys; which of the metrics are whose is in the benchmark's.
            edges += [
                Edge(f"model[{i}]", ref, ("onnx",), field=("by",), streams_tensors=True)
                for i, ref in enumerate(models)
            ]
        return [self.node(target.name, target.name, fields, edges)]

    def parameters(self, fields: Fields) -> dict[str, object]:
        return fields.model_dump(mode="json", exclude={"by"})


def _check(fields: ChoiceFields, judged: BenchmarkFields) -> None:
    """Raise RecipeError for a metric, a data set or a gate that the benchmark does not have."""
    scores = score_names(judged.scores)
    data, _, metric = fields.best.rpartition(".")
    sets = [ref.target for ref in judged.data_sets]
    # A score of the user's own counts like a metric of ours.
    if metric not in (*METRICS, *scores):
        raise RecipeError(
            f"there is no figure {metric!r} to choose by",
            hint=did_you_mean(metric, [*METRICS, *scores]),
        )
    if data and data not in sets:
        raise RecipeError(f"{fields.by} has no data set {data!r}", hint=did_you_mean(data, sets))
    measured = {*sets, *(str(m) for m in judged.models)}
    for text in fields.gates:
        _check_gate(text, fields.by, scores, [m.target for m in judged.metrics], measured)


def _check_gate(
    text: str, benchmark: Ref, scores: list[str], commands: list[str], measured: Set[str]
) -> None:
    """Raise RecipeError for a gate that is not well formed, or names what is not measured."""
    try:
        gate = Gate.parse(text, scores, commands)
    except InvalidValue as e:
        fact, hint = e.problem
        raise RecipeError(fact, hint=hint) from None
    name = "" if gate.command else unmeasured(gate, measured)
    if name:
        raise RecipeError(
            f"the gate {text!r} names {name!r}, which {benchmark} does not measure",
            hint=did_you_mean(name, measured),
        )


STEP = Choice()
