"""A launcher for services whose nodes share no folder with the agent.

A process (executors/launchers/mirror_process.py) brings a job's action and blobs to a URL, and
keeps the job's folder as the node has it. What the service starts is the far end
(ml/transfer/exchange/node.py).

    ROOT/jobs/KEY/service.json    the job's name at the service, and whether it was submitted
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, json

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import BuildError, StepError
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.values.strict_json import decode
from olivebuild.executors.launchers.mirror_process import MirrorProcess
from olivebuild.executors.site.folder import JobFolder
from olivebuild.executors.site.job import AGAIN, STOPPED
from olivebuild.executors.site.portable import PortableOutcome

NODE = "olivebuild.ml.transfer.exchange.node"
SECRET = "OLIVEBUILD_EXCHANGE_SECRET"  # noqa: S105 - the name of a variable
RECORD = "service.json"


class Service(Protocol):
    """Starts commands on machines of its own. Called by one thread at a time."""

    def refusal(self, needs: Needs) -> str:
        """Return why it can never run a command of these needs; "" where it can."""

    def submit(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        needs: Needs,
    ) -> None:
        """Start `python -m WORDS` with these variables, or queue it, under this name.

        The name is new. `folder` is the job's, on this side. Raises BuildError.
        """

    def state(self, name: str) -> JobState:
        """GONE for a name that it does not know. Raises BuildError where it can't be asked."""

    def ending(self, name: str) -> str:
        """Return a line of what it says of a job that waits or has ended; "" for nothing."""

    def cancel(self, name: str) -> None:
        """End a job."""


class Record(Struct, frozen=True, kw_only=True):
    """A job at the service. One that is not `sent` may be there all the same."""

    name: str
    sent: bool = False


class MirroredLauncher:
    """A launcher that brings jobs to a service, and what comes of them back, through a URL."""

    def __init__(self, service: Service, url: str | Callable[[], str], root: Path) -> None:
        """`url`: of the exchange, or what finds it out when it is needed first."""
        self._service = service
        self._url, self._root = url, root
        self._mirror: MirrorProcess | None = None
        self._asking = threading.RLock()
        """Held while the service or the exchange is asked."""
        self._submissions: dict[str, Submission] = {}

    def refusal(self, needs: Needs) -> str:
        with self._asking:
            return self._service.refusal(needs)

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Begin to bring a job there: gigabytes may be on their way for hours. Returns its key.

        Raises BuildError where the exchange can't be opened.
        """
        del name, command
        self._process()
        (folder / RECORD).unlink(missing_ok=True)
        self._begin(JobFolder(self._root, folder.name), needs)
        return folder.name

    def state(self, ident: str) -> JobState:
        """Raises BuildError where neither the service nor the exchange can be asked."""
        folder = JobFolder(self._root, ident)
        if (folder.path / "outcome.json").is_file():
            return JobState.ENDED
        submission = self._submissions.get(ident)
        if submission and submission.is_alive():
            return JobState.QUEUED
        if submission and submission.error:
            return self._failed(folder, submission.error)
        with self._asking:
            record = _record(folder)
            if record is None or not (record.sent or self._is_there(record)):
                # The agent that was about to submit it has ended.
                self._begin(folder, folder.read_action().needs)
                return JobState.QUEUED
            process = self._process()
            process.follow(ident)
            state = self._service.state(record.name)
            if state in (JobState.QUEUED, JobState.RUNNING):
                return state
            return self._end(folder, record, state, process.ask("settle", ident))

    def ending(self, ident: str) -> str:
        folder = JobFolder(self._root, ident)
        record, submission = _record(folder), self._submissions.get(ident)
        if submission and submission.is_alive():
            return "its inputs are on their way"
        with self._asking:
            said = self._service.ending(record.name) if record else ""
        fault = self._mirror.faults.get(ident, "") if self._mirror else ""
        return "; ".join(text for text in (said, fault and f"the exchange: {fault}") if text)

    def cancel(self, ident: str) -> None:
        if submission := self._submissions.pop(ident, None):
            submission.is_cancelled = True
        with self._asking:
            if record := _record(JobFolder(self._root, ident)):
                self._service.cancel(record.name)

    def _begin(self, folder: JobFolder, needs: Needs) -> None:
        submission = self._submissions[folder.key] = Submission(self._send, folder, needs)
        submission.start()

    def _send(self, submission: Submission) -> None:
        """Bring a job to the exchange, and submit it. Called by a thread of its own."""
        folder = submission.folder
        answer = self._process().ask("submit", folder.key)
        attempt = answer["attempt"]
        if not attempt:
            # The outcome of the attempt before it has come after all.
            return
        name = f"olivebuild-{folder.key[:12]}-{attempt}"
        words = (NODE, self._place(), folder.key, attempt)
        secret = {SECRET: answer["secret"]}
        with self._asking:
            if submission.is_cancelled:
                return
            _keep(folder, Record(name=name))
            self._service.submit(name, words, secret, folder.path, submission.needs)
            _keep(folder, Record(name=name, sent=True))

    def _is_there(self, record: Record) -> bool:
        return self._service.state(record.name) is not JobState.GONE

    def _end(
        self, folder: JobFolder, record: Record, state: JobState, answer: Mapping[str, Any]
    ) -> JobState:
        """Return what an end at the service means.

        A command that never began, or that failed by itself, would do so again: that is the job's
        outcome.
        """
        code = answer["code"]
        if answer["outcome"]:
            return JobState.ENDED
        if answer["refused"] or code == AGAIN or state in (JobState.LOST, JobState.GONE):
            return JobState.LOST
        if code == STOPPED:
            folder.mark("stopped")
            return JobState.ENDED
        if answer["said"] and (code is None or code < 0):
            return JobState.LOST
        what = f"ended with exit code {code}" if answer["said"] else "did not begin"
        ending = self._service.ending(record.name)
        error = StepError(
            f"its command {what}: {ending}",
            hint="is the environment right, and may its identity read and write "
            f"{self._place()}? Its log says more",
        )
        return self._failed(folder, error)

    def _failed(self, folder: JobFolder, error: BuildError) -> JobState:
        folder.write_outcome(PortableOutcome(key=folder.key, error=error.to_json()))
        return JobState.ENDED

    def _process(self) -> MirrorProcess:
        """Raises BuildError."""
        with self._asking:
            if self._mirror is None or self._mirror.has_ended:
                self._mirror = MirrorProcess(self._place(), self._root)
            return self._mirror

    def _place(self) -> str:
        if callable(self._url):
            self._url = self._url()
        return self._url


class Submission(threading.Thread):
    """A thread that brings one job to the service."""

    def __init__(self, send: Callable[[Submission], None], folder: JobFolder, needs: Needs) -> None:
        super().__init__(daemon=True)
        self.folder, self.needs = folder, needs
        self.error: BuildError | None = None
        self.is_cancelled = False
        self._send = send

    def run(self) -> None:
        try:
            self._send(self)
        except BuildError as e:
            self.error = e
        except Exception as e:  # noqa: BLE001
            # A thread has nobody to raise to.
            self.error = StepError(
                f"it could not be submitted: {type(e).__name__}: {e}"[:300], hint="build again"
            )


def _record(folder: JobFolder) -> Record | None:
    with suppress(OSError, ValueError):
        return decode((folder.path / RECORD).read_bytes(), Record)
    return None


def _keep(folder: JobFolder, record: Record) -> None:
    write_atomically(folder.path / RECORD, json.encode(record), 0o600)
