"""The agent of a site: `python -m olivebuild.executors.site.agent --root ROOT --launcher NAME`.

It answers frames on stdin with frames on stdout, until stdin closes. It remembers nothing that
matters: jobs go on without it, and another agent finds them in the site's folder.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from msgspec import to_builtins

from olivebuild.api.site import JobState, Launcher, Needs
from olivebuild.cache.manifest import Digest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError, StepError, StoreError, first_line
from olivebuild.core.processes import python
from olivebuild.core.values.typed import convert
from olivebuild.executors.site import about, frames
from olivebuild.executors.site.folder import PRIVATE, JobFolder, new_bytes, site_root
from olivebuild.executors.site.frames import Frame
from olivebuild.executors.site.incoming import Incoming
from olivebuild.executors.site.portable import PortableAction, PortableOutcome

JOB = "olivebuild.executors.site.job"
"""The module that Python runs as a job."""
LAUNCHERS = "olivebuild.executors.launchers"
NAMES = ("process", "slurm", "ray", "docker", "azureml")
STATE_SECONDS = 0.5
"""How long what a launcher says of a job holds."""
LATE_SECONDS = 3.0
"""How long after its job has ended an outcome may take to be seen on a network file system."""
SILENT_SECONDS = 300.0
"""How long a launcher that can't be asked, as while its head is started anew, ends no job."""
SUBMIT_SECONDS = 60.0
"""How long it is tried to start a job again."""
MOST_NEWS = 256 << 10
"""Bytes of events, and of log, of a job in one answer."""


class Seen(NamedTuple):
    """What a launcher said of a job, and when, by the monotonic clock.

    `ended_since`: since when it has ended; `silent_since`: since when the launcher can't say, and
    `why`.
    """

    state: JobState
    at: float
    ended_since: float | None = None
    silent_since: float | None = None
    why: str = ""


class Agent:
    """Answers requests about the site in `root`."""

    def __init__(self, root: Path, name: str, launcher: Launcher, program: str) -> None:
        self._root = root
        self._name = name
        self._launcher = launcher
        self._program = program
        self._store = Store(root, PRIVATE)
        self._incoming = Incoming(self._store)
        self._seen: dict[str, Seen] = {}
        self._ops = {
            "hello": self._hello,
            "refusal": self._refusal,
            "missing": self._missing,
            "put": self._put,
            "submit": self._submit,
            "follow": self._follow,
            "outcome": self._outcome,
            "get": self._get,
            "cancel": self._cancel,
            "done": self._done,
        }

    def answer(self, request: Frame) -> Frame:
        """Return the answer to a request; what is wrong with it is an answer, too."""
        ident = request.data.get("id")
        try:
            op = self._ops[str(request.data.get("op"))]
            answer = op(request)
        except BuildError as e:
            return Frame({"id": ident, "error": e.to_json()})
        except (OSError, ValueError, KeyError, TypeError) as e:
            error = StepError(
                f"the agent could not {request.data.get('op')}: {first_line(e)}",
                hint="is there room on its disk, and may it write there?",
            )
            return Frame({"id": ident, "error": error.to_json()})
        return Frame({"id": ident, **answer.data}, answer.blob)

    def _hello(self, request: Frame) -> Frame:
        libraries = [str(name) for name in request.data.get("libraries", ())]
        return Frame(
            {
                "about": self._about(libraries),
                "root": str(self._root),
                "launcher": self._name,
                "agent": os.getpid(),
            }
        )

    def _about(self, libraries: list[str]) -> dict[str, Any]:
        """Return what the Python is that jobs run in."""
        if self._program == python()[0]:
            return about.to_json(about.here(libraries))
        command = [self._program, "-P", "-m", about.__name__, *libraries]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return dict(json.loads(done.stdout))
        except (OSError, ValueError, subprocess.CalledProcessError) as e:
            stderr = getattr(e, "stderr", "") or str(e)
            last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
            raise StepError(
                f"{self._program} has no olivebuild: {last[:300]}",
                hint="install the wheel of this version there",
            ) from None

    def _refusal(self, request: Frame) -> Frame:
        return Frame({"refusal": self._launcher.refusal(convert(request.data["needs"], Needs))})

    def _missing(self, request: Frame) -> Frame:
        """Tell which blobs are not there, and how much of each has arrived."""
        wanted = convert(request.data["blobs"], list[tuple[Digest, int]])
        return Frame(
            {
                "missing": [
                    [digest, self._incoming.arrived(digest, size)]
                    for digest, size in wanted
                    if not self._incoming.has(digest, size)
                ]
            }
        )

    def _put(self, request: Frame) -> Frame:
        blob = convert(request.data["blob"], RemoteBlob)
        have = self._incoming.put(blob, int(request.data["offset"]), request.blob)
        return Frame({"have": have})

    def _submit(self, request: Frame) -> Frame:
        """Start a job, or pick up what has become of it.

        `again`: whether one that has ended without an outcome, or with an error, is started anew.
        """
        action = PortableAction.from_json(json.dumps(request.data["action"]))
        folder = JobFolder(self._root, action.key)
        folder.make()
        with self._alone(folder):
            state = self._state(folder, late=0.0, silent=0.0) if folder.ident else None
            outcome = folder.read_outcome()
            if outcome and self._is_whole(outcome):
                return Frame({"state": "ended", "began": "picked up"})
            if state in (JobState.QUEUED, JobState.RUNNING) and not outcome:
                return Frame({"state": state.value, "began": "picked up"})
            again = bool(request.data.get("again"))
            # A cluster that has just lost a node is smaller than it was: the job waits there.
            if not again and (why := self._launcher.refusal(action.needs)):
                raise StepError(why, hint="see `resources:` of the target")
            before = folder.attempt
            if again:
                folder.begin()
            else:
                folder.clear()
            self._seen.pop(action.key, None)
            folder.write_action(action)
            folder.attempt = uuid.uuid4().hex
            folder.ident = self._launch(folder, action.needs, SUBMIT_SECONDS if again else 0.0)
        failed = outcome.error["fact"] if outcome and outcome.error else ""
        return Frame(
            {
                "state": JobState.QUEUED.value,
                "began": "again" if before else "first",
                "failed": str(failed)[:300],
            }
        )

    def _launch(self, folder: JobFolder, needs: Needs, patience: float) -> str:
        """Start the job, and return the launcher's name of it. Raises BuildError."""
        command = [self._program, "-P", "-m", JOB, str(self._root), folder.key, folder.attempt]
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._launcher.submit(folder.key, command, folder.path, needs)
            except BuildError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(1)

    def _is_whole(self, outcome: PortableOutcome) -> bool:
        """Return whether there is a result, and nothing of it was swept since."""
        ended_well = not (outcome.error or outcome.lost)
        return ended_well and all(self._incoming.has(b.digest, b.size) for b in outcome.blobs)

    def _alone(self, folder: JobFolder) -> Any:
        deadline = time.monotonic() + 60
        while (lock := folder.lock("agent")) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    "another agent has been starting the same job for 60 s",
                    where=str(folder.path),
                    hint="has it been stopped? end it",
                )
            time.sleep(0.05)
        return lock

    def _follow(self, request: Frame) -> Frame:
        """Return what is new of jobs, after at most `seconds` without any news."""
        jobs = {
            key: (JobFolder(self._root, key), [int(number) for number in offsets])
            for key, offsets in request.data["jobs"].items()
        }
        deadline = time.monotonic() + min(10.0, float(request.data.get("seconds", 0)))
        while True:
            news: dict[str, dict[str, object]] = {}
            blob = b""
            has_news = False
            for key, (folder, (of_events, of_log, *_)) in jobs.items():
                try:
                    state = self._state(folder)
                except BuildError as e:
                    news[key] = {"events": 0, "log": 0, "error": e.to_json()}
                    has_news = True
                    continue
                # In this order: what an outcome follows is there when it is seen.
                events = _lines(new_bytes(folder.events, of_events, MOST_NEWS))
                log = new_bytes(folder.log, of_log, MOST_NEWS)
                if len(blob) + len(events) + len(log) > frames.PIECE:
                    break
                news[key] = {"state": state.value, "events": len(events), "log": len(log)}
                if state in (JobState.QUEUED, JobState.ENDED, JobState.LOST):
                    news[key] |= {
                        "stopped": folder.is_stopped,
                        "outcome": folder.read_outcome() is not None,
                        "ending": self._ending(folder),
                    }
                blob += events + log
                has_news |= bool(events or log) or state in (JobState.ENDED, JobState.LOST)
            if has_news or time.monotonic() >= deadline:
                return Frame({"jobs": news}, blob)
            time.sleep(0.05)

    def _state(
        self, folder: JobFolder, late: float = LATE_SECONDS, silent: float = SILENT_SECONDS
    ) -> JobState:
        """Return the state of a job: ended once its outcome is there, or will not come.

        Raises BuildError where the launcher could not be asked for `silent` seconds.
        """
        if (folder.path / "outcome.json").exists():
            return JobState.ENDED
        now = time.monotonic()
        seen = self._seen.get(folder.key)
        if seen is None or now - seen.at > STATE_SECONDS:
            seen = self._seen[folder.key] = self._look(folder, seen, now, silent)
        if seen.ended_since is None:
            return seen.state
        folder.refresh()
        if (folder.path / "outcome.json").exists():
            return JobState.ENDED
        return seen.state if now - seen.ended_since >= late else JobState.RUNNING

    def _look(self, folder: JobFolder, seen: Seen | None, now: float, silent: float) -> Seen:
        """Ask the launcher. Raises BuildError where it has not known for `silent` seconds."""
        ident = folder.ident
        try:
            state = self._launcher.state(ident) if ident else JobState.GONE
        except BuildError as e:
            # A scheduler that is started anew is away for a while, and jobs go on.
            since = seen.silent_since if seen and seen.silent_since else now
            if now - since >= silent:
                raise
            before = seen.state if seen and seen.ended_since is None else JobState.RUNNING
            return Seen(before, now, silent_since=since, why=e.fact)
        if state is JobState.ENDED and folder.is_to_begin_again:
            state = JobState.LOST
        if state is JobState.GONE:
            # Whoever stopped it did so past the launcher. A job that is LOST got SIGTERM, and says
            # that it was stopped, where its scheduler cleared what was left of it.
            state = JobState.ENDED if folder.is_stopped else JobState.LOST
        if state is JobState.LOST and folder.time_is_up:
            state = JobState.ENDED
        if state not in (JobState.ENDED, JobState.LOST):
            return Seen(state, now)
        return Seen(state, now, seen.ended_since if seen and seen.ended_since else now)

    def _ending(self, folder: JobFolder) -> str:
        """Return what is to be told of a job that waits or has ended."""
        seen = self._seen.get(folder.key)
        if seen and seen.why:
            return seen.why[:300]
        if folder.time_is_up:
            return folder.time_is_up
        try:
            return self._launcher.ending(folder.ident)[:300] if folder.ident else ""
        except BuildError as e:
            return e.fact[:300]

    def _outcome(self, request: Frame) -> Frame:
        folder = JobFolder(self._root, str(request.data["key"]))
        outcome = folder.read_outcome()
        return Frame({"outcome": to_builtins(outcome) if outcome else None})

    def _get(self, request: Frame) -> Frame:
        blob = convert(request.data["blob"], RemoteBlob)
        most = max(1, min(int(request.data["most"]), frames.PIECE))
        data = new_bytes(self._store.path(blob.digest), int(request.data["offset"]), most)
        return Frame({}, data)

    def _cancel(self, request: Frame) -> Frame:
        folder = JobFolder(self._root, str(request.data["key"]))
        if folder.ident and not folder.read_outcome():
            self._launcher.cancel(folder.ident)
        self._seen.pop(folder.key, None)
        return Frame({})

    def _done(self, request: Frame) -> Frame:
        """Forget a job whose outcome was taken in."""
        folder = JobFolder(self._root, str(request.data["key"]))
        with self._alone(folder):
            if folder.read_outcome():
                folder.delete()
        self._seen.pop(folder.key, None)
        return Frame({})


def _lines(data: bytes) -> bytes:
    """Return the whole lines."""
    return data[: data.rfind(b"\n") + 1]


def open_launcher(name: str, options: dict[str, str], root: Path) -> Launcher:
    """Raises BuildError."""
    if name not in NAMES:
        raise StepError(f"there is no launcher {name!r}", hint=f"one of {', '.join(NAMES)}")
    launcher: Launcher = importlib.import_module(f"{LAUNCHERS}.{name}").open_launcher(options, root)
    return launcher


def serve(agent: Agent, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end, and say meanwhile that it is at work."""
    with frames.Pulse(answers) as pulse:
        while request := frames.read(requests):
            with pulse.beating():
                answer = agent.answer(request)
            frames.write(answers, answer.data, answer.blob)


def main(words: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="olivebuild.executors.site.agent")
    parser.add_argument("--root", default="")
    parser.add_argument("--launcher", default="process")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--python", default="")
    arguments = parser.parse_args(words)
    # What a library prints is no frame.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(frames.MAGIC)
    answers.flush()
    try:
        root = site_root(arguments.root)
        options = dict(option.partition("=")[::2] for option in arguments.option)
        launcher = open_launcher(arguments.launcher, options, root)
        program = arguments.python or python()[0]
        agent = Agent(root, arguments.launcher, launcher, program)
    except BuildError as e:
        frames.write(answers, {"id": None, "error": e.to_json()})
        return 1
    frames.write(answers, {"id": None, "ready": True})
    try:
        serve(agent, sys.stdin.buffer, answers)
    except (OSError, ValueError):
        # The other end is gone: what runs goes on.
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
