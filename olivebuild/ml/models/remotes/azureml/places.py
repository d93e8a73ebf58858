"""Places of the files of datastores and models, and by which credentials they are read.

As azure-ai-ml 1.35 asks for it: operations/_datastore_operations.py, _utils/_registry_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.core.errors import InputError
from olivebuild.formats.urls.azureml_uri import Workspace
from olivebuild.ml.models.remotes.azureml.clouds import LOOPBACK
from olivebuild.ml.models.remotes.azureml.rest import Client

MANAGEMENT_VERSION = "2025-12-01"
"""The `api-version` of azure-ai-ml's client for workspaces."""
ONE_LAKE = "onelake.blob.fabric.microsoft.com"
CONTAINERS = {"AzureBlob": "containerName", "AzureDataLakeGen2": "filesystem"}
"""Kind of a datastore -> the field that names its container."""
ACCOUNT = re.compile("[a-z0-9]{3,24}")
PROVIDER = "providers/Microsoft.MachineLearningServices"


class Principal(Struct, frozen=True, kw_only=True):
    """A service principal that a datastore is read as."""

    tenant: str
    client: str
    secret: str
    authority: str
    """Host that it signs in at."""

    def __repr__(self) -> str:
        return f"Principal(client={self.client!r})"


class Place(Struct, frozen=True, kw_only=True):
    """A folder or file in a container of Azure's storage.

    Without `sas`, `account_key` and `principal` it is read as whoever is signed in.
    """

    endpoint: str
    """URL of the account, without a slash at its end."""
    account: str
    container: str
    path: str = ""
    sas: str = ""
    """Query of a shared access signature."""
    account_key: str = ""
    principal: Principal | None = None

    def __repr__(self) -> str:
        """Return what it is, without what opens it."""
        return f"Place({self.endpoint}/{self.container}/{self.path})"

    def at(self, path: str) -> Place:
        """Return a place below this one."""
        joined = "/".join(filter(None, (self.path.strip("/"), path.strip("/"))))
        return replace(self, path=joined)


def workspace_url(client: Client, workspace: Workspace) -> str:
    group, name = quote(workspace.group, safe=""), quote(workspace.name, safe="")
    return (
        f"{client.cloud.management}/subscriptions/{workspace.subscription}/resourceGroups/{group}"
        f"/{PROVIDER}/workspaces/{name}"
    )


def of_datastore(client: Client, workspace: Workspace, name: str) -> Place:
    """Return where a datastore's files lie. Raises InputError."""
    url = f"{workspace_url(client, workspace)}/datastores/{quote(name, safe='')}"
    what = f"the datastore {name!r} of the workspace {workspace.name!r}"
    version = {"api-version": MANAGEMENT_VERSION}
    about = client.ask("GET", url, what, version).get("properties")
    if not isinstance(about, dict):
        raise client.unclear(what, "it has no properties")
    place = _place(client, about, what)
    credentials = about.get("credentials")
    kind = credentials.get("credentialsType") if isinstance(credentials, dict) else "None"
    if kind == "None":
        return place
    secrets = client.ask(
        "POST",
        f"{url}/listSecrets",
        f"the credentials of {what}",
        version,
        {"expirableSecret": True, "expireAfterHours": 1},
    )
    return _opened_by(client, place, credentials, secrets, what)


def _place(client: Client, about: Mapping[str, Any], what: str) -> Place:
    """Return where a datastore lies: at the Blob endpoint, which reads what the others wrote."""
    kind = str(about.get("datastoreType"))
    if kind == "OneLake":
        return _one_lake(client, about, what)
    if kind not in CONTAINERS:
        raise InputError(
            f"{what} is of the kind {kind[:40]}, which is not read",
            where=client.where,
            hint=f"kinds that are read: {', '.join(CONTAINERS)}, OneLake",
        )
    account = _text(client, about.get("accountName"), what)
    container = _text(client, about.get(CONTAINERS[kind]), what)
    ending = _text(client, about.get("endpoint") or client.cloud.storage, what)
    scheme = about.get("protocol") or "https"
    if client.cloud.is_here and ending.partition(":")[0] in LOOPBACK:
        # A storage emulator has the account in the path.
        endpoint = f"{scheme}://{ending}/{account}"
    elif scheme != "https":
        raise client.unclear(what, f"it would be read through {scheme}")
    elif ending != client.cloud.storage or not ACCOUNT.fullmatch(account):
        raise client.unclear(
            what, f"its files lie at {account}.{ending}, no storage of {client.cloud.name}"
        )
    else:
        endpoint = f"https://{account}.blob.{ending}"
    return Place(endpoint=endpoint, account=account, container=container)


def _one_lake(client: Client, about: Mapping[str, Any], what: str) -> Place:
    artifact = about.get("artifact")
    name = artifact.get("artifactName") if isinstance(artifact, dict) else None
    host = _text(client, about.get("endpoint") or ONE_LAKE, what).replace(".dfs.", ".blob.")
    if not re.fullmatch(r"[a-z0-9.-]+\.fabric\.microsoft\.com", host):
        raise client.unclear(what, f"its files lie at {host}, which is not OneLake")
    return Place(
        endpoint=f"https://{host}",
        account=host.partition(".")[0],
        container=_text(client, about.get("oneLakeWorkspaceName"), what),
        path=f"{_text(client, name, what)}/Files",
    )


def _text(client: Client, value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise client.unclear(what, "a name is missing")
    return value


def _opened_by(
    client: Client,
    place: Place,
    credentials: Mapping[str, Any],
    secrets: Mapping[str, Any],
    what: str,
) -> Place:
    """Return a place with the credentials that the workspace keeps for it. Raises InputError."""
    kind = secrets.get("secretsType")
    if kind == "AccountKey":
        return replace(place, account_key=_text(client, secrets.get("key"), what))
    if kind == "Sas":
        return replace(place, sas=_text(client, secrets.get("sasToken"), what).removeprefix("?"))
    if kind == "ServicePrincipal":
        principal = Principal(
            tenant=_text(client, credentials.get("tenantId"), what),
            client=_text(client, credentials.get("clientId"), what),
            secret=_text(client, secrets.get("clientSecret"), what),
            authority=_authority(client, credentials.get("authorityUrl"), what),
        )
        return replace(place, principal=principal)
    raise InputError(
        f"{what} is read by a {str(kind)[:40]}, which is not supported",
        where=client.where,
        hint="let it be read by identity, a key, a shared access signature or a service principal",
    )


def _authority(client: Client, url: object, what: str) -> str:
    """Return the host that a principal signs in at. Raises InputError for another cloud's."""
    try:
        host = urlsplit(str(url)).hostname if url else client.cloud.authorities[0]
    except ValueError:
        host = None
    if host not in client.cloud.authorities:
        raise client.unclear(what, f"its principal signs in at {host}, not {client.cloud.name}")
    return str(host)


def of_url(client: Client, url: str, what: str) -> Place:
    """Return the place of a blob's or container's URL, whose query may be a signature.

    Raises InputError for one that is none of the cloud's storage.
    """
    try:
        at = urlsplit(url)
        host, port = at.hostname or "", f":{at.port}" if at.port else ""
    except ValueError:
        raise client.unclear(what, "its files have no valid URL") from None
    parts = [unquote(part) for part in at.path.split("/") if part]
    account = host.partition(".")[0]
    endpoint = f"{at.scheme}://{host}{port}"
    if client.cloud.is_here and host in LOOPBACK and parts:
        account = parts.pop(0)
        endpoint += f"/{account}"
    elif at.scheme != "https" or not host.endswith(f".{client.cloud.storage}"):
        raise client.unclear(what, f"its files lie at {host}, no storage of {client.cloud.name}")
    if not parts or ".." in parts:
        raise client.unclear(what, "its files have no container")
    return Place(
        endpoint=endpoint,
        account=account,
        container=parts[0],
        path="/".join(parts[1:]),
        sas=at.query,
    )
