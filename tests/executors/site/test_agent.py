"""The agent's answers, without a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs, to_builtins

from olivebuild.api.site import JobState, Needs
from olivebuild.core import hashing
from olivebuild.core.errors import InputError, StepError
from olivebuild.executors.site import agent as module
from olivebuild.executors.site.agent import Agent, open_launcher
from olivebuild.executors.site.folder import TIME_IS_UP, JobFolder, Mark
from olivebuild.executors.site.frames import Frame
from olivebuild.executors.site.portable import PortableOutcome
from tests.executors.site.test_portable import action


class Launcher:
    """A launcher that says what a test tells it to."""

    def __init__(self) -> None:
        self.now: JobState | None = JobState.RUNNING
        self.submitted: list[Sequence[str]] = []
        self.refused = ""

    def refusal(self, needs: Needs) -> str:
        return self.refused

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        assert folder.name == name
        self.submitted.append(command)
        return str(len(self.submitted))

    def state(self, ident: str) -> JobState:
        if self.now is None:
            raise StepError("the scheduler is away", hint="wait")
        return self.now

    def ending(self, ident: str) -> str:
        return "told by the scheduler"

    def cancel(self, ident: str) -> None:
        self.now = JobState.ENDED


class Place:
    def __init__(self, root: Path) -> None:
        self.launcher = Launcher()
        self.agent = Agent(root, "stand-in", self.launcher, "/usr/bin/python")
        self.action = action(folder=(), files={}, inputs={})
        self.folder = JobFolder(root, self.action.key)

    def ask(self, op: str, **data: Any) -> dict[str, Any]:
        answer = self.agent.answer(Frame({"id": 1, "op": op, **data}))
        assert answer.data["id"] == 1
        return answer.data

    def submit(self, **data: Any) -> dict[str, Any]:
        return self.ask("submit", action=to_builtins(self.action), **data)

    def news(self) -> dict[str, Any]:
        news: dict[str, Any] = self.ask("follow", jobs={self.action.key: [0, 0]}, seconds=0)
        return dict(news["jobs"][self.action.key])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(module, "STATE_SECONDS", -1.0)
    # No network file system is late here.
    monkeypatch.setattr(Agent._state, "__defaults__", (0.0, module.SILENT_SECONDS))
    return Place(tmp_path)


def test_a_job_is_started_once(place: Place) -> None:
    assert place.submit()["began"] == "first"
    assert place.submit()["began"] == "picked up"
    assert len(place.launcher.submitted) == 1
    program, *words = place.launcher.submitted[0]
    assert program == "/usr/bin/python"
    assert words[-2:] == [place.action.key, place.folder.attempt]


def test_what_is_lost_is_started_again_at_once(place: Place) -> None:
    place.submit()
    place.launcher.now = JobState.LOST
    assert place.news()["state"] == "lost"
    place.launcher.refused = "smaller than it was"
    first = place.folder.attempt
    assert place.submit(again=True)["began"] == "again"
    assert place.folder.attempt != first
    assert place.submit(again=False)["error"]["fact"] == "smaller than it was"


@pytest.mark.parametrize(
    ("said", "mark", "state"),
    [
        (JobState.ENDED, None, "ended"),
        (JobState.ENDED, "again", "lost"),
        (JobState.LOST, None, "lost"),
        # The scheduler took its node, and told what was left of the job to end.
        (JobState.LOST, "stopped", "lost"),
        (JobState.GONE, None, "lost"),
        (JobState.GONE, "again", "lost"),
        (JobState.GONE, "stopped", "ended"),
    ],
)
def test_what_has_become_of_a_job(
    place: Place, said: JobState, mark: Mark | None, state: str
) -> None:
    place.submit()
    if mark:
        place.folder.mark(mark)
    place.launcher.now = said
    news = place.news()
    assert (news["state"], news["stopped"]) == (state, mark == "stopped")
    assert news["ending"] == "told by the scheduler"


@pytest.mark.parametrize("said", [JobState.ENDED, JobState.LOST, JobState.GONE])
def test_a_job_whose_time_is_up_says_so_and_is_not_started_again(
    place: Place, said: JobState
) -> None:
    place.submit()
    (place.folder.path / TIME_IS_UP).write_text("90")
    place.launcher.now = said
    news = place.news()
    assert (news["state"], news["ending"]) == ("ended", "its `time:` of 1 min 30 s is up")
    # A new build tries anew.
    assert place.submit(again=True)["began"] == "again"
    place.launcher.now = JobState.QUEUED
    assert place.news()["ending"] == "told by the scheduler"


def test_a_scheduler_that_is_away_ends_no_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.submit()
    place.news()
    place.launcher.now = None
    assert place.news()["state"] == "running"
    place.launcher.now = JobState.QUEUED
    assert place.news()["state"] == "queued"
    place.launcher.now = None
    assert place.news()["ending"] == "the scheduler is away"
    monkeypatch.setattr(Agent._state, "__defaults__", (0.0, 0.0))
    assert place.news()["error"]["fact"] == "the scheduler is away"


def test_an_outcome_counts_whatever_the_scheduler_says(place: Place) -> None:
    place.submit()
    place.folder.write_outcome(PortableOutcome(key=place.action.key, manifest="1" * 32))
    place.launcher.now = JobState.LOST
    assert place.news()["outcome"] is True
    assert place.submit()["began"] == "picked up"
    assert place.ask("outcome", key=place.action.key)["outcome"]["manifest"] == "1" * 32
    place.ask("done", key=place.action.key)
    assert not place.folder.path.exists()


def test_a_result_that_was_swept_is_made_again(place: Place) -> None:
    place.submit()
    gone = {"digest": hashing.of_bytes("x"), "size": 1, "sha256": "0" * 64}
    outcome = PortableOutcome.from_json(
        hashing.canonical_json({"key": place.action.key, "manifest": "1" * 32, "blobs": [gone]})
    )
    place.folder.write_outcome(outcome)
    assert place.submit()["began"] == "again"
    assert place.folder.read_outcome() is None


def test_a_failure_that_nobody_heard_is_told(place: Place) -> None:
    place.submit()
    error = StepError("too little memory", hint="").to_json()
    place.folder.write_outcome(PortableOutcome(key=place.action.key, error=error))
    answer = place.submit()
    assert (answer["began"], answer["failed"]) == ("again", "too little memory")


def test_events_come_as_whole_lines(place: Place) -> None:
    place.submit()
    place.folder.events.write_bytes(b'{"event": "note"}\n{"event": "pro')
    place.folder.log.write_bytes(b"printed")
    answer = place.agent.answer(
        Frame({"id": 1, "op": "follow", "jobs": {place.action.key: [0, 3]}, "seconds": 0})
    )
    assert answer.blob == b'{"event": "note"}\nnted'
    assert answer.data["jobs"][place.action.key] == {"state": "running", "events": 18, "log": 4}


def test_a_job_is_cancelled_once(place: Place) -> None:
    place.submit()
    place.ask("cancel", key=place.action.key)
    assert place.launcher.now is JobState.ENDED
    place.folder.write_outcome(PortableOutcome(key=place.action.key))
    place.launcher.now = None
    assert "error" not in place.ask("cancel", key=place.action.key)


def test_an_action_that_is_none_is_refused(place: Place) -> None:
    bad = to_builtins(structs.replace(place.action, files={"f": ["../x"]}))
    assert "does not travel" in place.ask("submit", action=bad)["error"]["fact"]
    assert place.launcher.submitted == []


def test_launchers_are_named(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no launcher 'os'"):
        open_launcher("os", {}, tmp_path)
    with pytest.raises(StepError, match="has no option x"):
        open_launcher("process", {"x": "1"}, tmp_path)


KEY = "0" * 31 + "1"


class Restarted:
    """A launcher whose head is away for as long as `away` is true, and then knows no job."""

    def __init__(self) -> None:
        self.away = False
        self.failures = 0
        """How often it can't take a job."""

    def refusal(self, needs: Needs) -> str:
        return "the cluster has no node"

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        if self.failures:
            self.failures -= 1
            raise InputError("the head does not answer yet", hint="is it running?")
        return "job-2"

    def state(self, ident: str) -> JobState:
        if self.away:
            raise InputError("the head does not answer", hint="is it running?")
        return JobState.LOST if ident == "job-1" else JobState.QUEUED

    def ending(self, ident: str) -> str:
        return self.state(ident).value

    def cancel(self, ident: str) -> None: ...


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def launcher() -> Restarted:
    return Restarted()


@pytest.fixture
def agent(tmp_path: Path, launcher: Restarted) -> Agent:
    folder = JobFolder(tmp_path, KEY)
    folder.make()
    folder.ident = "job-1"
    return Agent(tmp_path, "ray", launcher, "python")


def follow(agent: Agent) -> Any:
    """Return what the agent says of the job, or its error."""
    data = agent.answer(Frame({"op": "follow", "id": 1, "jobs": {KEY: [0, 0]}})).data
    news = data["jobs"][KEY]
    return news.get("error") or news


def test_a_head_that_is_away_ends_no_job(agent: Agent, launcher: Restarted, clock: Clock) -> None:
    launcher.away = True
    assert follow(agent)["state"] == "running"
    clock.sleep(module.SILENT_SECONDS / 2)
    assert follow(agent)["state"] == "running"

    launcher.away = False
    clock.sleep(1)
    assert follow(agent)["state"] == "running", "an outcome may still come to be seen"
    clock.sleep(module.LATE_SECONDS)
    assert follow(agent)["state"] == "lost"


def test_a_head_that_stays_away_is_an_error(
    agent: Agent, launcher: Restarted, clock: Clock
) -> None:
    launcher.away = True
    assert follow(agent)["state"] == "running"
    clock.sleep(module.SILENT_SECONDS)
    assert follow(agent)["fact"] == "the head does not answer"


def test_a_lost_job_waits_where_a_first_one_is_refused(
    agent: Agent, launcher: Restarted, clock: Clock, tmp_path: Path
) -> None:
    portable = action(folder=(), files={}, inputs={}, key=KEY)
    data = {"op": "submit", "id": 1, "action": to_builtins(portable)}
    assert agent.answer(Frame(data)).data["error"]["fact"] == "the cluster has no node"

    launcher.failures = 2
    assert agent.answer(Frame({**data, "again": True})).data["state"] == "queued"
    assert JobFolder(tmp_path, KEY).ident == "job-2"
