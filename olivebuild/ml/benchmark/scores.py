"""More scores of an answer.

The user's own score functions, and whether it is the JSON that was asked for.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, StepError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.scoring import Fields

Score = Callable[[str, dict[str, str]], float]


def load_score(job: Job, file: Path, name: str) -> Score:
    """The function `name` of a file; it runs here because the recipe says so.

    Raises InputError when there is none.
    """
    spec = importlib.util.spec_from_file_location(f"olivebuild_score_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # noqa: BLE001
        # The user's own file: it may raise anything.
        hint = (
            "it is run alone, without the recipe's folder on the module path; only its own file is "
            "part of the key"
        )
        raise InputError(
            f"{file.name} can't be run: {type(e).__name__}: {e}",
            where=job.where("score"),
            hint=hint,
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(
            f"{file.name} has no function {name}",
            where=job.where("score"),
            hint=f"def {name}(text, row): ... returns a number",
        )

    def score(text: str, row: dict[str, str]) -> float:
        try:
            value = function(text, dict(row))
        except Exception as e:
            fact = f"{name} failed on {text[:80]!r}: {type(e).__name__}: {e}"
            raise StepError(
                fact,
                where=job.where("score"),
                hint=f"`olivebuild log {job.action.target}` has where",
            ) from e
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise StepError(
                f"{name} gave {value!r} for {text[:80]!r}",
                where=job.where("score"),
                hint="a score is a finite number; more is better",
            )
        return float(value)

    return score


class Schema:
    """A JSON schema, and the comparison of an answer with the right one, field by field."""

    def __init__(self, job: Job, file: Path) -> None:
        import jsonschema
        from referencing import Registry

        self._job = job
        try:
            schema = read_json(file)
            kind = jsonschema.validators.validator_for(schema)
            kind.check_schema(schema)
        except (ValueError, RecursionError, jsonschema.SchemaError) as e:
            fact = f"{file.name} is not a JSON schema: {first_line(e)}"
            raise InputError(
                fact,
                where=job.where("json_schema"),
                hint="https://json-schema.org tells how one is written",
            ) from None
        # A registry of our own: the default one fetches what a schema refers to.
        self._validator = kind(schema, registry=Registry())

    def judge(self, text: str, wanted: str) -> Fields:
        try:
            right = flatten(parse(wanted))
        except ValueError as e:
            hint = "with `json_schema` the completions of the data set are JSON"
            raise InputError(
                f"the right answer is not JSON: {e}: {wanted[:80]!r}",
                where=self._job.where("data"),
                hint=hint,
            ) from None
        try:
            value = parse(text)
        except ValueError:
            return Fields(False, False, dict.fromkeys(right, False))
        fields = flatten(value)
        return Fields(
            self._valid(value),
            fields == right,
            {name: fields.get(name) == value for name, value in right.items()},
        )

    def _valid(self, value: Any) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return bool(self._validator.is_valid(value))
        except Unresolvable as e:
            hint = "nothing is fetched: put what it refers to under $defs"
            raise InputError(
                f"the JSON schema refers to what is not in it: {e}",
                where=self._job.where("json_schema"),
                hint=hint,
            ) from None
        except RecursionError:
            return False


def parse(text: str) -> Any:
    """Return JSON text as a value.

    Raises ValueError for what is not JSON: also for NaN, which only Python reads, and for nesting
    without end.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Return the leaves of a JSON value by their dotted names, as canonical JSON.

    {"a": {"b": 1}, "c": [2]} gives {"a.b": "1", "c": "[2]"}: a list is one leaf.
    """
    if isinstance(value, dict) and value:
        return {
            name: leaf
            for key, item in value.items()
            for name, leaf in flatten(item, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: json.dumps(value, sort_keys=True, ensure_ascii=False)}
