"""Dataset: rows -> train and test, rendered by templates, deduplicated and split.

Near-duplicates stay on one side of the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from olivebuild.api.fields import only_one
from olivebuild.api.step import Alternatives, Fields, FileInput, Step
from olivebuild.core.errors import Problem
from olivebuild.data.slices import Slice
from olivebuild.formats.source import Source

FORMATS = (("prompt", "completion"), ("user", "assistant"), ("messages",), ("text",))
"""The fields of each format; a data set has one."""
TEST_OR_HOLDOUT = only_one(
    "test",
    "holdout",
    fact="`test` and `holdout` don't go together",
    hint="the test rows come from one or the other",
)


class DatasetFields(Fields):
    source: Source | list[Source]
    test: Source | list[Source] | None = None
    prompt: str | None = None
    completion: str | None = None
    user: str | None = None
    assistant: str | None = None
    messages: str | None = None
    text: str | None = None
    label: str | None = None
    holdout: Annotated[float, Field(ge=0, le=1)] = 0.2
    seed: int = 0
    dedupe: bool = True
    near_duplicates: bool = True
    group_by: str | None = None
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.05
    strict: bool = False
    subset: str | None = None
    split: str | None = None
    """Files of a folder or repository: those that its card or their paths name so."""
    slice: str | None = None
    """Of the rows of `source`, in the order of the files; before `where`."""
    where: dict[str, str | int | float | bool] | None = None

    @field_validator("slice")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            Slice.parse(value)
        return value


LATER = (
    "near_duplicates",
    "group_by",
    "max_dropped",
    "strict",
    "subset",
    "split",
    "slice",
    "where",
)
"""Fields that were added later: at their defaults they are left out of keys, which stay equal."""


class Dataset(Step):
    kind = "dataset"
    version = 4
    changes: ClassVar[Mapping[int, str]] = {
        4: "where rows stand in their files is kept beside them; a `system` column, `developer`, "
        "`thinking` and `tools` without a type are read",
        3: "rows are read in more forms, whole numbers and dates as a person writes them, and what "
        "all rows share is not compared for likeness",
    }
    fields = DatasetFields
    alternatives = (Alternatives(groups=FORMATS), TEST_OR_HOLDOUT)
    summary = (
        "rows from json, jsonl, csv or parquet, packed or not, rendered, deduplicated and split "
        "into .train and .test"
    )
    runner = "olivebuild.ml.kinds.dataset"

    def libraries(self, fields: DatasetFields) -> tuple[str, ...]:
        return ("pyarrow",)

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        return {"": ".", "train": "train.parquet", "test": "test.parquet"}

    def source(self, fields: DatasetFields) -> Source | None:
        return fields.source if isinstance(fields.source, Source) and fields.source.remote else None

    def files(self, fields: DatasetFields) -> list[FileInput]:
        inputs = []
        for name in ("source", "test"):
            value = getattr(fields, name)
            for i, source in enumerate(_as_list(value)):
                field = (name, i) if isinstance(value, list) else (name,)
                if source.scheme == "file":
                    inputs.append(FileInput(f"{name}.{i}", source.name, field))
        return inputs

    def check(self, fields: DatasetFields) -> Problem | None:
        templates = [
            name for names in FORMATS for name in names if getattr(fields, name) is not None
        ]
        if tuple(templates) not in FORMATS:
            forms = "prompt and completion, user and assistant, messages, or text"
            return Problem(
                f"its rows need exactly one of {forms}, not {', '.join(templates) or 'none'}",
                "see `olivebuild schema`",
            )
        if problem := _check_sources(fields) or _check_choice(fields):
            return problem
        return TEST_OR_HOLDOUT.problem(fields)

    def parameters(self, fields: Fields) -> dict[str, object]:
        default = {name: type(fields).model_fields[name].default for name in LATER}
        return {
            name: value
            for name, value in super().parameters(fields).items()
            if name not in LATER or value != default[name]
        }


def _as_list(value: Source | list[Source] | None) -> list[Source]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _check_sources(fields: DatasetFields) -> Problem | None:
    sources, tests = _as_list(fields.source), _as_list(fields.test)
    is_model = not all(s.may_be("dataset") for s in (*sources, *tests))
    if is_model or any(s.remote for s in tests):
        return Problem(
            "a dataset comes from files, from hf:ID, or from a URL; test rows from files",
            "name json, jsonl, csv or parquet files",
        )
    if isinstance(fields.source, list) and any(s.remote for s in sources):
        return Problem("hf:ID or a URL can't stand in a list", "make a dataset of each")
    return None


def _check_choice(fields: DatasetFields) -> Problem | None:
    """Return a problem where `subset` or `split` would choose among the files of a file."""
    chosen = [name for name in ("subset", "split") if getattr(fields, name) is not None]
    if not chosen:
        return None
    from olivebuild.data.readers import kind_of

    files = [
        s.name for s in _as_list(fields.source) if s.scheme == "file" and kind_of(Path(s.name))
    ]
    if files:
        return Problem(
            f"`{chosen[0]}` chooses files of a folder or repository, and {files[0]} is a file",
            "leave it out; `slice` and `where` choose rows",
        )
    return None


STEP = Dataset()
