"""A server on loopback that speaks Azure ML's REST API, and the little of Blob storage's that a
download needs.

Paths, `api-version`s and answers are those of azure-ai-ml 1.35 and of the reference of the REST API
(https://learn.microsoft.com/rest/api/azureml). Sign-in is that of a managed identity on App Service
(https://learn.microsoft.com/azure/app-service/overview-managed-identity), which azure-identity
does over plain HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

TOKEN = "a-token-of-the-contract-server"
SIGNATURE = "a-signature-of-the-contract-server"
KEY = "YS1rZXktb2YtdGhlLWNvbnRyYWN0LXNlcnZlcg=="
IDENTITY = "an-identity-header"
SECRETS = (TOKEN, SIGNATURE, KEY)
"""What may be in no log, key or message."""
ACCOUNT = "modelaccount"
CONTAINER = "azureml-models"
SAS = f"sv=2024-11-04&sr=c&sp=rl&sig={SIGNATURE}"
SUBSCRIPTION, GROUP = "00000000-0000-0000-0000-000000000001", "models-rg"
WORKSPACE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/work"  # noqa: E501
REGISTRY = f"/mferp/managementfrontend/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices/registries/shelf"  # noqa: E501
Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[str], Answer | None]
"""Gives the answer to a path in the place of the right one."""


@dataclass
class Azure:
    """The state of the server: what it holds, and what it was asked."""

    folder: Path
    """The container: a model NAME of version V lies in NAME/V/mlflow_model_folder/."""
    url: str = ""
    models: dict[str, list[str]] = field(default_factory=dict)
    """name -> versions, in the order in which they were made."""
    kinds: dict[str, str] = field(default_factory=dict)
    datastores: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """METHOD PATH of each request, without its query."""
    fault: Fault | None = None
    served_at: str = ""
    """Where the registry is said to be served; the server itself by default."""
    uris: dict[str, str] = field(default_factory=dict)
    """name -> modelUri in a workspace, in the place of a path of `store`."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which olivebuild finds the server, and signs in there."""
        return {
            "OLIVEBUILD_AZURE_MANAGEMENT": self.url,
            "OLIVEBUILD_AZURE_REGISTRIES": self.url,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "IDENTITY_ENDPOINT": f"{self.url}/identity",
            "IDENTITY_HEADER": IDENTITY,
        }

    @property
    def storage(self) -> str:
        return f"{self.url}/{ACCOUNT}/{CONTAINER}"

    def add(
        self, name: str, version: str, files: dict[str, bytes], kind: str = "mlflow_model"
    ) -> None:
        """Put a version of a model there."""
        for path, data in files.items():
            file = self.folder / name / version / "mlflow_model_folder" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        self.models.setdefault(name, []).append(version)
        self.kinds[name] = kind

    def requests(self, part: str) -> list[str]:
        return [line for line in self.asked if part in line]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, azure: Azure, *arguments: Any) -> None:
        self.azure = azure
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.azure.asked.append(f"{self.command} {path}")
        query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.azure.fault and self.azure.fault(path)
        status, headers, text = fault or self.answer(path, query, body)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(text))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        if path == "/identity":
            return self.token(query)
        if path.startswith(f"/{ACCOUNT}/{CONTAINER}"):
            return self.blobs(path.removeprefix(f"/{ACCOUNT}/{CONTAINER}").lstrip("/"), query)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if m := re.fullmatch(r"/registrymanagement/v1.0/registries/([^/]+)/discovery", path):
            return self.discovery(m[1], query)
        if path.startswith(REGISTRY):
            return self.registry(path.removeprefix(REGISTRY), query, body)
        if path.startswith(WORKSPACE):
            return self.workspace(path.removeprefix(WORKSPACE), query, body)
        return error(404, "ResourceNotFound", f"The resource {path} was not found.")

    def token(self, query: dict[str, str]) -> Answer:
        if self.headers.get("X-IDENTITY-HEADER") != IDENTITY:
            return error(401, "Unauthorized", "wrong header")
        assert query["api-version"] == "2019-08-01"
        # The audience of the public cloud, wherever the endpoints are.
        assert query["resource"].rstrip("/") == "https://management.azure.com"
        return of_json(
            {"access_token": TOKEN, "expires_on": "4102444800", "token_type": "Bearer"}
            | {"resource": query["resource"]}
        )

    def discovery(self, name: str, query: dict[str, str]) -> Answer:
        assert query["api-version"] == "v1.0"
        if name != "shelf":
            return error(404, "RegistryNotFound", f"Registry {name} was not found.")
        return of_json(
            {
                "registryName": name,
                "tenantId": SUBSCRIPTION,
                "primaryRegion": "eastus",
                "regions": ["eastus"],
                "subscriptionId": SUBSCRIPTION,
                "resourceGroup": GROUP,
                "primaryRegionResourceProviderUri": self.azure.served_at or f"{self.azure.url}/",
            }
        )

    def registry(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        assert query["api-version"] == "2021-10-01-dataplanepreview"
        if m := re.fullmatch(r"/datarefs/([^/]+)/versions/([^/]+)", path):
            asked = json.loads(body)
            assert self.command == "POST"
            assert asked == {
                "assetId": f"azureml://registries/shelf/models/{m[1]}/versions/{m[2]}",
                "blobUri": self.uri_of(m[1], m[2]),
            }
            credential = {"credentialType": "SAS", "sasUri": f"{self.azure.storage}?{SAS}"}
            reference = {"blobUri": asked["blobUri"], "credential": credential}
            return of_json({"blobReferenceForConsumption": reference})
        return self.models(path, query, self.uri_of)

    def workspace(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        assert query["api-version"] == "2025-12-01"
        if m := re.fullmatch(r"/datastores/([^/]+)(/listSecrets)?", path):
            if m[1] not in self.azure.datastores:
                return error(404, "UserError", f"Could not find datastore with name: {m[1]}")
            if not m[2]:
                return of_json({"name": m[1], "properties": self.azure.datastores[m[1]]})
            assert self.command == "POST"
            assert json.loads(body)["expirableSecret"] is True
            return of_json(self.azure.secrets[m[1]])
        where = f"azureml://subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/workspaces/work"
        return self.models(
            path,
            query,
            lambda name, version: self.azure.uris.get(
                name, f"{where}/datastores/store/paths/{name}/{version}/mlflow_model_folder"
            ),
        )

    def models(self, path: str, query: dict[str, str], uri: Callable[[str, str], str]) -> Answer:
        m = re.fullmatch(r"/models/([^/]+)/versions(?:/([^/]+))?", path)
        assert m
        versions = self.azure.models.get(m[1], [])
        if m[2] is None:
            assert query["$orderBy"] == "createdtime desc"
            newest = versions[::-1][: int(query["$top"])]
            return of_json({"value": [self.version(m[1], v, uri) for v in newest]})
        if m[2] not in versions:
            return error(404, "UserError", f"Model {m[1]}:{m[2]} not found")
        return of_json(self.version(m[1], m[2], uri))

    def version(self, name: str, version: str, uri: Callable[[str, str], str]) -> dict[str, Any]:
        about = {"modelUri": uri(name, version), "modelType": self.azure.kinds[name]}
        return {"name": version, "properties": about | {"isArchived": False}}

    def uri_of(self, name: str, version: str) -> str:
        return f"{self.azure.storage}/{name}/{version}/mlflow_model_folder"

    def blobs(self, path: str, query: dict[str, str]) -> Answer:
        """https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api."""
        if query.get("sig") != SIGNATURE:
            return xml_error(403, "AuthenticationFailed")
        if query.get("comp") == "list":
            return self.listing(query)
        file = self.azure.folder / path
        if not file.is_file():
            return xml_error(404, "BlobNotFound")
        data, headers = file.read_bytes(), {"ETag": etag(file), "x-ms-blob-type": "BlockBlob"}
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return xml_error(412, "ConditionNotMet")
        headers["Last-Modified"] = "Sat, 28 Nov 2026 12:00:00 GMT"
        if m := re.fullmatch(
            r"bytes=(\d+)-(\d*)", self.headers.get("x-ms-range") or self.headers.get("Range") or ""
        ):
            start, end = int(m[1]), min(int(m[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return 206, headers, data[start : end + 1]
        return 200, headers, data

    def listing(self, query: dict[str, str]) -> Answer:
        files = sorted(p for p in self.azure.folder.rglob("*") if p.is_file())
        blobs = ""
        for file in files:
            name = file.relative_to(self.azure.folder).as_posix()
            if name.startswith(query.get("prefix", "")):
                blobs += (
                    f"<Blob><Name>{escape(name)}</Name><Properties><Etag>{escape(etag(file))}</Etag>"
                    f"<Content-Length>{file.stat().st_size}</Content-Length>"
                    "<Last-Modified>Sat, 28 Nov 2026 12:00:00 GMT</Last-Modified>"
                    "<Creation-Time>Sat, 28 Nov 2026 12:00:00 GMT</Creation-Time>"
                    "<Content-Type>application/octet-stream</Content-Type>"
                    "<BlobType>BlockBlob</BlobType></Properties></Blob>"
                )
        text = (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="x" '
            f'ContainerName="{CONTAINER}"><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
        )
        return 200, {"Content-Type": "application/xml"}, text.encode()


def etag(file: Path) -> str:
    return f'"0x{hashlib.sha256(file.read_bytes()).hexdigest()[:15].upper()}"'


def of_json(data: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()


def error(status: int, code: str, message: str, **headers: str) -> Answer:
    """An error as Azure's guidelines have it."""
    text = json.dumps({"error": {"code": code, "message": message}}).encode()
    return status, {"Content-Type": "application/json"} | headers, text


def xml_error(status: int, code: str) -> Answer:
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    return status, {"Content-Type": "application/xml", "x-ms-error-code": code}, text.encode()


def once(path: str, answer: Answer) -> Fault:
    """A fault at the first request whose path holds `path`."""
    left = [answer]
    return lambda asked: left.pop() if left and path in asked else None


def always(path: str, answer: Answer) -> Fault:
    return lambda asked: answer if path in asked else None


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Azure]:
    """Serve an Azure that holds what is in `folder`."""
    folder.mkdir(exist_ok=True)
    azure = Azure(folder)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(azure, *arguments)
    )
    server.daemon_threads = True
    azure.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield azure
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def clean_environment() -> dict[str, str]:
    """This process's variables without those by which Azure's libraries sign in."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AZURE_", "IDENTITY_", "MSI_", "AZUREML_"))
    }
