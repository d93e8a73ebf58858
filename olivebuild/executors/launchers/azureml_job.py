"""The job of an Azure ML executor: fields of a recipe -> what azure-ai-ml submits.

It is built and validated without a word to the service.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.api.site import Needs
from olivebuild.core import code_version
from olivebuild.core.errors import BuildError, InputError
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_json
from olivebuild.executors.launchers.conda import dependencies

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
"""Where a conda file is named and no image: Azure ML's own, without CUDA."""
EXCHANGE = "OLIVEBUILD_EXCHANGE"
TEMPLATE = "${{"
"""What Azure ML would replace in a command."""
WORKSPACE = {
    "subscription": "subscription_id",
    "resource_group": "resource_group",
    "workspace": "workspace_name",
}
"""A field -> its name in a workspace's file."""
RESOURCES = ("instance_type", "shm_size", "docker_args", "locations")
"""Properties that are a job's resources by themselves; any other goes below `properties`."""
WAYS = (("environment",), ("dockerfile", "build_context"), ("image", "conda", "requirements"))
"""Fields that name an environment."""
ARCHIVE = "code.zip"
COMMAND = f"""\
python -m zipfile -e {ARCHIVE} .
[ -z "$DEFAULT_IDENTITY_CLIENT_ID" ] || export AZURE_CLIENT_ID="$DEFAULT_IDENTITY_CLIENT_ID"
export PYTHONPATH="$PWD${{PYTHONPATH:+:$PYTHONPATH}}"
exec python -P -m"""
"""The environment has the libraries, the job's code olivebuild itself: keys are of its code."""


class Settings(Struct, frozen=True, kw_only=True):
    """The fields of an executor, as a recipe has them."""

    subscription: str
    resource_group: str
    workspace: str
    compute: str = ""
    instances: str = "1"
    datastore: str = ""
    image: str = ""
    dockerfile: str = ""
    build_context: str = ""
    conda: str = ""
    requirements: str = ""
    environment: str = ""
    environment_version: str = ""
    environment_label: str = ""
    properties: dict[str, Any] = {}
    tags: dict[str, str] = {}
    variables: dict[str, str] = {}
    exchange: str = ""
    identity: str = ""

    @staticmethod
    def of_options(options: Mapping[str, str]) -> Settings:
        """Raises InputError for a field that is missing, unknown or of no use."""
        values: dict[str, Any] = {k: v for k, v in options.items() if v and k not in UNUSED}
        values |= _workspace(values.pop("workspace_file", ""), values)
        if missing := [name for name in WORKSPACE if not values.get(name)]:
            raise InputError(
                f"the executor has no `{missing[0]}`",
                hint="write subscription, resource_group and workspace, or a workspace_file",
            )
        if unknown := sorted(values.keys() - set(Settings.__struct_fields__)):
            raise InputError(f"an Azure ML executor has no {unknown[0]!r}", hint="leave it out")
        for name in ("properties", "tags", "variables"):
            if name in values:
                values[name] = json.loads(values[name])
        settings = Settings(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises InputError for fields that don't go together."""
        for name in (*WORKSPACE, "compute", "datastore"):
            if not re.fullmatch(r"[\w.()-]*", getattr(self, name)):
                raise InputError(
                    f"{name} is {getattr(self, name)[:60]!r}, which is no name in Azure",
                    hint="write its name alone, as the portal shows it",
                )
        if self.instances != "1":
            raise InputError(
                f"instances is {self.instances}, and a step takes one machine of Azure ML",
                hint="leave `instances` out",
            )
        ways = [way for way in WAYS if any(self[name] for name in way)]
        if len(ways) > 1:
            raise InputError(
                "the executor names more than one environment",
                hint="one of `environment`, `dockerfile`, and `image` with `conda`",
            )
        if not ways:
            raise InputError(
                "the executor names no environment that its jobs run in",
                hint="`conda: environment.yaml`, an `image`, or an `environment` of the workspace",
            )
        if self.conda and self.requirements:
            raise InputError(
                "the executor names a conda file and a file of requirements",
                hint="write the requirements into the conda file",
            )

    def __getitem__(self, name: str) -> str:
        return str(getattr(self, name))


UNUSED = ("hf_token", "keyvault")
"""Without effect: models are fetched where the build runs, so no job needs the hub's token."""


def _workspace(file: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a workspace's file that the recipe does not have itself."""
    if not file:
        return {}
    try:
        data = read_json(Path(file))
        of_file = {name: str(data[key]) for name, key in WORKSPACE.items() if name not in values}
    except OSError as e:
        raise InputError(
            f"the workspace's file can't be read: {e.strerror}",
            where=file,
            hint="the portal of Azure ML gives it as config.json",
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"it is no file of a workspace: {type(e).__name__}: {e}",
            where=file,
            hint="it has subscription_id, resource_group and workspace_name",
        ) from None
    return of_file


def build(
    settings: Settings,
    *,
    name: str,
    words: Sequence[str],
    code: Path,
    needs: Needs,
) -> Any:
    """Return the job that runs `python -m WORDS` with olivebuild's code from a folder.

    Raises InputError for what azure-ai-ml finds wrong with it.
    """
    from azure.ai.ml import command
    from azure.ai.ml.entities import ManagedIdentityConfiguration, UserIdentityConfiguration

    line = f"{COMMAND} {shlex.join(words)}"
    if TEMPLATE in line:
        raise InputError(f"{TEMPLATE} in {line[-200:]!r}", hint="write the URL without it")
    identities = {"managed": ManagedIdentityConfiguration, "user": UserIdentityConfiguration}
    identity = settings.identity or ("managed" if "az://" in line else "")
    job = command(
        name=name,
        experiment_name="olivebuild",
        code=str(code),
        command=line,
        environment=environment(settings),
        compute=settings.compute or None,
        instance_count=1,
        identity=identities[identity]() if identity else None,
        tags={k: str(v) for k, v in settings.tags.items()},
        environment_variables=dict(settings.variables),
        timeout=needs.seconds or None,
        **{k: v for k, v in settings.properties.items() if k in RESOURCES},
    )
    if more := {k: v for k, v in settings.properties.items() if k not in RESOURCES}:
        job.resources.properties = more
    result = job._validate()
    if not result.passed:
        where = ", ".join(f"{field}: {text}" for field, text in result.error_messages.items())
        raise InputError(f"Azure ML takes no such job: {where[:300]}", hint="see the executor")
    return job._to_job()


def environment(settings: Settings) -> Any:
    """Return the environment: a name of the workspace's, or what it is made from."""
    from azure.ai.ml.entities import BuildContext, Environment

    if settings.environment:
        if settings.environment_version:
            return f"azureml:{settings.environment}:{settings.environment_version}"
        return f"azureml:{settings.environment}@{settings.environment_label or 'latest'}"
    if settings.build_context or settings.dockerfile:
        file = Path(settings.dockerfile or "Dockerfile")
        context = Path(settings.build_context or file.parent)
        name = os.path.relpath(file, context) if file.is_absolute() else str(file)
        return Environment(build=BuildContext(path=str(context), dockerfile_path=name))
    if settings.conda or settings.requirements:
        conda = dependencies(settings.conda, settings.requirements)
        return Environment(image=settings.image or IMAGE, conda_file=conda)
    return Environment(image=settings.image)


def pack_code(folder: Path) -> None:
    """Write this olivebuild into a folder, as a job's code: one file, since each is an upload.

    Equal code gives equal bytes, which Azure ML keeps once. What was compiled goes along where
    nodes can run it: they are Linux on x86-64.
    """
    root = Path(code_version.ROOT)
    compiled = platform.system() == "Linux" and platform.machine() == "x86_64"
    folder.mkdir()
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files_below(root):
            if "__pycache__" in file.parts or (file.suffix in (".so", ".pyd") and not compiled):
                continue
            name = file.relative_to(root.parent).as_posix()
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, file.read_bytes())


def of_azure(error: Exception, what: str) -> BuildError:
    """Return an error of azure-ai-ml's or azure-core's as one of ours."""
    kind = type(error).__name__
    status = getattr(error, "status_code", None)
    text = " ".join(str(getattr(error, "message", "") or error).split())
    # Answers may have tokens and URLs with signatures in them.
    text = re.sub(r"\w+://\S+", "...", text)[:300]
    if kind in ("ClientAuthenticationError", "CredentialUnavailableError") or status in (401, 403):
        return InputError(
            f"{what}: Azure refuses: {text}",
            hint="`az login`, or AZURE_CLIENT_ID and its like; may you use the workspace?",
        )
    return InputError(f"{what}: {text}", hint="is Azure reachable, and are the names right?")
