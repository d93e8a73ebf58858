"""Any program with declared inputs and outputs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from olivebuild.api.node import Program
from olivebuild.api.step import Edge, Fields, FileInput, Ref, Step
from olivebuild.core.environment import NAME
from olivebuild.core.errors import InvalidValue, Problem
from olivebuild.core.fs import portable_names
from olivebuild.steps.parts.command_line import (
    SLOT,
    named_inputs,
    named_outputs,
    program_of,
    words_of,
)


class Env(Fields):
    """Variables of the environment that a command gets beside those that all get.

    The values of `passed` ones are nowhere kept.
    """

    keyed: list[str] = []
    """Name and value count."""
    passed: list[str] = []
    """The name counts: for secrets, and for what does not change the result."""

    @field_validator("keyed", "passed")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not NAME.fullmatch(name):
                raise InvalidValue(
                    f"{name!r} is not the name of a variable", "values belong into `environment`"
                )
        # Order has no meaning here, so it must not change the key.
        return sorted(set(value))


class CommandFields(Fields):
    """`run` is a command line; {inputs.NAME}, {outputs.NAME} and {out} stand for paths.

    It runs in the recipe's folder.
    """

    run: Annotated[str, Field(min_length=1)]
    inputs: dict[str, Ref] | list[Ref] = {}
    files: list[str] = []
    outputs: (
        Annotated[dict[str, str], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    )
    metrics: str | None = None
    shell: bool = False
    gpu: bool = False
    environment: dict[str, str] = {}
    """Variables with the values that the recipe gives them."""
    env: Env = Env()


class Command(Step):
    kind = "command"
    version = 3
    changes: ClassVar = {
        3: "a command's environment holds a base and what `env` lists; modules beside its scripts "
        "count"
    }
    fields = CommandFields
    summary = "any program: `run`, with `inputs`, `files` and `outputs`"
    runner = "olivebuild.ml.kinds.command"
    floating = True

    def takes_gpu(self, fields: CommandFields) -> bool:
        return fields.gpu

    def reuses_worker(self, fields: CommandFields) -> bool:
        # The program has a process of its own anyway.
        return not fields.gpu

    def named_outputs(self, fields: CommandFields) -> dict[str, str]:
        return named_outputs(fields.outputs)

    def named_inputs(self, fields: CommandFields) -> dict[str, Ref]:
        return named_inputs(fields.inputs)

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        assert isinstance(fields, CommandFields)
        # A benchmark that shows the metrics needs to look at them alone.
        return {
            "": ".",
            **({"metrics": fields.metrics} if fields.metrics else {}),
            **self.named_outputs(fields),
        }

    def edges(self, fields: CommandFields) -> list[Edge]:
        # (name, the key or number by which the recipe has it)
        keys: list[tuple[str, str | int]]
        if isinstance(fields.inputs, list):
            keys = [(str(ref), i) for i, ref in enumerate(fields.inputs)]
        else:
            keys = [(name, name) for name in fields.inputs]
        refs = self.named_inputs(fields)
        return [Edge(name, refs[name], (), field=("inputs", key)) for name, key in keys]

    def files(self, fields: CommandFields) -> list[FileInput]:
        inputs = [FileInput(f"file.{i}", path, ("files", i)) for i, path in enumerate(fields.files)]
        # The words of the command line that are files below the recipe are scripts, and as much a
        # part of the result as it is.
        for i, word in enumerate(self.program(fields).words):
            if not word.startswith("/"):
                inputs.append(FileInput(f"script.{i}", word, ("run",), optional=True))
        return inputs

    def keyed(self, fields: CommandFields) -> tuple[str, ...]:
        return tuple(fields.env.keyed)

    def program(self, fields: CommandFields) -> Program:
        return program_of(fields.run, by_shell=fields.shell, environment=fields.environment)

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, CommandFields)
        outputs = self.named_outputs(fields)
        listed = {name: names for name, names in fields.env.model_dump().items() if names}
        values = fields.model_dump(mode="json", include={"run", "shell", "metrics", "environment"})
        return values | {"outputs": outputs} | ({"env": listed} if listed else {})

    def check(self, fields: CommandFields) -> Problem | None:
        try:
            if not words_of(fields.run, by_shell=fields.shell) or not shlex.split(fields.run):
                return Problem("`run` is empty", "name a program")
        except ValueError as e:
            return Problem(f"`run` is not a command line: {e}", "close the quotes")
        return _check_variables(fields) or _check_outputs(fields) or _check_slots(fields)


def _check_variables(fields: CommandFields) -> Problem | None:
    keyed, passed = set(fields.env.keyed), set(fields.env.passed)
    repeated = (keyed & passed) | ((keyed | passed) & fields.environment.keys())
    if repeated:
        return Problem(
            f"{min(repeated)} is said twice",
            "a variable is keyed, or passed, or gets its value from `environment`",
        )
    return None


def _check_outputs(fields: CommandFields) -> Problem | None:
    outputs = named_outputs(fields.outputs)
    if len(outputs) < len(fields.outputs):
        return Problem("two outputs would have one name", "write outputs as NAME: PATH")
    for path in (*outputs.values(), fields.metrics):
        if path and (problem := _check_path(path)):
            return problem
    if alike := portable_names.clash(outputs.values()):
        return Problem(
            f"the outputs {alike[0]!r} and {alike[1]!r} are one file on some systems",
            "call one of them something else",
        )
    return None


def _check_path(path: str) -> Problem | None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path:
        return Problem(
            f"the output {path!r} leaves the target's folder",
            "outputs are relative paths without ..",
        )
    if fault := portable_names.fault(path):
        return Problem(
            f"the output {path!r} can't be a file everywhere: {fault}", "call it something else"
        )
    return None


def _check_slots(fields: CommandFields) -> Problem | None:
    names = {
        "inputs": list(named_inputs(fields.inputs)),
        "outputs": list(named_outputs(fields.outputs)),
    }
    for group, name, _ in SLOT.findall(fields.run):
        if group and name not in names[group]:
            return Problem(
                f"`run` names {{{group}.{name}}}, which is not declared",
                f"declared are {', '.join(names[group]) or 'none'}",
            )
    return None


STEP = Command()
