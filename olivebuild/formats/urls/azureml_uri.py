"""Azure ML's URIs of data and models, as values.

azureml://registries/R/models/N/versions/V                a model of a registry
azureml://registries/R/models/N/labels/latest             the same by a label
azureml://subscriptions/S/resourcegroups/G/workspaces/W/models/N/versions/V   of a workspace
azureml://subscriptions/S/resourcegroups/G/workspaces/W/datastores/D/paths/P  a path of a datastore

As azure-ai-ml 1.35 reads them (constants/_common.py; `resourceGroups` is the same). `N@latest` is
short for `N/labels/latest`.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.core.errors import InvalidValue

SCHEME = "azureml"
LABELS = ("latest",)
"""The labels that Azure ML gives by itself: the version that was made last."""
WORKSPACE = "azureml://subscriptions/S/resourcegroups/G/workspaces/W"
FORMS = (
    "azureml://registries/R/models/N/versions/V",
    f"{WORKSPACE}/models/N/versions/V",
    f"{WORKSPACE}/datastores/D/paths/P",
)
_NAME = r"[A-Za-z0-9][\w.-]*"
_MODEL = (
    rf"models/(?P<model>{_NAME}(?:/{_NAME})*)"
    r"(?:/versions/(?P<version>[\w.-]+)|(?:/labels/|@)(?P<label>\w+))"
)
"""A name may have parts: Olive's documents name a model microsoft/Phi-3-mini-4k-instruct."""
_PLACE = (
    rf"subscriptions/(?P<subscription>{_NAME})/resource[gG]roups/(?P<group>[\w.()-]+)"
    rf"/workspaces/(?P<workspace>{_NAME})"
)
_REGISTRY_MODEL = re.compile(rf"azureml://registries/(?P<registry>{_NAME})/{_MODEL}/?")
_WORKSPACE_MODEL = re.compile(rf"azureml://{_PLACE}/{_MODEL}/?")
_DATASTORE_PATH = re.compile(
    rf"azureml://{_PLACE}/datastores/(?P<datastore>{_NAME})/paths/(?P<path>.+)"
)


class Workspace(Struct, frozen=True, kw_only=True):
    """A workspace of Azure ML."""

    subscription: str
    group: str
    name: str


class Model(Struct, frozen=True, kw_only=True):
    """A model of a registry or a workspace, at a version or a label."""

    name: str
    version: str = ""
    label: str = ""
    registry: str = ""
    workspace: Workspace | None = None


class DatastorePath(Struct, frozen=True, kw_only=True):
    """A file or folder of a workspace's datastore."""

    workspace: Workspace
    datastore: str
    path: str


def parse(text: str) -> Model | DatastorePath:
    """Return what a URI names. Raises InvalidValue."""
    if m := _REGISTRY_MODEL.fullmatch(text):
        return replace(_model(text, m), registry=m["registry"])
    if m := _WORKSPACE_MODEL.fullmatch(text):
        return replace(_model(text, m), workspace=_workspace(m))
    if m := _DATASTORE_PATH.fullmatch(text):
        if ".." in m["path"].split("/"):
            raise InvalidValue(f"{text!r} leaves its datastore", "write a path without ..")
        return DatastorePath(workspace=_workspace(m), datastore=m["datastore"], path=m["path"])
    raise InvalidValue(
        f"{text!r} is none of the forms of azureml://",
        f"write {', '.join(FORMS[:-1])} or {FORMS[-1]}",
    )


def _workspace(m: re.Match[str]) -> Workspace:
    return Workspace(subscription=m["subscription"], group=m["group"], name=m["workspace"])


def _model(text: str, m: re.Match[str]) -> Model:
    """Return a model without what holds it.

    Raises InvalidValue for a label that Azure ML does not know.
    """
    if m["label"] and m["label"] not in LABELS:
        raise InvalidValue(
            f"{text!r} names the label {m['label']!r}", f"known is {LABELS[0]}; or name a version"
        )
    return Model(name=m["model"], version=m["version"] or "", label=m["label"] or "")
