"""Conda files that the systems of a workflow name -> environment.yaml beside the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from olivebuild.core.errors import InputError
from olivebuild.recipe.importers.conda import Conda, read_conda
from olivebuild.recipe.importers.olive.draft import Draft
from olivebuild.recipe.importers.olive.top.systems import System, Systems
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path

EXTRAS = {
    "azure": ("az://", "azureml://", "abfss://", "blob.core.windows", "onelake."),
    "s3": ("s3://",),
    "gcs": ("gs://",),
}
"""An extra -> beginnings or parts of the sources that need it."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A conda file that was read, and the name of the file that is written for it."""

    source: str
    name: str
    conda: Conda


def read_environments(
    workflow: Workflow, systems: Systems, *, trust_index: bool
) -> list[Environment]:
    """Return what becomes of the conda files, and have the executors name the new ones.

    A file that is not there is noted at the value that names it. Raises RecipeError for one that
    is no conda file.
    """
    environments: dict[str, Environment] = {}
    for system in systems.named.values():
        lines = workflow.draft.executors.get(system.name, {})
        line = lines.get("conda")
        place = _place(system)
        if line is None or place is None or not isinstance(value := place[1], str):
            continue
        if value not in environments:
            number = len(environments) + 1
            name = "environment.yaml" if number == 1 else f"environment-{number}.yaml"
            conda = _read(workflow, system, value, trust_index=trust_index)
            if conda is None:
                workflow.ledger.meant_else(
                    place[0],
                    "there is no such file: no environment is written for it",
                    f"executors.{system.name}.conda",
                )
                continue
            environments[value] = Environment(source=value, name=name, conda=conda)
        lines["conda"] = replace(line, value=environments[value].name)
    return list(environments.values())


def _place(system: System) -> tuple[Path, object] | None:
    """Return the path and the value of a system's conda file."""
    key = "aml_docker_config"
    below = system.options.value.get(key)
    if not isinstance(below, dict) or "conda_file_path" not in below:
        return None
    return (*system.options.path, key, "conda_file_path"), below["conda_file_path"]


def _read(workflow: Workflow, system: System, value: str, *, trust_index: bool) -> Conda | None:
    providers = system.reading.providers
    try:
        return read_conda(
            workflow.folder / value,
            shown=value,
            provider=str(next((p for p in providers if p != "cpu"), "cpu")),
            extras=_extras(workflow.draft),
            trust_index=trust_index,
        )
    except (OSError, InputError):
        return None


def _extras(draft: Draft) -> list[str]:
    """Return the extras that the sources of a recipe need."""
    sources = [str(target.get("source") or "") for target in draft.targets.values()]
    return [
        extra
        for extra, signs in EXTRAS.items()
        if any(sign in source for source in sources for sign in signs)
    ]
