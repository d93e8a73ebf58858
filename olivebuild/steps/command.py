"""Any program with declared inputs and outputs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from olivebuild import names
from olivebuild.errors import InputError, StepError
from olivebuild.step import KINDS, Edge, Fields, FileInput, Ref, Result, Step
from olivebuild.worker import Job

_SLOT = re.compile(r"\{(inputs|outputs)\.([a-z0-9][a-z0-9_.-]*)\}|\{(out)\}")


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

    def takes_gpu(self, fields: CommandFields) -> bool:
        return fields.gpu

    def shares_process(self, fields: CommandFields) -> bool:
        # The program has a process of its own anyway.
        return not fields.gpu

    def named_outputs(self, fields: CommandFields) -> dict[str, str]:
        many = fields.outputs
        return dict(many) if isinstance(many, dict) else {PurePosixPath(path).stem.lower(): path for path in many}

    def named_inputs(self, fields: CommandFields) -> dict[str, Ref]:
        many = fields.inputs
        return dict(many) if isinstance(many, dict) else {str(ref): ref for ref in many}

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
        for i, word in enumerate(words(fields.run)):
            if not word.startswith(("-", "/")) and "{" not in word:
                found.append(FileInput(f"script.{i}", word, ("run",), optional=True))
        return found

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, CommandFields)
        outputs = self.named_outputs(fields)
        return fields.model_dump(mode="json", include={"run", "shell", "metrics", "environment"}) | {"outputs": outputs}

    def check(self, fields: CommandFields) -> str | None:
        try:
            if not words(fields.run):
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
        for m in _SLOT.finditer(fields.run):
            known = list(inputs if m[1] == "inputs" else outputs)
            if m[1] and m[2] not in known:
                return f"`run` names {{{m[1]}.{m[2]}}}, which is not declared; declared are {', '.join(known) or 'none'}"
        return None

    def run(self, job: Job) -> None:
        fields = job.fields(CommandFields)
        paths = {("outputs", n): job.out / p for n, p in self.named_outputs(fields).items()}
        paths |= {("inputs", n): _copy(job, n) for n in self.named_inputs(fields)}
        for (what, _), path in paths.items():
            if what == "outputs":
                path.parent.mkdir(parents=True, exist_ok=True)

        def fill(word: str) -> str:
            return _SLOT.sub(lambda m: str(job.out if m[3] else paths[m[1], m[2]]), word)

        command = [fill(word) for word in words(fields.run)]
        if command[0] in ("python", "python3"):
            # The interpreter that olivebuild runs in, with its libraries; a bare name may be another one.
            command[0] = sys.executable
        run: str | list[str] = fill(fields.run) if fields.shell else command
        environment = os.environ | fields.environment | {"OLIVEBUILD_OUT": str(job.out)}
        try:
            done = subprocess.run(run, shell=fields.shell, cwd=job.action.recipe_folder, env=environment, stdin=subprocess.DEVNULL, check=False)
        except OSError as e:
            raise InputError(f"{command[0]} can't be run: {e.strerror}", where=job.where("run"), hint="is it installed and executable?") from None
        if done.returncode != 0:
            hint = f"`olivebuild log {job.action.target}` shows its output"
            raise StepError(f"{job.action.target}: the command ended with {done.returncode}", where=job.where("run"), hint=hint)
        job.result = Result(metrics=_metrics(job, fields))


def words(run: str) -> list[str]:
    return shlex.split(run)


def _copy(job: Job, name: str) -> Path:
    """A program gets copies, so that it can't change what others read."""
    given = Path(job.input(name).path)
    place = job.out.parent / "inputs" / name.replace(".", "_")
    place.mkdir(parents=True)
    if given.is_dir():
        shutil.copytree(given, place / given.name)
    else:
        shutil.copyfile(given, place / given.name)
    return place / given.name


def _metrics(job: Job, fields: CommandFields) -> dict[str, object]:
    if not fields.metrics:
        return {}
    file = job.out / fields.metrics
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise StepError(
            f"{fields.metrics} can't be read: {e}", where=job.where("metrics"), hint="the command writes it as a JSON object of numbers"
        ) from None
    if not isinstance(data, dict) or not all(isinstance(v, int | float) for v in data.values()):
        raise StepError(f"{fields.metrics} is not a JSON object of numbers", where=job.where("metrics"), hint='for example {"accuracy": 0.9}')
    return data


STEP = Command()
