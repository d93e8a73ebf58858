"""Containers of Azure, opened with the credentials of Azure's own tools.

In this order: AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN as the
Azure CLI reads them, each only for the account that it is for; then azure-identity's default chain;
then none, for what everybody may read.
https://learn.microsoft.com/en-us/cli/azure/azure-cli-configuration
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from olivebuild.ml.models.remotes.objects import credential_hosts
from olivebuild.ml.models.remotes.objects.client import CLIENT, RETRIES

SCOPE = "https://storage.azure.com/.default"
EMULATOR = {
    "AccountName": "devstoreaccount1",
    # Published by Microsoft for everybody; it opens nothing but an emulator on the own machine.
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/"
    "KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
"""What UseDevelopmentStorage=true stands for."""


def open_container(
    account: str,
    container: str,
    *,
    endpoint: str,
    account_key: str = "",
    sas: str = "",
    credential: Any = None,
    retries: dict[str, Any] = RETRIES,
) -> tuple[Any, bool]:
    """Return (container, whether there are credentials for it).

    `credential` is one of azure-identity's. Without key, signature and credential the environment
    is asked. Raises ModuleNotFoundError.
    """
    from obstore.store import AzureStore

    provider = None
    is_environments = not (account_key or sas or credential)
    if is_environments:
        settings = of_environment(account, os.environ)
        endpoint = settings.get("BlobEndpoint") or endpoint
        account_key, sas = settings.get("AccountKey", ""), settings.get("SharedAccessSignature", "")
    if not (account_key or sas):
        provider = _provider(credential)
    if is_environments and (account_key or sas or provider):
        credential_hosts.check(f"az://{account}")
    # The Blob endpoint reads what was written through the other one.
    endpoint = endpoint.rstrip("/").replace(".dfs.", ".blob.", 1)
    config: dict[str, Any] = {"account_name": account, "endpoint": endpoint}
    if account_key:
        config["account_key"] = account_key
    elif sas:
        config["sas_key"] = sas.removeprefix("?")
    elif provider is None:
        config["skip_signature"] = True
    with _without_own_settings():
        store = AzureStore(
            container,
            config=config,
            client_options={**CLIENT, "allow_http": endpoint.startswith("http:")},
            retry_config=retries,
            credential_provider=provider,
        )
    return store, bool(account_key or sas or provider)


def of_environment(account: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for an account that the environment has, named as in its strings."""
    text = variables.get("AZURE_STORAGE_CONNECTION_STRING", "")
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    settings = {name.strip(): value.strip() for name, _, value in pairs}
    if settings.get("UseDevelopmentStorage", "").lower() == "true":
        settings = {**EMULATOR, **settings}
    if settings.get("AccountName") == account:
        return settings
    named = variables.get("AZURE_STORAGE_ACCOUNT") or variables.get("AZURE_STORAGE_ACCOUNT_NAME")
    if named != account:
        # A signature would be told to whatever account the recipe names.
        return {}
    for name, setting in (
        ("AZURE_STORAGE_KEY", "AccountKey"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "AccountKey"),
        ("AZURE_STORAGE_SAS_TOKEN", "SharedAccessSignature"),
    ):
        if value := variables.get(name):
            return {setting: value}
    return {}


def _provider(credential: Any) -> Any:
    """Return a callback that gets tokens of a credential, or None where there is none.

    Raises ModuleNotFoundError.
    """
    import logging

    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    # What it tries and why it fails is told at length, with the names of tenants.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    chosen = credential or DefaultAzureCredential(exclude_interactive_browser_credential=True)
    try:
        chosen.get_token(SCOPE)
    except (ClientAuthenticationError, ValueError):
        # The former also where there is none, or the service does not take it.
        return None

    def token() -> dict[str, Any]:
        access = chosen.get_token(SCOPE)
        return {"token": access.token, "expires_at": datetime.fromtimestamp(access.expires_on, UTC)}

    return token


class _without_own_settings:  # noqa: N801 - used like a function
    """Hide what obstore would read from the environment itself, for whatever account."""

    NAMES = ("AZURE_", "AZURITE_")

    def __enter__(self) -> None:
        self.hidden = {
            name: os.environ.pop(name) for name in list(os.environ) if name.startswith(self.NAMES)
        }

    def __exit__(self, *_: object) -> None:
        os.environ.update(self.hidden)
