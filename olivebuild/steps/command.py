"""Any program with declared inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from olivebuild import names
from olivebuild.step import KINDS, Edge, Fields, FileInput, Ref, Step
from olivebuild.steps import _program

if TYPE_CHECKING:
    from olivebuild.worker import Job


class CommandFields(Fields):
    """`run` is a command line; {inputs.NAME}, {outputs.NAME} and {out} stand for paths. It runs in the recipe's folder."""

    run: Annotated[str, Field(min_length=1)]
    inputs: dict[str, Ref] | list[Ref] = {}
    files: list[str] = []
    outputs: Annotated[dict[str, str], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    metrics: str | None = None
    shell: bool = False
    gpu: bool = False
    environment: dict[str, str] = {}


class Command(Step):
    kind = "command"
    version = 2
    fields = CommandFields
    summary = "any program: `run`, with `inputs`, `files` and `outputs`"
    runner = "olivebuild.steps._program"
    floating = True

    def takes_gpu(self, fields: CommandFields) -> bool:
        return fields.gpu

    def shares_process(self, fields: CommandFields) -> bool:
        # The program has a process of its own anyway.
        return not fields.gpu

    def named_outputs(self, fields: CommandFields) -> dict[str, str]:
        return _program.named_outputs(fields.outputs)

    def named_inputs(self, fields: CommandFields) -> dict[str, Ref]:
        return _program.named_inputs(fields.inputs)

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        assert isinstance(fields, CommandFields)
        # A benchmark that shows the metrics needs to look at them alone.
        return {"": ".", **({"metrics": fields.metrics} if fields.metrics else {}), **self.named_outputs(fields)}

    def edges(self, fields: CommandFields) -> list[Edge]:
        many = fields.inputs
        keys: list[tuple[str, str | int]] = [(str(r), i) for i, r in enumerate(many)] if isinstance(many, list) else [(n, n) for n in many]
        refs = self.named_inputs(fields)
        return [Edge(name, refs[name], KINDS, field=("inputs", key)) for name, key in keys]

    def files(self, fields: CommandFields) -> list[FileInput]:
        found = [FileInput(f"file.{i}", path, ("files", i)) for i, path in enumerate(fields.files)]
        # The words of the command line that are files below the recipe are scripts, and as much a part of the result as it is.
        for i, word in enumerate(_program.words(fields.run)):
            if not word.startswith(("-", "/")) and "{" not in word:
                found.append(FileInput(f"script.{i}", word, ("run",), optional=True))
        return found

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, CommandFields)
        outputs = self.named_outputs(fields)
        return fields.model_dump(mode="json", include={"run", "shell", "metrics", "environment"}) | {"outputs": outputs}

    def check(self, fields: CommandFields) -> str | None:
        try:
            if not _program.words(fields.run):
                return "`run` is empty; name a program"
        except ValueError as e:
            return f"`run` is not a command line: {e}; close the quotes"
        if isinstance(fields.outputs, list) and len(self.named_outputs(fields)) < len(fields.outputs):
            return "two outputs would have one name; write outputs as NAME: PATH"
        outputs, inputs = self.named_outputs(fields), self.named_inputs(fields)
        for path in [*outputs.values(), *([fields.metrics] if fields.metrics else [])]:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                return f"the output {path!r} leaves the target's folder; outputs are relative paths without .."
            if odd := names.fault(path):
                return f"the output {path!r} can't be a file everywhere: {odd}; call it something else"
        if alike := names.clash(outputs.values()):
            return f"the outputs {alike[0]!r} and {alike[1]!r} are one file on some systems; call one of them something else"
        for m in _program.SLOT.finditer(fields.run):
            known = list(inputs if m[1] == "inputs" else outputs)
            if m[1] and m[2] not in known:
                return f"`run` names {{{m[1]}.{m[2]}}}, which is not declared; declared are {', '.join(known) or 'none'}"
        return None

    def run(self, job: Job) -> None:
        _program.run(job)


STEP = Command()
