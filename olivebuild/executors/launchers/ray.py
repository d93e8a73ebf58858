"""The launcher for Ray: a job of Ray's for each job, submitted over HTTP to the head.

Ray is imported in the methods of it alone, and so in an agent. Its job server is asked, and no
driver connected: that takes milliseconds and not seconds, and a job outlives whoever submitted it.
https://docs.ray.io/en/latest/cluster/running-applications/job-submission/sdk.html
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import BuildError, InputError, RecipeError, StepError, first_line
from olivebuild.core.processes import python
from olivebuild.core.text import size

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")
ADDRESS = "http://127.0.0.1:8265"
"""Of the dashboard where nothing is said: the head's own."""
OPTIONS = {"address", "autoscaling", "variables"}
NODES = "olivebuild.executors.launchers.ray_nodes"
"""The module that starts the processes of a job of several nodes."""
MOST_NODES = 10_000
"""Ray's own limit for one list."""
STOP_SECONDS = 15
"""Between SIGTERM and SIGKILL. Ray's own 3 are too few to write a checkpoint."""
NO_FOLDER = 97
"""The exit code where a node does not see the site's folder."""
NODE_LOST = 75
"""The exit code of a job of several nodes that has lost one (EX_TEMPFAIL)."""
TIMED_OUT = 124
"""The exit code of coreutils' `timeout`."""
TERMINATED = 143
"""The exit code of a shell for a process that SIGTERM has ended."""
CANCELLED = "cancelled-"
"""What a file begins with that says, with the job's name, that it was cancelled."""
NOT_BEGUN = {"RUNTIME_ENV_SETUP_FAILURE", "JOB_ENTRYPOINT_COMMAND_START_ERROR"}
"""Ray's errors that another try would meet again; without an exit code, others are lost nodes."""
NOTE_BYTES = 4096


class Node(NamedTuple):
    """What a node of the cluster has altogether, in use or not."""

    gpus: float
    cores: float
    memory: float

    def holds(self, needs: Needs) -> bool:
        return (
            self.gpus >= needs.gpus
            and self.cores >= cores_of(needs)
            and self.memory >= needs.memory
        )


class RayLauncher:
    def __init__(
        self,
        address: str = "",
        *,
        autoscaling: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Take what the recipe's executor says.

        `address`: of the head's dashboard. `autoscaling`: nodes are added when they are asked for,
        so that those of today say nothing about what can run. `variables`: of the environment of
        jobs, which have that of their node and not the agent's.
        """
        self._address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
        self._autoscaling = autoscaling
        self._variables = dict(variables or {})
        self._connected: JobSubmissionClient | None = None

    def refusal(self, needs: Needs) -> str:
        if self._autoscaling:
            return ""
        nodes = self._nodes()
        fitting = sum(node.holds(needs) for node in nodes)
        if fitting >= needs.nodes:
            return ""
        return f"it asks for {_asked(needs)}; {_offered(nodes, fitting)}"

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Submit a job. Its name is never used again, as Ray wants it."""
        ident = f"olivebuild-{name}-{uuid.uuid4().hex[:8]}"
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **self._variables}
        if needs.nodes > 1:
            # The process that starts the others needs nothing, and runs on the head.
            taken: dict[str, float] = {}
            grows = ["--autoscaling"] if self._autoscaling else []
            words = [*_words(needs), *grows, "--", *command]
            command = python("-m", NODES, *words)
        else:
            taken = {
                "entrypoint_num_cpus": cores_of(needs),
                "entrypoint_num_gpus": needs.gpus,
                "entrypoint_memory": needs.memory,
            }
        submitted: str = self._ask(
            lambda client: client.submit_job(
                entrypoint=_entrypoint(command, folder, needs, ident),
                submission_id=ident,
                metadata={"folder": str(folder), "seconds": str(needs.seconds)},
                runtime_env={"env_vars": variables},
                **taken,
            )
        )
        return submitted

    def state(self, ident: str) -> JobState:
        job = self._job(ident)
        if job is None:
            # The head was started anew: it and its nodes have forgotten what ran.
            return JobState.LOST
        match job.status.name:
            case "PENDING":
                return JobState.ENDED if _cancelled(job).exists() else JobState.QUEUED
            case "RUNNING":
                return JobState.RUNNING
            case "FAILED":
                lost = _is_lost(job)
                _note(job, _why(job))
                return JobState.LOST if lost else JobState.ENDED
        return JobState.ENDED

    def ending(self, ident: str) -> str:
        """Return in a line what Ray says of a job, "" where it says nothing."""
        job = self._job(ident)
        if job is None:
            return "the cluster was started anew"
        if job.status.name == "PENDING":
            return "waits for resources"
        return _why(job) if job.status.name == "FAILED" else ""

    def cancel(self, ident: str) -> None:
        """End a job. One that waits stays in Ray's queue, and ends there when its turn comes."""
        job = self._job(ident)
        if job is None or job.status.is_terminal():
            return
        with contextlib.suppress(OSError):
            _cancelled(job).touch()
        self._ask(lambda client: client.stop_job(ident))

    def _job(self, ident: str) -> JobDetails | None:
        """Return what Ray knows of a job, None where it does not know it."""
        client = self._client()
        try:
            return client.get_job_info(ident)
        except RuntimeError as e:
            # Whatever the server answers is a RuntimeError, that there is no such job as well.
            listed = self._ask(lambda client: client.list_jobs())
            if any(job.submission_id == ident for job in listed):
                raise self._refused(e) from None
            return None
        except OSError as e:
            raise self._unreachable(e) from None

    def _nodes(self) -> list[Node]:
        """Return the nodes that are alive. Raises BuildError."""
        self._client()
        from ray.util.state import list_nodes
        from ray.util.state.exception import RayStateApiException

        try:
            # Nodes that are gone are listed for a while. With a filter, Ray takes those that it has
            # left out for such as did not fit into the answer.
            states = list_nodes(address=self._address, limit=MOST_NODES, detail=True)
        except RayStateApiException as e:
            raise self._refused(e) from None
        except OSError as e:
            raise self._unreachable(e) from None
        totals = [state.resources_total or {} for state in states if state.state == "ALIVE"]
        return [Node(x.get("GPU", 0), x.get("CPU", 0), x.get("memory", 0)) for x in totals]

    def _ask(self, question: Callable[[JobSubmissionClient], T]) -> T:
        """Raises BuildError."""
        try:
            return question(self._client())
        except RuntimeError as e:
            raise self._refused(e) from None
        except OSError as e:
            raise self._unreachable(e) from None

    def _client(self) -> JobSubmissionClient:
        if self._connected is None:
            from ray.job_submission import JobSubmissionClient

            # Ray takes RAY_ADDRESS, which containers have, before any argument, and this before it.
            os.environ["RAY_API_SERVER_ADDRESS"] = self._address
            try:
                self._connected = JobSubmissionClient(self._address)
            except RuntimeError as e:
                raise self._refused(e) from None
            except OSError as e:
                raise self._unreachable(e) from None
        return self._connected

    def _refused(self, error: Exception) -> BuildError:
        return StepError(
            f"Ray at {self._address} refuses: {first_line(error)}",
            hint="`ray status` and the dashboard on the head say how the cluster is",
        )

    def _unreachable(self, error: Exception) -> BuildError:
        # What the libraries of HTTP say in several hundred characters ends with it.
        reason = re.search(r"\[Errno \d+\] ([\w ]+)", str(error))
        return InputError(
            f"Ray at {self._address} does not answer: {reason[1] if reason else first_line(error)}",
            hint="is the head running? `address` of the executor names its dashboard, as the agent "
            "reaches it",
        )


def open_launcher(
    options: Mapping[str, str],
    root: Path,  # noqa: ARG001 - what other launchers need
) -> RayLauncher:
    """Return the launcher that the options ask for.

    Raises RecipeError for an unknown option, and InputError where Ray is not installed.
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise RecipeError(
            f"Ray's launcher has no option {unknown[0]}",
            hint=f"it has {', '.join(sorted(OPTIONS))}",
        )
    address = options.get("address", "")
    if address and not address.startswith(("http://", "https://")):
        raise RecipeError(
            f"{address!r} is no address of a Ray dashboard", hint=f"write it as {ADDRESS}"
        )
    autoscaling = options.get("autoscaling", "false")
    if autoscaling not in ("true", "false"):
        raise RecipeError(f"autoscaling is {autoscaling!r}", hint="it is true or false")
    variables = _variables_of(options.get("variables", "{}"))
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            f"Ray is not installed for {python()[0]}, where the agent runs",
            hint="pip install 'olivebuild[ray]' there, in the version of the cluster",
        )
    return RayLauncher(address, autoscaling=autoscaling == "true", variables=variables)


def _variables_of(text: str) -> dict[str, str]:
    """Return variables out of JSON. Raises RecipeError."""
    with contextlib.suppress(ValueError):
        values = json.loads(text)
        if isinstance(values, dict) and all(isinstance(v, str) for v in values.values()):
            return values
    raise RecipeError(
        "the variables of Ray's launcher can't be read", hint="they are a JSON object of texts"
    )


def cores_of(needs: Needs) -> int:
    """Return the cores that a job reserves: Ray would put one without any on the head."""
    return max(needs.cores, 1)


def _entrypoint(command: Sequence[str], folder: Path, needs: Needs, ident: str) -> str:
    """Return what Ray gives to a shell: the command in its folder, with its log and its end.

    Ray hands a cancellation on when the job has a node: it must not begin there.
    """
    words = list(command)
    if needs.seconds:
        # Ray knows no longest time.
        words = ["timeout", f"--kill-after={STOP_SECONDS}", str(needs.seconds), *words]
    if not needs.gpus and needs.nodes == 1:
        words = ["env", "CUDA_VISIBLE_DEVICES=", *words]
    place = shlex.quote(str(folder))
    cancelled = shlex.quote(f"{CANCELLED}{ident}")
    return (
        f"cd -- {place} && exec >>log 2>&1 || exit {NO_FOLDER}; "
        f"[ ! -e {cancelled} ] || exit {TERMINATED}; exec {shlex.join(words)}"
    )


def _words(needs: Needs) -> list[str]:
    """Return the needs as the module that starts several processes reads them."""
    return [
        f"--nodes={needs.nodes}",
        f"--gpus={needs.gpus}",
        f"--cores={cores_of(needs)}",
        f"--memory={needs.memory}",
    ]


def _cancelled(job: JobDetails) -> Path:
    """Return the file that is there where a job was cancelled."""
    return Path((job.metadata or {}).get("folder", ""), f"{CANCELLED}{job.submission_id}")


def _is_lost(job: JobDetails) -> bool:
    """Return whether a failed job was ended by its node, or never began."""
    if job.driver_exit_code is None:
        return str(job.error_type) not in NOT_BEGUN
    return bool(job.driver_exit_code == NODE_LOST)


def _why(job: JobDetails) -> str:
    """Return in a line why a job has failed."""
    metadata = job.metadata or {}
    match job.driver_exit_code:
        case None:
            return _reason(job.message or "") or str(job.error_type)
        case code if code == NO_FOLDER:
            return (
                f"the node at {job.driver_agent_http_address} does not see {metadata['folder']}: "
                "the site's root has to be a folder that all nodes share"
            )
        case code if code == TIMED_OUT and int(metadata.get("seconds", "0")):
            return f"ended after {metadata['seconds']} seconds, the longest that it may run"
        case code if code == NODE_LOST:
            return "one of its nodes was lost"
        case code:
            return f"exit code {code}"


def _reason(message: str) -> str:
    """Return in a line what Ray tells of a job that it could not bring to an end.

    "The actor died because its node has died. Node Id: ..." is below what names the actor.
    """
    lines = [line for line in message.splitlines() if " because " in line]
    if lines:
        return lines[-1].partition(" because ")[2].partition(" Node Id:")[0].rstrip(".")[:300]
    return first_line(Exception(message)) if message else ""


def _note(job: JobDetails, text: str) -> None:
    """Add a line to a job's log, unless it is the last one."""
    folder = (job.metadata or {}).get("folder", "")
    line = f"Ray: {text}\n".encode()
    with contextlib.suppress(OSError), open(Path(folder, "log"), "r+b") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(0, end - NOTE_BYTES))
        if not log.read().endswith(line):
            log.write(line)


def _asked(needs: Needs) -> str:
    """Return what a job asks for, in words."""
    amounts = [
        _count(needs.gpus, "GPU") if needs.gpus else "",
        _count(cores_of(needs), "core"),
        size(needs.memory) if needs.memory else "",
    ]
    text = ", ".join(filter(None, amounts))
    return f"{text} on each of {needs.nodes} nodes" if needs.nodes > 1 else text


def _offered(nodes: Sequence[Node], fitting: int) -> str:
    """Return what the cluster has, in words."""
    if not nodes:
        return "the cluster has no node"
    if fitting:
        return f"{fitting} of the cluster's {_count(len(nodes), 'node')} can hold that"
    best = max(nodes)
    return (
        f"the largest of the cluster's {_count(len(nodes), 'node')} has "
        f"{_count(best.gpus, 'GPU')}, {_count(best.cores, 'core')} and {size(best.memory)}"
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
