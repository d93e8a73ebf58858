"""Declaration of the kind `sample`: its fields, its input and its output. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from olivebuild.api.fields import Fields
from olivebuild.api.node import FileInput
from olivebuild.api.step import Step


class SampleFields(Fields):
    """The fields of a `sample` target."""

    file: str
    lines: Annotated[int, Field(ge=1)]
    seed: int = 0


class Sample(Step):
    """Lines of a text file, drawn without replacement, in the order of the file."""

    kind = "sample"
    fields = SampleFields
    summary = "`lines` lines of `file`, drawn at random by `seed`"
    runner = "olivebuild_sample.run"

    def files(self, fields: SampleFields) -> list[FileInput]:
        """Return the file, whose content enters the key."""
        return [FileInput("file", fields.file, ("file",))]

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        """Return the outputs: `TARGET` is the folder, `TARGET.rows` the file in it."""
        return {"": ".", "rows": "rows.txt"}


STEP = Sample()
