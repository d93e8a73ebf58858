"""Azure's clouds: the endpoints of each, and the hosts that may be given a token for it.

Endpoints are those of azure-ai-ml 1.35 (_azure_environments.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.core.errors import InputError

CLOUD, AUTHORITY = "AZUREML_CURRENT_CLOUD", "AZURE_AUTHORITY_HOST"
"""Variables that other tools of Azure read, too."""
MANAGEMENT, REGISTRIES = "OLIVEBUILD_AZURE_MANAGEMENT", "OLIVEBUILD_AZURE_REGISTRIES"
PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[^\s\\@]*)?")
"""URLs whose host every parser reads alike."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Cloud(Struct, frozen=True, kw_only=True):
    """One of Azure's clouds."""

    name: str
    management: str
    """URL of Azure Resource Manager."""
    registries: str
    """URL of the service that tells where a registry is served."""
    audience: str
    """What tokens are for: the management endpoint that the cloud itself has."""
    storage: str
    """Ending of the hosts of storage accounts."""
    services: tuple[str, ...]
    """Endings of the hosts that serve registries."""
    authorities: tuple[str, ...]
    """Hosts that sign in."""

    @property
    def scope(self) -> str:
        return f"{self.audience}/.default"

    @property
    def is_here(self) -> bool:
        """Return whether it is one of this machine's, for tests."""
        return urlsplit(self.management).hostname in LOOPBACK

    def may_have_token(self, url: str) -> bool:
        """Return whether a token of this cloud may be sent to a URL.

        Only through TLS, except to this machine, and to no host but those of the cloud and those
        that the environment names.
        """
        if not PLAIN_URL.fullmatch(url):
            return False
        try:
            at = urlsplit(url)
            host, places = at.hostname or "", {self.management, self.registries}
            named = {(p.scheme, p.hostname, p.port) for p in map(urlsplit, places)}
            is_named = (at.scheme, at.hostname, at.port) in named
        except ValueError:
            return False
        if at.scheme != "https":
            return is_named and host in LOOPBACK
        return is_named or (at.port in (None, 443) and host.endswith(self.services))


CLOUDS = {
    cloud.name: cloud
    for cloud in (
        Cloud(
            name="AzureCloud",
            management="https://management.azure.com",
            registries="https://eastus.api.azureml.ms",
            audience="https://management.azure.com",
            storage="core.windows.net",
            services=(".api.azureml.ms", ".experiments.azureml.net"),
            authorities=("login.microsoftonline.com",),
        ),
        Cloud(
            name="AzureUSGovernment",
            management="https://management.usgovcloudapi.net",
            registries="https://usgovarizona.api.ml.azure.us",
            audience="https://management.usgovcloudapi.net",
            storage="core.usgovcloudapi.net",
            services=(".api.ml.azure.us",),
            authorities=("login.microsoftonline.us",),
        ),
        Cloud(
            name="AzureChinaCloud",
            management="https://management.chinacloudapi.cn",
            registries="https://chinaeast2.api.ml.azure.cn",
            audience="https://management.chinacloudapi.cn",
            storage="core.chinacloudapi.cn",
            services=(".api.ml.azure.cn",),
            authorities=("login.chinacloudapi.cn", "login.partner.microsoftonline.cn"),
        ),
    )
}


def current(environ: Mapping[str, str]) -> Cloud:
    """Return the cloud that the environment names; the public one where it names none.

    Raises InputError for an unknown one, or an endpoint that is no URL.
    """
    cloud = _named(environ)
    for variable, field in ((MANAGEMENT, "management"), (REGISTRIES, "registries")):
        if url := environ.get(variable, "").rstrip("/"):
            _check_endpoint(variable, url)
            cloud = replace(cloud, **{field: url})
    return cloud


def _named(environ: Mapping[str, str]) -> Cloud:
    if name := environ.get(CLOUD):
        if name not in CLOUDS:
            raise InputError(
                f"{CLOUD} is {name!r}, which is none of Azure's clouds",
                where=CLOUD,
                hint=f"known are {', '.join(CLOUDS)}",
            )
        return CLOUDS[name]
    authority = environ.get(AUTHORITY, "")
    host = urlsplit(authority if "://" in authority else f"https://{authority}").hostname
    return next((c for c in CLOUDS.values() if host in c.authorities), CLOUDS["AzureCloud"])


def _check_endpoint(variable: str, url: str) -> None:
    at = urlsplit(url)
    if not at.hostname or not (at.scheme == "https" or at.hostname in LOOPBACK):
        raise InputError(
            f"{variable} is {url!r}, where tokens can't be sent",
            where=variable,
            hint="a URL that begins with https://",
        )
