"""Models of registries and workspaces: which version a name stands for, and where its files lie.

The requests are those of azure-ai-ml 1.35: operations/_model_operations.py and
_utils/_registry_utils.py, with the same `api-version`s.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.core.errors import InputError, InvalidValue
from olivebuild.formats.urls import azureml_uri
from olivebuild.formats.urls.azureml_uri import DatastorePath, Model, Workspace
from olivebuild.ml.models.remotes.azureml import places
from olivebuild.ml.models.remotes.azureml.places import MANAGEMENT_VERSION, PROVIDER, Place
from olivebuild.ml.models.remotes.azureml.rest import Client

DISCOVERY_VERSION = "v1.0"
REGISTRY_VERSION = "2021-10-01-dataplanepreview"
NEWEST_FIRST = "createdtime desc"
_SHORT = re.compile(r"azureml://datastores/([^/]+)/paths/(.+)")


class Asset(Struct, frozen=True, kw_only=True):
    """A version of a model. `id` names it for good; `uri` is where Azure ML says its files lie."""

    id: str
    version: str
    uri: str
    kind: str
    """`mlflow_model`, `custom_model` or `triton_model`; other services write other words."""


def find(client: Client, model: Model) -> Asset:
    """Return the version of a model that is named, by number or by label. Raises InputError."""
    url, holder, api_version = _models_of(client, model)
    name = quote(model.name, safe="")
    what = f"the model {model.name!r} of {holder}"
    version = model.version
    if model.label:
        newest = {"api-version": api_version, "$orderBy": NEWEST_FIRST, "$top": "1"}
        listed = client.ask("GET", f"{url}/models/{name}/versions", what, newest).get("value")
        if not isinstance(listed, list):
            raise client.unclear(what, "it lists no versions")
        if not listed:
            raise InputError(
                f"{what} has no version", where=client.where, hint="is the name right?"
            )
        version = _text(listed[0], "name")
        if not version:
            raise client.unclear(what, "its newest version has no name")
    what = f"version {version!r} of {what}"
    answer = client.ask(
        "GET",
        f"{url}/models/{name}/versions/{quote(version, safe='')}",
        what,
        {"api-version": api_version},
    )
    about = answer.get("properties")
    uri = _text(about, "modelUri")
    if not uri or not version:
        raise client.unclear(what, "it does not say where the files are")
    return Asset(
        id=_id_of(model, version), version=version, uri=uri, kind=_text(about, "modelType")
    )


def place_of(client: Client, model: Model, asset: Asset) -> Place:
    """Return where the files of a version lie, with what opens them. Raises InputError."""
    what = f"the files of the model {model.name!r}"
    if model.workspace:
        path = _path_of(client, model.workspace, asset, what)
        return places.of_datastore(client, path.workspace, path.datastore).at(path.path)
    place = places.of_url(client, asset.uri.partition("?")[0], what)
    url, holder, api_version = _models_of(client, model)
    answer = client.ask(
        "POST",
        f"{url}/datarefs/{quote(model.name, safe='')}/versions/{quote(asset.version, safe='')}",
        f"{what} of {holder}",
        {"api-version": api_version},
        {"assetId": asset.id, "blobUri": asset.uri},
    )
    reference = answer.get("blobReferenceForConsumption")
    credential = reference.get("credential") if isinstance(reference, dict) else None
    if _text(credential, "credentialType").lower().replace("_", "") == "nocredentials":
        return place
    # The signature is for a container, which may be a copy in another region.
    signed = places.of_url(client, _text(credential, "sasUri"), what)
    if not signed.sas:
        raise client.unclear(what, "it gives no signature")
    return replace(signed, path=place.path)


def _models_of(client: Client, model: Model) -> tuple[str, str, str]:
    """Return URL of what holds a model, its name for people, and the version of its API."""
    if model.workspace:
        holder = f"the workspace {model.workspace.name!r}"
        return places.workspace_url(client, model.workspace), holder, MANAGEMENT_VERSION
    return (
        _registry_url(client, model.registry),
        f"the registry {model.registry!r}",
        REGISTRY_VERSION,
    )


def _registry_url(client: Client, name: str) -> str:
    """Return the URL of a registry, by the service that tells where it is. Raises InputError."""
    if name in client.registries:
        return client.registries[name]
    what = f"the registry {name!r}"
    answer = client.ask(
        "GET",
        f"{client.cloud.registries}/registrymanagement/v1.0/registries/{quote(name, safe='')}"
        "/discovery",
        what,
        {"api-version": DISCOVERY_VERSION},
    )
    served = _text(answer, "primaryRegionResourceProviderUri")
    subscription, group = _text(answer, "subscriptionId"), _text(answer, "resourceGroup")
    if not (served and subscription and group):
        raise client.unclear(what, "it does not say where it is served")
    parts = [quote(part, safe="") for part in (subscription, group, name)]
    client.registries[name] = (
        f"{served.rstrip('/')}/mferp/managementfrontend/subscriptions/{parts[0]}"
        f"/resourceGroups/{parts[1]}/{PROVIDER}/registries/{parts[2]}"
    )
    return client.registries[name]


def _path_of(client: Client, workspace: Workspace, asset: Asset, what: str) -> DatastorePath:
    """Return the datastore path of a workspace's model. Raises InputError."""
    if m := _SHORT.fullmatch(asset.uri):
        return DatastorePath(workspace=workspace, datastore=m[1], path=m[2])
    try:
        path = azureml_uri.parse(asset.uri)
    except InvalidValue:
        path = None
    if isinstance(path, DatastorePath):
        return path
    raise InputError(
        f"{what} lie at {asset.uri[:200]}, which is no path of a datastore",
        where=client.where,
        hint="register the model from a datastore's path, or name that path as the source",
    )


def _id_of(model: Model, version: str) -> str:
    if place := model.workspace:
        return (
            f"azureml://subscriptions/{place.subscription}/resourcegroups/{place.group}/workspaces/"
            f"{place.name}/models/{model.name}/versions/{version}"
        )
    return f"azureml://registries/{model.registry}/models/{model.name}/versions/{version}"


def _text(value: Any, key: str) -> str:
    """Return a text of an object of an answer; empty where there is none."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else ""
