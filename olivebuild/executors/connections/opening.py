"""The fields of an executor -> the connection to its agent, over an environment if it names one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from olivebuild.core.errors import BuildError, InputError, RecipeError
from olivebuild.core.fs.small_files import read_text
from olivebuild.executors.connections.ssh import SshConnection, problem_of_python
from olivebuild.executors.connections.words import WordsConnection
from olivebuild.executors.site.connection import Connection, LocalConnection
from olivebuild.recipe import executors as declared

if TYPE_CHECKING:
    from olivebuild.executors.environments.prepare import Environment, Wanted
    from olivebuild.recipe.file import Recipe

PYTHON = "python3"
NAMES_OF_PYTHON = ("python", "python3", "python.exe", "bin/python", "Scripts/python.exe")


class Here(NamedTuple):
    """Where an environment is to be made on this machine."""

    label: str
    python: str

    def command(self, words: Sequence[str]) -> list[str]:
        return [*words]

    def problem(self, code: int, errors: str) -> BuildError:
        fact, hint = problem_of_python(self.python, code, errors)
        return InputError(f"{self.label}: {fact}", hint=hint)


def connect(
    recipe: Recipe,
    name: str,
    machine: declared.Site,
    libraries: Callable[[str], Mapping[str, str]],
) -> Connection:
    """Return the connection of an executor; `libraries` as open_declared has it.

    Raises RecipeError for a path that is none, and InputError where no environment can be made.
    """
    label = f"{name} ({machine.kind})"
    variables = {k: text_of(v) for k, v in (machine.variables or {}).items()}
    wanted = _wanted(recipe, name, machine, libraries)
    if isinstance(machine, declared.Python):
        program = _program(recipe, name, machine)
        return _local(label, program, _with_path(recipe, machine, variables), wanted, machine.root)
    if not isinstance(machine, declared.Reached):
        return LocalConnection(label, variables=variables)
    if machine.command is None and machine.host is None:
        program = os.path.expanduser(machine.python or "")
        return _local(label, program, variables, wanted, machine.root)
    python = machine.python or PYTHON
    way: SshConnection | WordsConnection
    if machine.command:
        way = WordsConnection(label, machine.command, python, variables)
    else:
        config = str(path_of(recipe, machine.ssh_config)) if machine.ssh_config else ""
        way = SshConnection(name, machine.host or "", machine.port or 0, config, python, variables)
    if wanted is None:
        return way
    from olivebuild.executors.environments.prepare import prepare

    made = prepare(way, python, machine.root or "", wanted)
    return way._replace(python=made.python, there=_importing(made, variables))


def _local(
    label: str, program: str, variables: dict[str, str], wanted: Wanted | None, root: str | None
) -> LocalConnection:
    if wanted is None:
        return LocalConnection(label, program=program, variables=variables)
    from olivebuild.executors.environments.prepare import prepare

    python = program or PYTHON
    made = prepare(
        Here(label, python), python, root or "", wanted, environment=os.environ | variables
    )
    return LocalConnection(label, program=made.python, variables=_importing(made, variables))


def _importing(made: Environment, variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables with which the package is imported from where it was put."""
    more = variables.get("PYTHONPATH", "")
    return {**variables, "PYTHONPATH": f"{made.code}:{more}" if more else made.code}


def _wanted(
    recipe: Recipe,
    name: str,
    machine: declared.Site,
    libraries: Callable[[str], Mapping[str, str]],
) -> Wanted | None:
    """Return what the environment of an executor is made of; None where it is there as it is."""
    by_lock = isinstance(machine, declared.Prepared) and machine.environment is not None
    conda = machine.conda if isinstance(machine, declared.Prepared) else None
    lines = machine.requirements if isinstance(machine, declared.Python) else None
    if not (by_lock or conda or lines):
        return None
    from olivebuild.executors.environments import content
    from olivebuild.executors.environments.prepare import Wanted

    if conda:
        text = _text_of_file(recipe, name, "conda", conda)
        return Wanted("conda", content.least_requirements(), text)
    if lines:
        text = _text_of_file(recipe, name, "requirements", lines)
        return Wanted("above", [*content.least_requirements(), *text.splitlines()])
    versions = libraries(name)
    lines_of_steps = content.requirements(versions) if versions else content.least_requirements()
    return Wanted("venv", lines_of_steps)


def _text_of_file(recipe: Recipe, name: str, field: str, value: str) -> str:
    path = path_of(recipe, value)
    try:
        return read_text(path)
    except (OSError, ValueError) as e:
        raise RecipeError(
            f"executors.{name}.{field}: {path} can't be read: {e}",
            where=recipe.document.where(("executors", name, field)),
            hint="name a text file, from the recipe's folder on",
        ) from None


def _program(recipe: Recipe, name: str, machine: declared.Python) -> str:
    """Return the interpreter in the folder that `path` names; "" for this one."""
    if not machine.path:
        return ""
    folder = path_of(recipe, machine.path)
    for candidate in NAMES_OF_PYTHON:
        if (folder / candidate).is_file():
            return str(folder / candidate)
    raise RecipeError(
        f"executors.{name}.path: there is no python in {folder}",
        where=recipe.document.where(("executors", name, "path")),
        hint="name the folder that holds it, `env/bin`",
    )


def _with_path(
    recipe: Recipe, machine: declared.Python, variables: dict[str, str]
) -> dict[str, str]:
    """Return variables with folders in front of PATH."""
    if not machine.prepend_to_path:
        return variables
    folders = [str(path_of(recipe, folder)) for folder in machine.prepend_to_path]
    path = variables.get("PATH", os.environ.get("PATH", ""))
    return variables | {"PATH": os.pathsep.join([*folders, path])}


def path_of(recipe: Recipe, text: str) -> Path:
    """Return a path of the recipe's: from its folder, or from the user's home."""
    return recipe.folder / os.path.expanduser(text)


def text_of(value: object) -> str:
    """Return a value as a variable of the environment has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
