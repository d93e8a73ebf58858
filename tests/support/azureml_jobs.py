"""An Azure ML on loopback that takes command jobs and runs their very command lines.

Paths, `api-version`s and answers are those that azure-ai-ml 1.35 asks for and of the reference of
the REST API (https://learn.microsoft.com/rest/api/azureml/jobs). Code is uploaded to Azurite, and
a job runs in a folder with it, with the variables that the job has and those of the compute alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import psutil

from tests.support.azureml_server import (
    IDENTITY,
    TOKEN,
    WORKSPACE,
    Answer,
    error,
    of_json,
)
from tests.support.object_stores import ACCOUNT, KEY, azure_store

CONTAINER = "workspace"
SIZE = {
    "name": "Standard_NC6s_v3",
    "vCPUs": 6,
    "gpus": 1,
    "memoryGB": 112,
    "supportedComputeTypes": ["AmlCompute"],
}
COMPUTES = {"gpu": "Standard_NC6s_v3"}
GRACE = 20.0


@dataclass
class Job:
    """A job, as the service keeps it."""

    name: str
    body: dict[str, Any]
    status: str = "Queued"
    process: subprocess.Popen[bytes] | None = None
    runs: int = 0
    """How often its command was started."""

    @property
    def properties(self) -> dict[str, Any]:
        return dict(self.body["properties"])


@dataclass
class Service:
    """The state of the service."""

    folder: Path
    blobs: str
    """The address of Azurite, with the account."""
    compute: Mapping[str, str]
    """The variables of a compute's nodes."""
    url: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """code/NAME/VERSION, environments/NAME/VERSION -> body"""
    asked: list[str] = field(default_factory=list)
    held: bool = False
    """Jobs stay queued."""
    fails: str = ""
    """Jobs fail before they begin, with this code."""
    signed: bool = False
    """Whether the datastore gives signatures to who writes into it."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which olivebuild finds the service, and signs in there."""
        return {
            "OLIVEBUILD_AZURE_MANAGEMENT": self.url,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "IDENTITY_ENDPOINT": f"{self.url}/identity",
            "IDENTITY_HEADER": IDENTITY,
        }

    def run(self, job: Job) -> None:
        """Run a job as a node of the compute would, until it ends or is taken away."""
        if self.fails:
            job.status = "Failed"
            return
        while self.held and job.status == "Queued":
            time.sleep(0.05)
        while True:
            with self.lock:
                if job.status in ("CancelRequested", "Canceled"):
                    job.status = "Canceled"
                    return
                job.runs += 1
                job.process = self._start(job)
                job.status = "Running"
            code = job.process.wait()
            with self.lock:
                if job.status == "Queued":
                    # The machine was taken away: the service starts the command on another one.
                    continue
                if job.status == "CancelRequested":
                    job.status = "Canceled"
                else:
                    job.status = "Completed" if code == 0 else "Failed"
                return

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        properties = job.properties
        work = self.folder / job.name / str(job.runs)
        work.mkdir(parents=True)
        code = self.assets[asset_of(properties["codeId"])]["properties"]["codeUri"]
        prefix = code.split(f"/{CONTAINER}/")[1].strip("/")
        import obstore

        store = azure_store(self.blobs, CONTAINER)
        for page in obstore.list(store, prefix=prefix):
            for entry in page:
                file = work / str(entry["path"]).removeprefix(f"{prefix}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(bytes(obstore.get(store, entry["path"]).bytes()))
        variables = {**self.compute, **properties.get("environmentVariables", {})}
        with open(work / "std_log.txt", "wb") as log:
            return subprocess.Popen(
                ["bash", "-c", properties["command"]],
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        """Return what a job has printed on its last node."""
        job = self.jobs[name]
        return (self.folder / name / str(job.runs) / "std_log.txt").read_text()

    def take_away(self, name: str) -> None:
        """Take the node of a job away, as of a low-priority machine: it is queued again."""
        job = self.jobs[name]
        with self.lock:
            job.status = "Queued"
            kill(job, signal.SIGKILL)

    def cancel(self, job: Job) -> None:
        with self.lock:
            if job.status in ("Completed", "Failed", "Canceled"):
                return
            queued = job.status == "Queued"
            job.status = "Canceled" if queued else "CancelRequested"
        if not queued:
            threading.Thread(target=self._end, args=(job,), daemon=True).start()

    def _end(self, job: Job) -> None:
        kill(job, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert job.process
            job.process.wait(GRACE)
        kill(job, signal.SIGKILL)

    def sas(self) -> str:
        """Return a signature for the container, as of an account's key.

        https://learn.microsoft.com/rest/api/storageservices/create-service-sas
        """
        begin, end, version = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z", "2020-12-06"
        resource = f"/blob/{ACCOUNT}/{CONTAINER}"
        fields = ["racwdl", begin, end, resource, "", "", "", version, "c", *[""] * 7]
        text = "\n".join(fields)
        digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        signature = quote(base64.b64encode(digest).decode(), safe="")
        return f"sv={version}&st={quote(begin)}&se={quote(end)}&sr=c&sp=racwdl&sig={signature}"


def kill(job: Job, number: signal.Signals) -> None:
    """Signal a node: its command, and with SIGKILL all that it started, as a node that is gone."""
    if job.process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        node = psutil.Process(job.process.pid)
        started = node.children(recursive=True) if number == signal.SIGKILL else []
        for process in (node, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def asset_of(ident: str) -> str:
    """Return the part of an asset's id that its body is kept under."""
    return ident.split("/workspaces/work/")[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, service: Service, *arguments: Any) -> None:
        self.service = service
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        at = urlsplit(self.path)
        path = unquote(at.path)
        self.service.asked.append(f"{self.command} {path}")
        query = {k: v[0] for k, v in parse_qs(at.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, text = self.answer(path, query, body)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(text))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_POST = do_PUT = do_HEAD = do_PATCH = do_GET  # noqa: N815

    def answer(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        if path == "/identity":
            if self.headers.get("X-IDENTITY-HEADER") != IDENTITY:
                return error(401, "Unauthorized", "wrong header")
            token = {"access_token": TOKEN, "expires_on": "4102444800", "token_type": "Bearer"}
            return of_json(token | {"resource": query["resource"]})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        data = json.loads(body) if body else {}
        if re.search("/locations/eastus/vmSizes$", path):
            return of_json({"value": [SIZE]})
        if not path.lower().startswith(WORKSPACE.lower()):
            return error(404, "ResourceNotFound", f"The resource {path} was not found.")
        return self.workspace(path[len(WORKSPACE) :].strip("/"), query | data)

    def workspace(self, path: str, data: dict[str, Any]) -> Answer:
        kind, *words = path.split("/")
        if not path:
            about = {"discoveryUrl": f"{self.service.url}/discovery", "friendlyName": "work"}
            return of_json(
                {"id": WORKSPACE, "name": "work", "location": "eastus", "properties": about}
            )
        works = {
            "computes": self.computes,
            "datastores": self.datastores,
            "codes": self.assets,
            "environments": self.assets,
            "models": self.models,
            "jobs": self.jobs,
        }
        if kind not in works:
            return error(404, "ResourceNotFound", f"no {path}")
        return works[kind](kind, words, data)

    def computes(self, _: str, words: list[str], data: dict[str, Any]) -> Answer:
        size = COMPUTES.get(words[0])
        if size is None:
            return error(404, "ResourceNotFound", f"no compute {words[0]}")
        properties = {
            "computeType": "AmlCompute",
            "computeLocation": "eastus",
            "provisioningState": "Succeeded",
            "properties": {
                "vmSize": size,
                "vmPriority": "LowPriority",
                "scaleSettings": {"maxNodeCount": 1, "minNodeCount": 0},
            },
        }
        ident = f"{WORKSPACE}/computes/{words[0]}"
        return of_json(
            {"id": ident, "name": words[0], "location": "eastus", "properties": properties}
        )

    def datastores(self, _: str, words: list[str], data: dict[str, Any]) -> Answer:
        at = urlsplit(self.service.blobs)
        if words[1:] == ["listSecrets"]:
            return of_json({"secretsType": "Sas", "sasToken": self.service.sas()})
        properties = {
            "datastoreType": "AzureBlob",
            "accountName": ACCOUNT,
            "containerName": CONTAINER,
            "endpoint": at.netloc,
            "protocol": at.scheme,
            "isDefault": True,
            "credentials": {"credentialsType": "Sas" if self.service.signed else "None"},
        }
        name = words[0] if words else "workspaceblobstore"
        store = {
            "id": f"{WORKSPACE}/datastores/{name}",
            "name": name,
            "properties": properties,
        }
        return of_json(store if words else {"value": [store]})

    def assets(self, kind: str, words: list[str], data: dict[str, Any]) -> Answer:
        path = f"{kind}/{'/'.join(words)}"
        assets = self.service.assets
        if words[-1] == "startPendingUpload":
            uri = f"{self.service.blobs}/{CONTAINER}"
            credential = {
                "credentialType": "SAS",
                "sasUri": f"{self.service.blobs}/{CONTAINER}?{self.service.sas()}",
            }
            reference = {"blobUri": uri, "storageAccountArmId": "", "credential": credential}
            return of_json(
                {
                    "blobReferenceForConsumption": reference,
                    "pendingUploadId": words[0],
                    "pendingUploadType": "TemporaryBlobReference",
                }
            )
        if self.command == "PUT":
            data = {"properties": data["properties"]}
            assets[path] = data | {"id": f"{WORKSPACE}/{path}", "name": words[-1]}
        if words[-1] == "versions":
            # Whatever its name: a client asks whether code of this hash is there.
            asked = {"hash_sha256": data["hash"], "hash_version": int(data["hashVersion"])}
            same = [b for b in assets.values() if b["properties"].get("properties") == asked]
            return of_json({"value": same})
        if path not in assets:
            return error(404, "UserError", f"no {path}")
        return of_json(assets[path])

    def models(self, _: str, words: list[str], data: dict[str, Any]) -> Answer:
        """https://learn.microsoft.com/rest/api/azureml/model-versions."""
        assets, name = self.service.assets, words[0]
        prefix = f"models/{name}/versions/"
        versions = [ident.removeprefix(prefix) for ident in assets if ident.startswith(prefix)]
        if words[1:] == ["versions"]:
            return of_json({"value": [assets[f"{prefix}{version}"] for version in versions]})
        if words[1:]:
            path = f"models/{'/'.join(words)}"
            if self.command == "PUT":
                about = {"flavors": {}, "tags": {}, "properties": {}, "isArchived": False}
                about |= {key: v for key, v in data["properties"].items() if v is not None}
                body = {"properties": about, "name": words[-1]}
                assets[path] = body | {"id": f"{WORKSPACE}/{path}"}
            return of_json(assets[path]) if path in assets else error(404, "UserError", path)
        if not versions:
            return error(404, "UserError", f"no model {name}")
        numbers = [int(version) for version in versions if version.isdigit()]
        about = {"nextVersion": str(max(numbers, default=0) + 1), "latestVersion": versions[-1]}
        return of_json({"id": f"{WORKSPACE}/models/{name}", "name": name, "properties": about})

    def jobs(self, _: str, words: list[str], data: dict[str, Any]) -> Answer:
        jobs, name = self.service.jobs, words[0]
        if self.command == "PUT":
            if name in jobs:
                return error(409, "UserError", f"A job with this name already exists: {name}")
            job = jobs[name] = Job(name, {"properties": data["properties"]})
            threading.Thread(target=self.service.run, args=(job,), daemon=True).start()
        if name not in jobs:
            return error(404, "UserError", f"Run {name} was not found")
        if words[1:] == ["cancel"]:
            self.service.cancel(jobs[name])
            return 200, {}, b""
        return of_json(self.shown(jobs[name]))

    def shown(self, job: Job) -> dict[str, Any]:
        studio = {"endpoint": f"https://ml.azure.com/runs/{job.name}", "jobServiceType": "Studio"}
        more = {"status": job.status, "services": {"Studio": studio}}
        return {
            "id": f"{WORKSPACE}/jobs/{job.name}",
            "name": job.name,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "properties": job.properties | more,
        }


@contextlib.contextmanager
def serving(folder: Path, blobs: str, compute: Mapping[str, str]) -> Iterator[Service]:
    """Serve a workspace whose code lies in Azurite."""
    service = Service(folder, blobs, compute)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(service, *arguments)
    )
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield service
    finally:
        for job in service.jobs.values():
            kill(job, signal.SIGKILL)
        server.shutdown()
        server.server_close()
