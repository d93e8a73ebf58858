"""A link to an agent that is not always there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, StepError
from olivebuild.executors.site import link as module
from olivebuild.executors.site.connection import LocalConnection
from olivebuild.executors.site.link import PATIENCE, Closed, Link


class Program(LocalConnection):
    """A connection that runs a program of Python in the place of an agent."""

    def __init__(self, text: str) -> None:
        super().__init__("box")
        self.text = text

    def argv(self, agent: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", self.text] if self.text else super().argv(agent)

    def is_cut(self, code: int) -> bool:
        return code == 255


def link_to(text: str, said: list[str], root: Path) -> Link:
    return Link(Program(text), ["--root", str(root)], said.append)


def test_a_site_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0.2")
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    said: list[str] = []
    link = link_to("import sys; sys.exit(255)", said, tmp_path)
    with pytest.raises(StepError, match="box is out of reach"):
        link.call("follow", {"jobs": {}})
    assert len(said) == 1
    assert said[0].startswith("the connection to box is cut")
    # Before anything was begun there is no patience.
    with pytest.raises(StepError, match="its agent did not begin"):
        link.hello([])


def test_a_site_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(StepError, match="did not begin"):
        link_to("import sys; sys.exit('no such host')", said, tmp_path).call("hello", {})
    assert said == []


def test_a_site_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    said: list[str] = []
    connection = Program("import sys; sys.exit(255)")

    def say(text: str) -> None:
        said.append(text)
        # The next attempt reaches the agent.
        connection.text = ""

    link = Link(connection, ["--root", str(tmp_path)], say)
    answer = link.call("hello", {"libraries": ["msgspec"]})
    link.close()
    assert answer.data["root"] == str(tmp_path)
    assert said[-1] == "the connection to box is back"


def test_the_end_of_a_build_waits_for_no_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 60.0)
    said: list[str] = []
    link = link_to("import sys; sys.exit(255)", said, tmp_path)
    threading.Timer(0.3, link.stop).start()
    with pytest.raises(Closed):
        link.call("follow", {"jobs": {}})
    assert not link.last("cancel", {"key": "0" * 32})


def test_what_an_agent_refuses_is_its_error(tmp_path: Path) -> None:
    link = link_to("", [], tmp_path)
    with pytest.raises(BuildError, match=r"could not outcome: '../../etc' is no key"):
        link.call("outcome", {"key": "../../etc"})
    with pytest.raises(BuildError, match="the agent could not fly"):
        link.call("fly", {})
    # It goes on.
    assert link.call("outcome", {"key": "0" * 32}).data["outcome"] is None
    link.close()


def test_another_protocol_is_another_version(tmp_path: Path) -> None:
    text = (
        "import sys, json\n"
        "print('olivebuild-agent 1\\n' + json.dumps({'ready': 1}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    ident = json.loads(line)['id']\n"
        "    print(json.dumps({'id': ident, 'about': {'later': 1}}), flush=True)\n"
    )
    link = link_to(text, [], tmp_path)
    with pytest.raises(StepError, match="another olivebuild"):
        link.hello([])
    link.close()
