"""Azure ML as a launcher: jobs of a workspace, whose inputs and outputs go through an exchange.

azure-ai-ml is imported when the service is first asked, in the agent's process. It signs in as
other tools of Azure do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import BuildError, InputError
from olivebuild.executors.launchers.azureml_job import (
    EXCHANGE,
    Settings,
    build,
    of_azure,
    pack_code,
)
from olivebuild.executors.launchers.mirrored import MirroredLauncher

EXTRA = "pip install 'olivebuild[azureml]'"
FOLDER = "olivebuild"
"""The folder of a datastore that an exchange is in."""
MANAGEMENT = "OLIVEBUILD_AZURE_MANAGEMENT"
"""The endpoint of Azure Resource Manager, where that is not the cloud's own."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STATES = {
    "NotStarted": JobState.QUEUED,
    "Queued": JobState.QUEUED,
    "Paused": JobState.QUEUED,
    "Starting": JobState.QUEUED,
    "Provisioning": JobState.QUEUED,
    "Preparing": JobState.QUEUED,
    "Running": JobState.RUNNING,
    "Finalizing": JobState.RUNNING,
    "CancelRequested": JobState.RUNNING,
    "NotResponding": JobState.RUNNING,
    "Unknown": JobState.RUNNING,
    "Completed": JobState.ENDED,
    "Failed": JobState.ENDED,
    "Canceled": JobState.ENDED,
}
"""https://learn.microsoft.com/rest/api/azureml/jobs/get#jobstatus"""
GB = 1 << 30
PAUSE, PAUSE_SECONDS = "OLIVEBUILD_AZUREML_SECONDS", 5.0
"""How long what the service says of a job holds."""
PATIENCE = 600.0
"""How long the service may fail to say what becomes of a job that it has, in seconds."""


def open_launcher(options: Mapping[str, str], root: Path) -> MirroredLauncher:
    """Raises InputError for fields that are missing, unknown or don't go together."""
    settings = Settings.of_options(options)
    service = AzureML(settings)
    url = settings.exchange or os.environ.get(EXCHANGE) or service.datastore_url
    return MirroredLauncher(service, url, root)


class AzureML:
    """The jobs of a workspace."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Any = None
        self._seen: dict[str, tuple[float, Any]] = {}
        """name -> (when it was asked for, by the monotonic clock; the job)"""
        self._pause = float(os.environ.get(PAUSE) or PAUSE_SECONDS)

    @property
    def _client(self) -> Any:
        """Raises InputError where azure-ai-ml is not installed, or nobody is signed in."""
        if self._opened is None:
            settings = self._settings
            self._opened = open_client(
                settings.subscription, settings.resource_group, settings.workspace
            )
        return self._opened

    def datastore_url(self) -> str:
        """Return the URL of an exchange in the datastore, by default the workspace's own."""
        name = self._settings.datastore
        datastores = self._client.datastores
        what = f"the datastore {name or 'of the workspace'}"
        store = asked(lambda: datastores.get(name) if name else datastores.get_default(), what)
        account, container = (
            getattr(store, "account_name", ""),
            getattr(store, "container_name", ""),
        )
        if not (account and container):
            raise InputError(
                f"{what} is no container of blobs",
                hint="name one with `datastore:`, or a place with `exchange:`",
            )
        return f"az://{account}/{container}/{FOLDER}"

    def refusal(self, needs: Needs) -> str:
        """Raises BuildError where the workspace can't be asked."""
        if needs.nodes > 1:
            return f"it asks for {needs.nodes} nodes, and a job here takes one"
        name = self._settings.compute
        if not name:
            return ""
        compute = asked(lambda: or_none(lambda: self._client.compute.get(name)), name)
        if compute is None:
            return f"the workspace {self._settings.workspace} has no compute {name}"
        size = str(getattr(compute, "size", None) or "")
        if not size:
            # Kubernetes: what its nodes have is the cluster's business.
            return ""
        sizes = asked(lambda: self._client.compute.list_sizes(location=compute.location), name)
        machine = next((s for s in sizes if str(s.name).lower() == size.lower()), None)
        return _too_large(needs, machine, f"{name} has {size}") if machine else ""

    def submit(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        needs: Needs,
    ) -> None:
        """Raises InputError.

        The job as Azure ML is given it, but for the variables, is kept in the folder's
        `azureml.yml`.
        """
        client, file = self._client, folder / "azureml.yml"
        from azure.ai.ml import load_job

        with tempfile.TemporaryDirectory() as scratch:
            code = Path(scratch, "olivebuild-code")
            pack_code(code)
            job = build(self._settings, name=name, words=words, code=code, needs=needs)
            file.unlink(missing_ok=True)
            job.dump(str(file))
            loaded = load_job(str(file))
            # The variables are secrets, and no file has them.
            loaded.environment_variables |= variables
            asked(lambda: client.jobs.create_or_update(loaded), f"the job {name}")

    def state(self, name: str) -> JobState:
        """Raises BuildError where the workspace can't be asked for a while."""
        job = self._job(name)
        return STATES.get(_status(job), JobState.RUNNING) if job else JobState.GONE

    def ending(self, name: str) -> str:
        job = self._job(name)
        if job is None:
            return f"the workspace has no job {name}"
        return f"Azure ML: {name} is {_status(job)}; its log: {job.studio_url or 'in the studio'}"

    def cancel(self, name: str) -> None:
        self._seen.pop(name, None)
        asked(lambda: or_none(lambda: self._client.jobs.begin_cancel(name)), f"the job {name}")

    def _job(self, name: str) -> Any:
        """Return a job, as it was a few seconds ago at most; None where there is none."""
        now, seen = time.monotonic(), self._seen.get(name)
        if seen and now - seen[0] < self._pause:
            return seen[1]
        try:
            job = asked(lambda: or_none(lambda: self._client.jobs.get(name)), f"the job {name}")
        except BuildError:
            # A service that does not answer now stops no job.
            if seen and now - seen[0] < PATIENCE:
                return seen[1]
            raise
        self._seen[name] = (now, job)
        return job


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count != 1 else ''}"


def _status(job: Any) -> str:
    return str(getattr(job.status, "value", job.status))


def _too_large(needs: Needs, machine: Any, what: str) -> str:
    """Return what of the needs no machine of a size has; "" for nothing."""
    # azure-ai-ml 1.35 hands the service's own names on beside those that it documents.
    gpus = int(machine.gpus or 0)
    cores = int(machine.v_cp_us or getattr(machine, "vCPUs", None) or 0)
    memory = float(machine.memory_gb or getattr(machine, "memoryGB", None) or 0)
    if needs.gpus > gpus:
        return f"it asks for {_gpus(needs.gpus)}, and {what} with {gpus}"
    if cores and needs.cores > cores:
        return f"it asks for {needs.cores} cores, and {what} with {cores}"
    if memory and needs.memory > memory * GB:
        return f"it asks for {needs.memory / GB:.0f} GB of memory, and {what} with {memory:g} GB"
    return ""


def asked(work: Callable[[], Any], what: str) -> Any:
    """Return what the service answers. Raises InputError."""
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import AzureError

    try:
        return work()
    except (AzureError, MlException, OSError, ValueError) as e:
        raise of_azure(e, what) from None


def or_none(work: Callable[[], Any]) -> Any:
    """Return what the service answers; None where it has no such thing."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return work()
    except ResourceNotFoundError:
        return None


def open_client(subscription: str, resource_group: str, workspace: str) -> Any:
    """Return azure-ai-ml's client of a workspace. Raises InputError."""
    import logging

    try:
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError as e:
        raise InputError(
            f"Azure ML needs the library {e.name}, which is not installed", hint=EXTRA
        ) from None
    # What they try and why it fails is told at length, with the names of tenants.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    # It would have git read the folder of the recipe, whose configuration can name programs, and
    # tell Azure ML where its repository lies.
    os.environ["GIT_DIR"] = os.devnull
    return MLClient(
        DefaultAzureCredential(exclude_interactive_browser_credential=True),
        subscription,
        resource_group,
        workspace,
        enable_telemetry=False,
        show_progress=False,
        **_transport(os.environ.get(MANAGEMENT, "").rstrip("/")),
    )


def _transport(management: str) -> dict[str, Any]:
    """Return the transport that sends requests for Azure's management to another endpoint.

    Only through TLS, except to this machine: they carry tokens. Raises InputError.
    """
    if not management:
        return {}
    at = urlsplit(management)
    if not at.hostname or not (at.scheme == "https" or at.hostname in LOOPBACK):
        raise InputError(
            f"{MANAGEMENT} is {management!r}, where tokens can't be sent",
            where=MANAGEMENT,
            hint="a URL that begins with https://",
        )
    from azure.core.pipeline.transport import RequestsTransport

    class Redirected(RequestsTransport):  # type: ignore[misc]
        def send(self, request: Any, **options: Any) -> Any:
            asked = urlsplit(request.url)
            if (asked.hostname or "").startswith("management."):
                request.url = asked._replace(scheme=at.scheme, netloc=at.netloc).geturl()
            return super().send(request, **options)

    return {"transport": Redirected()}
