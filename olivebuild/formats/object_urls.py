"""Places in object stores and on web servers, as recipes name them.

An Azure host has a Blob and a DFS endpoint for the same objects; OneLake has them too:
https://learn.microsoft.com/en-us/fabric/onelake/onelake-access-api
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from olivebuild.core.errors import HasCredential, InvalidValue

AZURE = re.compile(
    r"(?P<account>[a-z0-9-]+)\.(?P<zone>z\d+\.)?(?:blob|dfs)\."
    r"(?P<suffix>core\.windows\.net|core\.usgovcloudapi\.net|core\.chinacloudapi\.cn"
    r"|storage\.azure\.net|fabric\.microsoft\.com)"
)
"""Hosts of storage accounts, of the national clouds too."""
ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
CONTAINER = re.compile(r"[A-Za-z0-9$][\w.$ -]{0,254}")
BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,221}[A-Za-z0-9]")
SIGNED = re.compile(
    r"(?i)sig|signature|token|key|api_?key|password|secret|authorization"
    r"|.*[_-](?:token|signature|credential|key|secret)"
)
"""Names of parameters by which URLs are signed, or carry a credential."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_SECRETS = "credentials come from the environment or a login, never from a recipe"


class Blobs(NamedTuple):
    """A place in an Azure container. `path` may end in a slash, or be a pattern."""

    host: str
    container: str
    path: str

    @property
    def account(self) -> str:
        return self.host.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.host}/{self.container}/{self.path}"


def blobs_of(name: str) -> Blobs:
    """Return the place that `Blobs` was written as."""
    host, container, path = name.split("/", 2)
    return Blobs(host, container, path)


def azure(rest: str) -> str | None:
    """Read `//ACCOUNT/CONTAINER/PATH`; return host, container and path, or None."""
    account, _, place = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not ACCOUNT.fullmatch(account):
        return None
    return _blobs(f"{account}.blob.core.windows.net", place)


def azure_file_system(rest: str) -> str | None:
    """Read `//CONTAINER@HOST/PATH`, the form of Hadoop's driver; return as `azure` does."""
    match = re.fullmatch(r"//([^/@]+)@([^/@]+)/(.+)", rest)
    return _blobs(match[2], f"{match[1]}/{match[3]}") if match else None


def azure_web(text: str) -> str | None:
    """Read the URL of an object in a storage account; None for another host's.

    Raises InvalidValue for one with a query: that is a signature.
    """
    parts = urlsplit(text)
    if not AZURE.fullmatch(parts.hostname or ""):
        return None
    if parts.query or parts.fragment or parts.port:
        raise InvalidValue("the URL of an Azure object has a query", f"leave it out: {NO_SECRETS}")
    place = _blobs(str(parts.hostname), unquote(parts.path.removeprefix("/")))
    if place is None:
        raise InvalidValue(
            f"{text!r} names no object", "https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH"
        )
    return place


def _blobs(host: str, place: str) -> str | None:
    """Return the place at the Blob endpoint, which reads what the DFS endpoint wrote."""
    match, (container, _, path) = AZURE.fullmatch(host), place.partition("/")
    if not match or not CONTAINER.fullmatch(container) or not _is_path(path):
        return None
    zone = match["zone"] or ""
    return str(Blobs(f"{match['account']}.{zone}blob.{match['suffix']}", container, path))


def bucket(rest: str) -> str | None:
    """Read `//BUCKET/KEY`; return bucket and key, or None."""
    name, _, key = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not BUCKET.fullmatch(name) or not _is_path(key):
        return None
    return f"{name}/{key}"


def web(text: str) -> str | None:
    """Read the URL of a file on a web server; return it, or None.

    Raises InvalidValue for one that is not encrypted on its way.
    """
    parts = urlsplit(text)
    host = parts.hostname
    name = unquote(parts.path.rpartition("/")[2])
    if not host or not _is_path(name) or not text.isprintable() or " " in text:
        return None
    if parts.scheme == "http" and host not in LOOPBACK:
        raise InvalidValue(
            "an http: URL is not encrypted on its way", "name the https: one, if there is one"
        )
    return text


def check_credentials(text: str) -> None:
    """Raise HasCredential for a URL with a password or a signature in it."""
    # Before an @ abfss: URLs have a container, which has no colon.
    if re.match(r"(?i)https?://[^/?#]*@|[a-z0-9]+://[^/?#]*:[^/?#]*@", text):
        raise HasCredential("the URL has a name or a password in it", NO_SECRETS)
    query = text.partition("?")[2]
    if any(SIGNED.fullmatch(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise HasCredential("the URL has a credential in it", NO_SECRETS)


def _is_path(path: str) -> bool:
    """Return whether a key is a file's, a folder's or a pattern, none of which lies elsewhere."""
    parts = path.removesuffix("/").split("/")
    return (
        not path.startswith("/")
        and path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in parts)
    )
