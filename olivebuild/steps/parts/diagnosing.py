"""Nodes of a benchmark that look for what no gate asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from olivebuild.api.step import Edge, Ref, Target
from olivebuild.steps.onnx import OnnxFields
from olivebuild.steps.parts.lineage import Lineage, edges_of, side_of, unguarded
from olivebuild.steps.parts.measurement import Measurement


def overlap(
    sets: Sequence[Ref], data: Sequence[Edge], lineage: Lineage, targets: Mapping[str, Target]
) -> Iterator[Measurement]:
    """Yield the search for test rows that were trained on, where no split has kept them apart."""
    train = {side_of(ref): ref for refs in lineage.trained_on.values() for ref in refs}
    pairs = unguarded(list(train.values()), sets, targets)
    if pairs:
        yield Measurement(
            part="overlap",
            role="overlap",
            kind="benchmark-overlap",
            fields={
                "train": list(train),
                "data": [ref.target for ref in sets],
                "pairs": pairs,
            },
            inputs=(*edges_of("train", list(train.values()), "train", "models"), *data),
        )


def sensitivity(
    owner: str,
    models: Sequence[Ref],
    data: Sequence[Edge],
    lineage: Lineage,
    targets: Mapping[str, Target],
) -> Iterator[Measurement]:
    """Yield for each int4 model beside its source the search for layers that want 8 bits.

    It waits for the answers of both, and ends at once where they differ by noise.
    """
    fields = lineage.fields()
    for i, ref in enumerate(models):
        target = targets.get(ref.target)
        model = target.fields if target else None
        row = fields[str(ref)]
        if row["precision"] != "int4" or not isinstance(model, OnnxFields) or not model.model:
            continue
        source = str(row["source"])
        answers = [
            Edge(role, Ref(owner), (), field=("models", i), sibling=f"accuracy.{name}")
            for role, name in (("answers", str(ref)), ("source_answers", source))
        ]
        yield Measurement(
            part=f"sensitivity.{ref}",
            role=f"sensitivity.{ref}",
            kind="benchmark-sensitivity",
            fields={},
            inputs=(
                Edge("model", ref, ("onnx",), "", ("models", i)),
                Edge("source", model.model, ("model", "merged"), "", ("models", i)),
                *answers,
                *data,
            ),
        )
