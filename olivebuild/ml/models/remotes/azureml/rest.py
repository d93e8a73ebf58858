"""Requests to Azure's management API: signed in by azure-identity, sent by azure-core.

Answers are JSON objects. Tokens go into one header, to hosts of the cloud alone, and are in no
message. Redirects are not followed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.ml.models.remotes.azureml import clouds

RETRIES = 4
LONGEST_WAIT = 60.0
"""Seconds that a server may ask to be waited for."""
LONGEST_ANSWER = 32 << 20
"""Bytes."""
SIGN_IN = (
    "`az login` signs you in; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET "
    "for a service principal"
)


class Client:
    """Asks Azure's management API, on behalf of whoever is signed in; faults are at `where`.

    `cloud`: the one of the environment, unless another is given.
    """

    def __init__(self, where: Where | str | None, cloud: clouds.Cloud | None = None) -> None:
        self.where = where
        self.cloud = cloud or clouds.current(os.environ)
        self.registries: dict[str, str] = {}
        """Registry -> the URL that it is served at, as far as that was asked."""
        self._pipeline: Any = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def get(self, url: str, what: str, **query: str) -> dict[str, Any]:
        """Return the answer; `what` is what is asked for. Raises InputError."""
        return self.ask("GET", url, what, query)

    def post(self, url: str, what: str, body: object, **query: str) -> dict[str, Any]:
        """The same for a request with a body that changes nothing there."""
        return self.ask("POST", url, what, query, body)

    def ask(
        self, method: str, url: str, what: str, query: Mapping[str, str], body: object = None
    ) -> dict[str, Any]:
        """Return the JSON object that a URL answers with. Raises InputError."""
        self._check_host(url, what)
        status, headers, text = self._sent(method, url, what, query, body)
        if not 200 <= status < 300:
            raise self._refused(what, status, headers, _said(text))
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self.unclear(what, "it is no JSON object")
        return answer

    def unclear(self, what: str, why: str) -> InputError:
        """Return the error for an answer that can't be understood."""
        return self._error(
            f"what Azure answers for {what} can't be read: {why}",
            "is a proxy in between? Else try again",
        )

    def _error(self, fact: str, hint: str) -> InputError:
        return InputError(fact, where=self.where, hint=hint)

    def _check_host(self, url: str, what: str) -> None:
        if not self.cloud.may_have_token(url):
            host = url.split("?")[0][:200]
            raise self._error(
                f"Azure refers to {host} for {what}, which is no host of {self.cloud.name}",
                f"no token is sent there; {clouds.CLOUD} and {clouds.AUTHORITY} name the cloud",
            )

    def _sent(
        self, method: str, url: str, what: str, query: Mapping[str, str], body: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and text of the answer. Raises InputError."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        request = HttpRequest(
            method,
            url,
            params=dict(query),
            headers={"Accept": "application/json"},
            **({} if body is None else {"json": body}),
        )
        # The policy of azure-core refuses http, also to this machine.
        plain = {} if url.startswith("https:") else {"enforce_https": False}
        try:
            response = self._opened().run(request, stream=True, **plain).http_response
            return response.status_code, response.headers, _bounded(response.iter_bytes())
        except ClientAuthenticationError as e:
            raise self._error(f"no sign-in for Azure: {first_line(e)}", SIGN_IN) from None
        except ValueError as e:
            raise self.unclear(what, str(e)) from None
        except AzureError as e:
            host = url.split("/")[2]
            raise self._error(
                f"{host} can't be reached for {what}: {first_line(e, 200)}",
                "is this machine online, and behind no proxy that refuses it?",
            ) from None

    def _opened(self) -> Any:
        if self._pipeline is None:
            self._pipeline = self._open.enter_context(_pipeline(self.cloud, self.where))
        return self._pipeline

    def _refused(self, what: str, status: int, headers: Mapping[str, str], said: str) -> InputError:
        because = f": {said}" if said else ""
        if status == 401:
            return self._error(f"Azure does not accept the sign-in for {what}{because}", SIGN_IN)
        if status == 403:
            hint = "the role AzureML Data Scientist, or Reader of the registry, has it"
            return self._error(f"you have no permission for {what}{because}", hint)
        if status == 404:
            return self._error(f"{what} is not there{because}", "are names and version right?")
        if status == 429:
            wait = headers.get("Retry-After")
            hint = f"build again in {wait} seconds" if wait else "build again later"
            return self._error(f"Azure answers too many requests (429) for {what}", hint)
        if 300 <= status < 400:
            hint = "redirects are not followed, since they could lead a token elsewhere"
            return self._error(f"Azure answers with a redirect ({status}) for {what}", hint)
        hint = "build again later" if status >= 500 else "are names and version right?"
        return self._error(f"Azure answers {status} for {what}{because}", hint)


def _said(text: bytes) -> str:
    """Return what an error answer says, in one short line.

    Its form: https://github.com/microsoft/api-guidelines/blob/vNext/azure/Guidelines.md
    """
    try:
        error = json.loads(text)["error"]
        code, message = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    lines = str(message or code or "").strip().splitlines()
    return lines[0][:200] if lines else ""


def _bounded(pieces: Iterator[bytes]) -> bytes:
    """Return the pieces as one. Raises ValueError where they are too many."""
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) > LONGEST_ANSWER:
            raise ValueError(f"it is longer than {LONGEST_ANSWER >> 20} MiB")
    return bytes(text)


@contextlib.contextmanager
def _pipeline(cloud: clouds.Cloud, where: Where | str | None) -> Iterator[Any]:
    """Yield azure-core's pipeline for a cloud. Raises InputError where the extra is missing."""
    try:
        from azure.core.pipeline import Pipeline
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy
        from azure.core.pipeline.transport import RequestsTransport
        from azure.identity import DefaultAzureCredential
    except ImportError as e:
        raise InputError(
            f"azureml:// needs azure-identity, which is not here: {first_line(e)}",
            where=where,
            hint="pip install 'olivebuild[azure]'",
        ) from None

    # What it tries and why it fails is told at length, with the names of tenants.
    logging.getLogger("azure").setLevel(logging.CRITICAL)

    class Patient(RetryPolicy):  # type: ignore[type-arg,misc,unused-ignore]
        """Waits for as long as a server asks, but no longer than LONGEST_WAIT."""

        def is_retry(self, settings: Any, response: Any) -> bool:
            wait = self.get_retry_after(response)
            return bool(super().is_retry(settings, response)) and (wait or 0) <= LONGEST_WAIT

    transport = RequestsTransport(connection_timeout=20, read_timeout=60)
    # The variable names the cloud, too; one that is named otherwise signs in at its own host.
    named = os.environ.get(clouds.AUTHORITY)
    authority = {} if named else {"authority": cloud.authorities[0]}
    with DefaultAzureCredential(**authority) as credential:
        policies = [
            # Nothing that is asked by POST here changes anything.
            Patient(retry_total=RETRIES, retry_on_methods=["GET", "POST"], retry_backoff_max=20),
            BearerTokenCredentialPolicy(credential, cloud.scope),
        ]
        with Pipeline(transport, policies) as pipeline:  # type: ignore[arg-type,unused-ignore]
            yield pipeline
