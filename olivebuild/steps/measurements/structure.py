"""Structures and sizes of a benchmark's models: what latency depends on instead of their content.

formats/structure/model.py has what a structure is.
"""

from __future__ import annotations

from collections.abc import Mapping

from olivebuild.api.step import Fields, Step


class StructureFields(Fields):
    """A structure is what it is."""


class BenchmarkStructure(Step):
    kind = "benchmark-structure"
    fields = StructureFields
    runner = "olivebuild.ml.kinds.measurements.structure"

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        return {"": ".", "structure": "structure.json", "sizes": "sizes.json"}

    def reuses_worker(self, fields: StructureFields) -> bool:
        return True


STEP = BenchmarkStructure()
