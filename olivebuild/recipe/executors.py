"""Executors of a recipe: machines on which targets are to be made, by name.

What is made is the same wherever it runs, so no executor is part of a key. What the fields ask of
a machine is said in executors/declared.py, which opens one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from olivebuild.api.fields import Fields, only_one
from olivebuild.core.errors import InvalidValue, Problem

Texts = dict[str, str | int | float | bool]
HOST = re.compile(r"([A-Za-z0-9._][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,254}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[a-z][a-z0-9-]*")


def _is_host(value: str) -> str:
    if not HOST.fullmatch(value):
        # ssh would take a word that begins with a dash for an option, which can name a program.
        raise InvalidValue(
            f"{value!r} is no host", "write HOST, USER@HOST, or a Host of ssh_config"
        )
    return value


def _is_plain(value: str) -> str:
    if not value or not value.isprintable() or value[0] == "-":
        raise InvalidValue(
            f"{value!r} can't be handed on", "write one line that has no leading dash"
        )
    return value


def _are_variables(values: Texts) -> Texts:
    for name in values:
        if not VARIABLE.fullmatch(name):
            raise InvalidValue(f"{name!r} is no name of a variable", "write NAME: value")
    return values


def _are_options(values: Texts) -> Texts:
    for name in values:
        if not OPTION.fullmatch(name):
            hint = "write the long name without its dashes, `exclude: node7`"
            raise InvalidValue(f"{name!r} is no option", hint)
    return values


Host = Annotated[str, AfterValidator(_is_host)]
Plain = Annotated[str, AfterValidator(_is_plain)]
Variables = Annotated[Texts, AfterValidator(_are_variables)]
Options = Annotated[Texts, AfterValidator(_are_options)]
Count = Annotated[int, Field(gt=0)]


class Machine(Fields):
    """What all executors have in common."""

    kind: str


class Site(Machine):
    """What executors beyond this process have in common."""

    variables: Variables | None = None
    """Variables of the environment in which steps run."""
    jobs: Count | None = None
    """How many steps may run there, or wait there, at once; 16 by default."""


class Reached(Site):
    """What executors on this machine, or on one that ssh reaches, have in common."""

    host: Host | None = None
    """A machine that ssh reaches: HOST, USER@HOST, or a Host of the configuration of ssh. Without
    it, this machine.
    """
    port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    """Port of ssh on the host."""
    ssh_config: Plain | None = None
    """A file that ssh reads in place of ~/.ssh/config."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """A program that starts the words after it where its site is, in place of ssh:
    `[kubectl, exec, -i, head, --]`.
    """
    root: Plain | None = None
    """The folder there that holds its cache and its jobs. By default the user's cache folder."""
    python: Plain | None = None
    """The Python there that has olivebuild, such as `~/venv/bin/python`."""


class Prepared(Reached):
    """What executors have in common whose environment can be made there."""

    environment: Literal["lock"] | None = None
    """`lock`: an environment is made there with this olivebuild and the library versions of
    olivebuild.lock.
    """
    conda: Plain | None = None
    """A conda file. The environment is made of it there, and this olivebuild added."""


class Ssh(Prepared):
    """A machine that is reached by ssh."""

    kind: Literal["ssh"]


class Slurm(Prepared):
    """A cluster of Slurm, by its commands on this machine or on a login node."""

    kind: Literal["slurm"]
    partition: Plain | None = None
    account: Plain | None = None
    qos: Plain | None = None
    constraint: Plain | None = None
    image: Plain | None = None
    options: Options | None = None
    """More options of sbatch, by their long names."""


class Ray(Reached):
    """A cluster of Ray, by its head's job submission."""

    kind: Literal["ray"]
    address: Plain | None = None
    """Where the head takes jobs, as seen from the host: `http://127.0.0.1:8265`."""
    autoscaling: bool | None = None
    """The cluster grows on demand, so nothing is refused by its size of today."""


class Local(Machine):
    """The machine of the command itself."""

    kind: Literal["local"]


class AzureML(Site):
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
    exchange: Plain | None = None
    """Where inputs and results go through: `az://ACCOUNT/CONTAINER/PATH`. By default the datastore.
    """
    identity: Literal["managed", "user"] | None = None
    """Whom the job signs in as: the compute's managed identity by default."""


class Docker(Reached):
    """A container on this machine, or on the host."""

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


class Python(Site):
    """Another Python on this machine."""

    kind: Literal["python"]
    path: str | None = None
    """The folder that holds its `python`."""
    root: Plain | None = None
    """The folder that holds its cache and its jobs. By default the user's cache folder."""
    prepend_to_path: list[str] | None = None
    requirements: str | None = None
    hf_token: bool | None = None


ONE_ENVIRONMENT = only_one(
    "environment",
    "conda",
    "image",
    fact="one of `environment`, `conda` and `image` is where steps run",
    hint="leave out the others",
)


def problem_of(machine: Machine, written: Collection[str]) -> Problem | None:
    """Return the problem of an executor's fields together, if any.

    `written` are the names that the recipe has, placeholders included.
    """
    if isinstance(machine, Prepared) and (problem := ONE_ENVIRONMENT.problem(machine)):
        return problem
    if isinstance(machine, Slurm):
        for name in {*(machine.options or {})} & {*Slurm.model_fields}:
            return Problem(f"`{name}` has a field of its own", f"write `{name}:` beside `options:`")
    if machine.kind == "ssh" and not {"host", "command"} & {*written}:
        return Problem("there is no host", "add `host: NAME`")
    if "host" in written and "command" in written:
        return Problem("`host` and `command` are two ways to it", "leave out one of them")
    if isinstance(machine, Reached) and "host" not in written:
        for name in ("port", "ssh_config"):
            if name in written:
                return Problem(f"`{name}` is of no use without `host`", "add `host: NAME`")
    return None


MODELS: dict[str, type[Machine]] = {
    "local": Local,
    "ssh": Ssh,
    "slurm": Slurm,
    "ray": Ray,
    "azureml": AzureML,
    "docker": Docker,
    "python": Python,
}
"""kind -> its fields"""
PATHS = ("conda", "dockerfile", "build_context", "requirements", "workspace_file")
"""Fields that name files and folders, from the recipe's folder on."""
UNUSED = ("hf_token",)
"""Fields without effect: models are fetched where the build runs, so no token leaves it."""
