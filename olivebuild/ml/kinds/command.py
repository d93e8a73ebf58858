"""Runs the program of a command.

Reads plain fields and imports little: a quick program should not wait for a start that is slower
than itself.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.result import Result
from olivebuild.core import environment
from olivebuild.core.errors import InputError, StepError
from olivebuild.core.exit_reasons import ending, kills
from olivebuild.core.fs import portable_names
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.processes import python
from olivebuild.steps.parts.command_line import SLOT, named_inputs, named_outputs

if TYPE_CHECKING:
    from olivebuild.api.job import Job

GRACE_SECONDS = 2


def run(job: Job) -> None:
    """Run the program, and keep its outputs.

    The fields are those of CommandFields, as the recipe gave them: they were checked when the graph
    was made.
    """
    fields: dict[str, Any] = job.action.fields
    line, shell = str(fields["run"]), bool(fields.get("shell", False))
    paths = {("outputs", n): job.out / p for n, p in named_outputs(fields["outputs"]).items()}
    paths |= {("inputs", n): _copy(job, n) for n in named_inputs(fields.get("inputs", {}))}
    for (what, _), path in paths.items():
        if what == "outputs":
            path.parent.mkdir(parents=True, exist_ok=True)

    def fill(word: str) -> str:
        return SLOT.sub(lambda m: str(job.out if m[3] else paths[m[1], m[2]]), word)

    command = [fill(word) for word in shlex.split(line)]
    if command[0] in ("python", "python3"):
        # The interpreter that olivebuild runs in, with its libraries; a bare name may be another
        # one.
        command[:1] = python(isolated=False)
    run: str | list[str] = fill(line) if shell else command
    killed, before = kills(), _peak()
    listed = fields.get("env", {})
    passed = {name: os.environ[name] for name in listed.get("passed", ()) if name in os.environ}
    base = environment.of_command(os.environ, (*listed.get("keyed", ()), *passed))
    try:
        code = _call(
            run,
            environment.Mask(passed.values()),
            {
                "shell": shell,
                "cwd": job.action.recipe_folder,
                "env": base | fields.get("environment", {}) | {"OLIVEBUILD_OUT": str(job.out)},
                "stdin": subprocess.DEVNULL,
            },
        )
    except OSError as e:
        raise InputError(
            f"{command[0]} can't be run: {e.strerror}",
            where=job.where("run"),
            hint="is it installed and executable?",
        ) from None
    if code != 0:
        peak = _peak()
        # What is told is the largest of all programs so far.
        told, why = ending(code, peak if peak > before else 0, killed)
        hint = f"`olivebuild log {job.action.target}` shows its output" + (
            f"; {why}" if why else ""
        )
        raise StepError(
            f"{job.action.target}: the command {told}", where=job.where("run"), hint=hint
        )
    job.result = Result(metrics=_metrics(job, str(fields.get("metrics") or "")))


def _peak() -> int:
    """Return the most memory that a program of this process took, in bytes.

    0 where the system does not tell.
    """
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _call(run: str | list[str], mask: environment.Mask, how: Any) -> int:
    """Run a program; the exit code. What it says goes into the log, secrets replaced."""
    if not mask:
        return subprocess.run(run, check=False, **how).returncode
    ended = threading.Event()
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)

    def copy() -> None:
        assert process.stdout
        while data := os.read(process.stdout.fileno(), 1 << 16):
            if not ended.is_set():
                _write(mask.feed(data))
        if not ended.is_set():
            _write(mask.rest())

    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    code = process.wait()
    # What it left running may hold its output open; that ends with our session, and goes into no
    # other action's log.
    copying.join(GRACE_SECONDS)
    ended.set()
    return code


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _copy(job: Job, name: str) -> Path:
    """A program gets copies, so that it can't change what others read."""
    source = Path(job.input(name).path)
    place = job.out.parent / "inputs" / name.replace(".", "_")
    place.mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, place / source.name)
    else:
        shutil.copyfile(source, place / source.name)
    return place / source.name


def _is_finite(value: float) -> bool:
    """Return whether a number is one that JSON and a float hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _metrics(job: Job, name: str) -> dict[str, object]:
    if not name:
        return {}
    file = job.out / name
    try:
        data = read_json(file)
    except (OSError, ValueError, RecursionError) as e:
        raise StepError(
            f"{name} can't be read: {e}",
            where=job.where("metrics"),
            hint="the command writes it as a JSON object of numbers",
        ) from None
    if not isinstance(data, dict) or not all(isinstance(v, int | float) for v in data.values()):
        raise StepError(
            f"{name} is not a JSON object of numbers",
            where=job.where("metrics"),
            hint='for example {"accuracy": 0.9}',
        )
    for metric, value in data.items():
        if not _is_finite(value) or not portable_names.is_text(metric):
            fact = f"{name}: {metric!r} is {str(value)[:40]}, which is no metric"
            raise StepError(
                fact,
                where=job.where("metrics"),
                hint="a metric has a name that is text and a finite value; leave out what "
                "could not be "
                "measured",
            )
    return data
