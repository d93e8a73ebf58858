"""The agent of a site whose launcher can't be asked for a while."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import InputError
from olivebuild.executors.site import agent as site_agent
from olivebuild.executors.site.agent import Agent
from olivebuild.executors.site.folder import JobFolder
from olivebuild.executors.site.frames import Frame
from olivebuild.executors.site.portable import PROTOCOL, PortableAction

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
    monkeypatch.setattr(site_agent, "time", clock)
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
    return data.get("error") or data["jobs"][KEY]


def test_a_head_that_is_away_ends_no_job(agent: Agent, launcher: Restarted, clock: Clock) -> None:
    launcher.away = True
    assert follow(agent)["state"] == "running"
    clock.sleep(site_agent.SILENT_SECONDS / 2)
    assert follow(agent)["state"] == "running"

    launcher.away = False
    clock.sleep(1)
    assert follow(agent)["state"] == "running", "an outcome may still come to be seen"
    clock.sleep(site_agent.LATE_SECONDS)
    assert follow(agent)["state"] == "lost"


def test_a_head_that_stays_away_is_an_error(
    agent: Agent, launcher: Restarted, clock: Clock
) -> None:
    launcher.away = True
    assert follow(agent)["state"] == "running"
    clock.sleep(site_agent.SILENT_SECONDS)
    assert follow(agent)["fact"] == "the head does not answer"


def test_a_lost_job_waits_where_a_first_one_is_refused(
    agent: Agent, launcher: Restarted, clock: Clock, tmp_path: Path
) -> None:
    action = PortableAction(
        protocol=PROTOCOL,
        code="",
        key=KEY,
        node="n",
        target="t",
        kind="command",
        runner="",
        fields={},
        inputs={},
        files={},
        folder=(),
    )
    data = {"op": "submit", "id": 1, "action": to_builtins(action)}
    assert agent.answer(Frame(data)).data["error"]["fact"] == "the cluster has no node"

    launcher.failures = 2
    assert agent.answer(Frame({**data, "again": True})).data["state"] == "queued"
    assert JobFolder(tmp_path, KEY).ident == "job-2"
