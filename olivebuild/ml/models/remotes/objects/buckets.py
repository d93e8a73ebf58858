"""Buckets of S3 and of Google Cloud Storage, opened with the providers' own chains.

botocore finds keys, profiles, roles, the region and another endpoint in environment and files, as
the AWS CLI does. google-auth finds application default credentials.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from olivebuild.ml.models.remotes.objects import credential_hosts
from olivebuild.ml.models.remotes.objects.client import CLIENT, RETRIES

READ_ONLY = ("https://www.googleapis.com/auth/devstorage.read_only",)
READ_WRITE = ("https://www.googleapis.com/auth/devstorage.read_write",)
NAMED = "GOOGLE_APPLICATION_CREDENTIALS"
"""Variable that names a file of credentials."""
LIFETIME = timedelta(minutes=10)
"""How long S3's credentials are used before botocore is asked for them again."""


def open_s3(bucket: str, *, retries: dict[str, Any] = RETRIES) -> tuple[Any, bool]:
    """Return (bucket, whether there are credentials). Raises InputError, ModuleNotFoundError."""
    import botocore.session
    from botocore.config import Config
    from obstore.store import S3Store

    session = botocore.session.get_session()
    credentials = session.get_credentials()
    if credentials is not None:
        credential_hosts.check(f"s3://{bucket}")
    client = session.create_client(
        "s3",
        region_name=session.get_config_variable("region") or "us-east-1",
        config=Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 2}),
    )
    endpoint = str(client.meta.endpoint_url)
    config: dict[str, Any] = {"region": client.meta.region_name}
    if not endpoint.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        config["endpoint"] = endpoint
    elif not session.get_config_variable("region"):
        config["region"] = _region(client, bucket)
    if credentials is None:
        config["skip_signature"] = True
    store = S3Store(
        bucket,
        config=config,
        client_options={**CLIENT, "allow_http": endpoint.startswith("http:")},
        retry_config=retries,
        credential_provider=_s3_provider(credentials) if credentials else None,
    )
    return store, credentials is not None


def _s3_provider(credentials: Any) -> Callable[[], Any]:
    def keys() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + LIFETIME,
        }

    return keys


def _region(client: Any, bucket: str) -> str:
    """Return the region that a bucket says it is in, whoever asks; else the usual one."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        headers = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as e:
        headers = e.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    except BotoCoreError:
        headers = {}
    return str(headers.get("x-amz-bucket-region") or client.meta.region_name)


def open_gs(
    bucket: str, *, writable: bool = False, retries: dict[str, Any] = RETRIES
) -> tuple[Any, bool]:
    """Return (bucket, whether there are credentials).

    Tokens are for reading alone, unless it is to be `writable`.
    Raises ModuleNotFoundError, and GoogleAuthError for credentials that are named but no use.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from obstore.store import GCSStore

    config: dict[str, Any] = {}
    provider = None
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint:
        config["base_url"] = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        credentials, _ = google.auth.default(scopes=READ_WRITE if writable else READ_ONLY)
        credential_hosts.check(f"gs://{bucket}")
        provider = _gs_provider(credentials)
        provider()
    except GoogleAuthError:
        if os.environ.get(NAMED):
            raise
        provider = None
        config["skip_signature"] = True
    # The store would read the file, too, and google-auth knows more kinds of them.
    named = os.environ.pop(NAMED, None)
    try:
        store = GCSStore(
            bucket,
            config=config,
            client_options={**CLIENT, "allow_http": config.get("base_url", "").startswith("http:")},
            retry_config=retries,
            credential_provider=provider,
        )
    finally:
        if named is not None:
            os.environ[NAMED] = named
    return store, provider is not None


def _gs_provider(credentials: Any) -> Callable[[], Any]:
    from google.auth.transport.requests import Request

    def token() -> dict[str, Any]:
        if not credentials.valid:
            credentials.refresh(Request())
        expiry = credentials.expiry
        # google-auth's dates are in UTC and do not say so.
        ends = expiry.replace(tzinfo=UTC) if expiry else datetime.now(UTC) + LIFETIME
        return {"token": credentials.token, "expires_at": ends}

    return token
