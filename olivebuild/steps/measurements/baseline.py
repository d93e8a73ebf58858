"""Accuracy of classical text classifiers on the same rows.

If they are as good, no language model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from olivebuild.api.step import Fields, Step


class BaselineFields(Fields):
    pass


class Baseline(Step):
    kind = "benchmark-baseline"
    version = 2
    changes: ClassVar[Mapping[int, str]] = {2: "answers are kept, to be compared row by row"}
    fields = BaselineFields
    runner = "olivebuild.ml.kinds.measurements.baseline"
    floating = True

    def libraries(self, fields: BaselineFields) -> tuple[str, ...]:
        return ("scikit-learn",)


STEP = Baseline()
