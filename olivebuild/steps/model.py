"""Base model: a folder used where it lies, a hub snapshot, or a converted GGUF file."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from olivebuild.api.step import Fields, FileInput, Step
from olivebuild.core.errors import InvalidValue, Problem
from olivebuild.formats import template_clock
from olivebuild.formats.source import Source
from olivebuild.formats.template_clock import FREEZE


class ModelFields(Fields):
    source: Source
    trust_remote_code: bool = False
    """Code of the model's own may run, and what its configuration names may be loaded."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number format of the folder that is made of a GGUF file."""
    template_date: str | None = None
    """For a chat template that reads the clock: the date that it is told, `2026-11-28`.

    `freeze`: that of olivebuild.lock, which is also
    written into the template of what is published. Without the field: that of olivebuild.lock, and
    the published template stays the model's own."""

    @field_validator("template_date")
    @classmethod
    def _a_date(cls, value: str) -> str:
        if value != FREEZE:
            try:
                template_clock.check_date(value)
            except InvalidValue as e:
                fact, hint = e.problem
                raise InvalidValue(fact, f"{hint}, or {FREEZE}") from None
        return value


class Model(Step):
    kind = "model"
    fields = ModelFields
    summary = (
        "a base model: a folder, hf:ID, gguf:FILE, pypi:PACKAGE==VERSION!FILE, az: s3: or gs: URL"
    )
    runner = "olivebuild.ml.kinds.model"
    lazy = True

    def referenced_folder(self, fields: ModelFields) -> str | None:
        return fields.source.name if fields.source.scheme == "file" else None

    def files(self, fields: ModelFields) -> list[FileInput]:
        if fields.source.scheme != "gguf":
            return []
        return [FileInput("source", fields.source.name, ("source",))]

    def libraries(self, fields: ModelFields) -> tuple[str, ...]:
        return ("gguf", "torch", "transformers") if fields.source.scheme in ("gguf", "pypi") else ()

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, ModelFields)
        # A snapshot is what the hub holds; only a converted model has a number format of our
        # choosing.
        if fields.source.looks_first:
            return {"trust_remote_code": fields.trust_remote_code}
        return {"dtype": fields.dtype}

    def check(self, fields: ModelFields) -> Problem | None:
        source = fields.source
        if source.scheme == "file" and source.name.endswith(".gguf"):
            return Problem("a GGUF file is named with its scheme", f"write gguf:{source.name}")
        if source.scheme == "pypi" and not source.member.endswith(".gguf"):
            return Problem(
                "only a .gguf file inside a wheel can be a model", "name it after the `!`"
            )
        return None


STEP = Model()
