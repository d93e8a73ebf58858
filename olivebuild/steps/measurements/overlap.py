"""Test rows of a benchmark that its models were trained on, across data sets.

A data set keeps its own near-duplicates on one side of its split; what it knows nothing of are the
rows of other data sets, and of a file of test rows. The search needs rows alone, so it runs before
anything is trained.
"""

from __future__ import annotations

from olivebuild.api.step import Fields, Step


class OverlapFields(Fields):
    train: list[str]
    """Names of the inputs `train[i]`."""
    data: list[str]
    """Names of the inputs `data[i]`."""
    pairs: list[list[int]]
    """[i, j, near]: which of `train` and of `data` are compared, and whether near rows count."""


class Overlap(Step):
    kind = "benchmark-overlap"
    fields = OverlapFields
    runner = "olivebuild.ml.benchmark.overlap"

    def libraries(self, fields: OverlapFields) -> tuple[str, ...]:
        return ("pyarrow",)


STEP = Overlap()
