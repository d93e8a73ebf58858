"""Executors of a recipe: machines on which targets are to be made, by name.

What is made is the same wherever it runs, so no executor is part of a key. Those of this version
run on this machine alone: a plan says in one line what would have run elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from olivebuild.api.fields import Fields

Texts = dict[str, str | int | float | bool]


class Local(Fields):
    """The machine of the command itself."""

    kind: Literal["local"]


class AzureML(Fields):
    """A compute of an Azure ML workspace."""

    kind: Literal["azureml"]
    subscription: str | None = None
    resource_group: str | None = None
    workspace: str | None = None
    workspace_file: str | None = None
    """A JSON file with the three, as Azure ML's portal gives it."""
    keyvault: str | None = None
    """The key vault that has the secret HF_TOKEN."""
    hf_token: bool | None = None
    """Whether the hub's token is taken from the key vault."""
    compute: str | None = None
    instances: Annotated[int, Field(gt=0)] | None = None
    datastore: str | None = None
    image: str | None = None
    dockerfile: str | None = None
    build_context: str | None = None
    conda: str | None = None
    requirements: str | None = None
    environment: str | None = None
    environment_version: str | int | None = None
    environment_label: str | None = None
    properties: dict[str, Any] | None = None
    """Of the job's resources, as Azure ML names them."""
    tags: Texts | None = None


class Docker(Fields):
    """A container on this machine."""

    kind: Literal["docker"]
    image: str | None = None
    base_image: str | None = None
    dockerfile: str | None = None
    build_context: str | None = None
    build_args: Texts | None = None
    run_args: dict[str, Any] | None = None
    requirements: str | None = None
    work_dir: str | None = None
    hf_token: bool | None = None


class Python(Fields):
    """Another Python on this machine."""

    kind: Literal["python"]
    path: str | None = None
    """The folder that holds its `python`."""
    variables: Texts | None = None
    prepend_to_path: list[str] | None = None
    requirements: str | None = None
    hf_token: bool | None = None


MODELS: dict[str, type[Fields]] = {
    "local": Local,
    "azureml": AzureML,
    "docker": Docker,
    "python": Python,
}
"""kind -> its fields"""
