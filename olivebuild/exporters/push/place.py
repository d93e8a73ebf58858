"""Places that an export may be pushed to, as values of `--push`.

hf:OWNER/NAME[@BRANCH]                                                       a model of the hub
azureml://subscriptions/S/resourcegroups/G/workspaces/W/models/N[/versions/V]  one of Azure ML
"""

from __future__ import annotations

import re
from importlib.util import find_spec

from msgspec import Struct

from olivebuild.core.errors import InvalidValue, RecipeError
from olivebuild.formats.urls import azureml_uri
from olivebuild.formats.urls.azureml_uri import Workspace

HUB = "hf:OWNER/NAME"
AZURE = "azureml://subscriptions/S/resourcegroups/G/workspaces/W/models/N"
OPTION = "--push"
MAIN = "main"
_HUB = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")


class HubPlace(Struct, frozen=True, kw_only=True, tag="hf"):
    """A branch of a model's repository on the Hugging Face hub."""

    text: str
    repository: str
    branch: str = MAIN
    public: bool = False
    """Whether a repository that is made for it is to be public."""


class AzurePlace(Struct, frozen=True, kw_only=True, tag="azureml"):
    """A model of a workspace; without a version the next one."""

    text: str
    workspace: Workspace
    name: str
    version: str = ""


Place = HubPlace | AzurePlace


def parse(text: str, *, public: bool = False) -> Place:
    """Return the place that a text names.

    Raises RecipeError for another form, and where the library that pushes there is not installed.
    """
    if match := _HUB.fullmatch(text):
        _check_library("huggingface_hub", "huggingface_hub", "steps")
        return HubPlace(text=text, repository=match[1], branch=match[2] or MAIN, public=public)
    if text.startswith("azureml:"):
        if public:
            hint = "leave it out: who may read a workspace may read its models"
            raise RecipeError("--public is for the hub", where=OPTION, hint=hint)
        place = _azure(text)
        _check_library("azure.ai.ml", "azure-ai-ml", "azureml")
        return place
    fact = f"{text[:200]!r} is no place to push to"
    raise RecipeError(fact, where=OPTION, hint=f"write {HUB}, or {AZURE}")


def _azure(text: str) -> AzurePlace:
    bare = text.rstrip("/")
    has_version = re.search(r"/(versions|labels)/[^/]+$|@\w+$", bare)
    try:
        named = azureml_uri.parse(bare if has_version else f"{bare}/versions/0")
    except InvalidValue:
        named = None
    # A version with a label is one that is there.
    if not isinstance(named, azureml_uri.Model) or named.workspace is None or named.label:
        fact = f"{text[:200]!r} names no model of a workspace"
        raise RecipeError(fact, where=OPTION, hint=f"write {AZURE}, with /versions/V or without")
    if "/" in named.name:
        fact = f"{named.name!r} is no name of a model in Azure ML"
        raise RecipeError(fact, where=OPTION, hint="letters, digits, dots, dashes and underscores")
    version = named.version if has_version else ""
    return AzurePlace(text=text, workspace=named.workspace, name=named.name, version=version)


def _check_library(module: str, package: str, extra: str) -> None:
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:
        # A package above it is not there.
        is_there = False
    if not is_there:
        fact = f"pushing there needs the library {package}, which is not installed"
        raise RecipeError(fact, where=OPTION, hint=f"pip install 'olivebuild[{extra}]'")
