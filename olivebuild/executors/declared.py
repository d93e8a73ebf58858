"""Executors that a recipe declares: fields -> a way to the machine, and what starts jobs there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from olivebuild.core.errors import RecipeError
from olivebuild.executors.connections.opening import connect, path_of, text_of
from olivebuild.executors.site.executor import SiteExecutor
from olivebuild.recipe import executors as declared
from olivebuild.recipe.placeholders import within

if TYPE_CHECKING:
    from olivebuild.recipe.file import Recipe

LAUNCHERS = {"ssh": "process", "python": "process"}
"""Kind of executor -> what starts its jobs, where that has another name."""
JOBS = 16
"""How many steps are at a site at once, where the recipe does not say: it has its own queue."""


def open_declared(
    recipe: Recipe, libraries: Callable[[str], Mapping[str, str]], name: str
) -> SiteExecutor:
    """Return the executor of this name. Makes its environment, where it names one.

    `libraries` returns the versions that the steps of an executor need, by its name. Raises
    RecipeError for a field that is a placeholder, or names a file that is not there, and InputError
    where no environment can be made.
    """
    machine = recipe.executors[name]
    _check_filled(recipe, name)
    assert isinstance(machine, declared.Site)
    return SiteExecutor(
        name=name,
        connection=connect(recipe, name, machine, libraries),
        launcher=LAUNCHERS.get(machine.kind, machine.kind),
        options=options_of(recipe, machine),
        root=getattr(machine, "root", None) or "",
        jobs=machine.jobs or JOBS,
    )


def _check_filled(recipe: Recipe, name: str) -> None:
    top = recipe.document.value
    fields = top["executors"][name] if isinstance(top, dict) else {}
    for path, text in within(fields):
        field = ".".join(map(str, path))
        raise RecipeError(
            f"executors.{name}.{field} is a placeholder ({text}), and something is to run there",
            where=recipe.document.where(("executors", name, *path)),
            hint="write its value there; `--executor local` runs all on this machine",
        )


def options_of(recipe: Recipe, machine: declared.Site) -> dict[str, str]:
    """Return the fields of an executor's own kind, as a launcher is told them."""
    if isinstance(machine, declared.Python):
        return {}
    shared = {*declared.Prepared.model_fields, *declared.UNUSED}
    if isinstance(machine, declared.AzureML):
        # Two of its own are called as those that make an environment elsewhere.
        shared -= {"environment", "conda"}
    if isinstance(machine, declared.AzureML | declared.Docker | declared.Ray):
        # Their steps don't inherit the agent's environment.
        shared -= {"variables"}
    values = machine.model_dump(exclude_none=True, exclude=shared)
    if isinstance(machine, declared.Slurm):
        values |= values.pop("options", {})
    if "variables" in values:
        values["variables"] = {k: text_of(v) for k, v in values["variables"].items()}
    return {
        name: str(path_of(recipe, value))
        if name in declared.PATHS and isinstance(value, str)
        else _option(value)
        for name, value in values.items()
    }


def _option(value: object) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return text_of(value)
