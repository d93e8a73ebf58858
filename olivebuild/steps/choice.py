"""The best of a benchmark's ONNX models under gates: a folder that holds the same files, under a
name of its own.

Choosing is an action. What it chooses by is in its key: the benchmark's figures, the candidates,
the figure and the gates. So an edited gate
chooses anew and measures nothing, and a choice whose model was rebuilt follows it. A benchmark's
own gates stay outside of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from olivebuild.api.step import Edge, Fields, Node, Ref, Step, Target
from olivebuild.core.errors import InvalidValue, RecipeError
from olivebuild.core.text import did_you_mean
from olivebuild.metrics.gates import FIGURES, Gate
from olivebuild.steps.benchmark import BenchmarkFields


class ChoiceFields(Fields):
    by: Ref
    """The benchmark; the ONNX models that it lists are the candidates."""
    best: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]*\.)?[a-z][a-z0-9_]*$")] = "accuracy"
    """A figure of the benchmark, `accuracy`, `tokens_per_second` or `size` for example;
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
            # Names are not in keys; which of the figures are whose is in the benchmark's.
            edges += [
                Edge(f"model[{i}]", ref, ("onnx",), field=("by",), streams_tensors=True)
                for i, ref in enumerate(models)
            ]
        return [self.node(target.name, target.name, fields, edges)]

    def parameters(self, fields: Fields) -> dict[str, object]:
        return fields.model_dump(mode="json", exclude={"by"})


def _check(fields: ChoiceFields, judged: BenchmarkFields) -> None:
    """Raises RecipeError for a figure, a data set or a gate that the benchmark has not."""
    own = [text.rpartition(":")[2] for text in judged.scores]
    data, _, figure = fields.best.rpartition(".")
    sets = [ref.target for ref in judged.data_sets]
    # A score of the user's own counts like a figure of ours.
    if figure not in (*FIGURES, *own):
        raise RecipeError(
            f"there is no figure {figure!r} to choose by",
            hint=did_you_mean(figure, [*FIGURES, *own]),
        )
    if data and data not in sets:
        raise RecipeError(f"{fields.by} has no data set {data!r}", hint=did_you_mean(data, sets))
    known = {*sets, *(str(m) for m in judged.models)}
    for text in fields.gates:
        try:
            gate = Gate.parse(text, own, [m.target for m in judged.metrics])
        except InvalidValue as e:
            fact, hint = e.problem
            raise RecipeError(fact, hint=hint) from None
        odd = (
            []
            if gate.command
            else [
                n for n in (*gate.names, *([gate.versus] if gate.versus else [])) if n not in known
            ]
        )
        if odd:
            raise RecipeError(
                f"the gate {text!r} names {odd[0]!r}, which {fields.by} does not measure",
                hint=did_you_mean(odd[0], known),
            )


STEP = Choice()
