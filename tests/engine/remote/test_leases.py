"""Leases between machines that build at once: each key runs once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from olivebuild.engine.remote.leases import Claim, KeyLeases
from olivebuild.engine.remote.process import Transfer
from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS
from olivebuild.ml.transfer.claims.leases import LEASES
from tests.conftest import Place
from tests.engine.remote.test_cache import Team, notes, team

__all__ = ["team"]

COUNTED = """\
import json, sys, time
name, source, to = sys.argv[1:]
# It is no file of the recipe's, so that keys do not differ.
settings = json.load(open("settings.json"))
with open(settings["runs"], "a") as f: f.write(name + "\\n")
time.sleep(settings["seconds"])
assert settings["fail"] != name
open(to, "w").write(open(source).read() + settings["extra"])
"""
RECIPE = """\
default: last
targets:
  first: {kind: command, run: "python make.py first in.txt {outputs.x}", files: [in.txt, make.py],
          outputs: {x: x.txt}}
  second: {kind: command, run: "python make.py second in.txt {outputs.x}", files: [in.txt, make.py],
           outputs: {x: x.txt}}
  last: {kind: command, run: "python make.py last {inputs.first} {outputs.z}", files: [make.py],
         inputs: {first: first.x, second: second.x}, outputs: {z: z.txt}}
"""


class Asked:
    """The process that talks to a remote cache, with answers that are set."""

    def __init__(self, **answers: str) -> None:
        self.fault = ""
        self.answers = answers
        self.asked: list[list[str]] = []

    def ask(self, op: str, keys: Iterable[str]) -> list[Transfer]:
        self.asked.append(list(keys))
        return [Transfer(key=k, lease=self.answers[k]) for k in self.asked[-1] if k in self.answers]


def test_many_keys_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Asked(a="held", b="elsewhere", c="made", d="strange")
    told: list[str] = []
    leases = KeyLeases(cast("Any", process), told.append)
    assert leases.take("abcde") == {
        "a": Claim.HELD,
        "b": Claim.ELSEWHERE,
        "c": Claim.MADE,
        "d": Claim.UNKEPT,
        "e": Claim.UNKEPT,
    }
    assert len(told) == 1
    assert leases.take("ab") == {"a": Claim.HELD, "b": Claim.ELSEWHERE}
    assert process.asked == [list("abcde")]
    assert leases.waits("b")
    # Some seconds later.
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2.0)
    assert not leases.waits("b")
    process.answers["b"] = "held"
    assert leases.take("ab") == {"a": Claim.HELD, "b": Claim.HELD}
    assert process.asked[1:] == [["b"]]


def counting(
    team: Team,
    name: str,
    lease: str = "8",
    *,
    seconds: float = 0.1,
    fail: str = "",
    extra: str = "",
) -> Place:
    place = team.machine(name, OLIVEBUILD_REMOTE_LEASE=lease)
    place.recipe.write_text(RECIPE)
    (place.folder / "make.py").write_text(COUNTED)
    settings = {"runs": str(team.root / "runs"), "seconds": seconds, "fail": fail, "extra": extra}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    return place


def runs(team: Team) -> Counter[str]:
    return Counter((team.root / "runs").read_text().split())


def build_at_once(places: list[Place]) -> list[list[dict[str, Any]]]:
    """Return the events of builds that began at once and ended well."""
    builds = [place.start("build", "--json") for place in places]
    outputs = [build.communicate() for build in builds]
    assert [build.returncode for build in builds] == [0] * len(builds), outputs
    return [[json.loads(line) for line in out.splitlines()] for out, _ in outputs]


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_of_many_machines_each_key_runs_once(team: Team, count: int) -> None:
    places = [counting(team, f"m{number}", seconds=0.5) for number in range(count)]
    events = build_at_once(places)
    assert runs(team) == {"first": 1, "second": 1, "last": 1}
    assert len({json.dumps(p.everything(), default=bytes.hex) for p in places}) == 1
    assert all(done[-1]["event"] == "done" for done in events)
    assert sum(len(done[-1]["ran"]) for done in events) == 3
    # Nothing is left of them.
    assert left(team, LEASES) == left(team, HEARTBEATS) == []


def left(team: Team, folder: str) -> list[Path]:
    return [p for p in (team.remote / folder).rglob("*") if p.is_file()]


def wait_for_run(team: Team, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (team.root / "runs").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_when_a_machine_dies_another_makes_it(team: Team) -> None:
    one, other = counting(team, "one", "3", seconds=600), counting(team, "other", "3")
    process = one.start("build", "--json", "first")
    wait_for_run(team, process)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    death = time.monotonic()
    process.communicate()
    done = other.build("first")
    assert done.end["ran"] == ["first"]
    # It was written last less than a second before.
    assert time.monotonic() - death > 1.5
    assert left(team, LEASES) == []
    # A sweep takes it, a day later.
    assert len(left(team, HEARTBEATS)) == 1


def test_what_was_interrupted_or_has_failed_keeps_nobody_waiting(team: Team) -> None:
    one = counting(team, "one", "600", seconds=600)
    process = one.start("build", "--json", "first")
    wait_for_run(team, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    failing = counting(team, "failing", "600", fail="first")
    assert failing.build("first").code == 1
    done = counting(team, "other", "600").build("first")
    assert done.end["ran"] == ["first"]
    assert not any(event["event"] == "waiting" for event in done.events)


def test_another_result_of_equal_inputs_is_told_once(team: Team) -> None:
    """The remote cache's stays there, and the machine that has another keeps its own."""
    one, other = counting(team, "one"), counting(team, "other", extra="more")
    remote = other.environment.pop("OLIVEBUILD_REMOTE")
    one.environment["OMP_NUM_THREADS"], other.environment["OMP_NUM_THREADS"] = "1", "3"
    assert other.build("first").end["ran"] == one.build("first").end["ran"] == ["first"]
    other.environment["OLIVEBUILD_REMOTE"] = remote
    before = {p: p.read_bytes() for p in team.objects("traces") + team.objects("blobs")}
    done = other.run("remote", "push", "first")
    assert done.code == 0
    assert "of first than this machine (made under other numerics: threads 1, here 3)" in done.err
    assert "another result" not in other.run("remote", "push", "first").err
    assert {p: p.read_bytes() for p in team.objects("traces") + team.objects("blobs")} == before
    assert other.build("first").end["ran"] == []
    assert other.everything() != one.everything()


def test_a_bad_duration_is_said(team: Team) -> None:
    done = counting(team, "one", "long").build("first")
    assert done.end["ran"] == ["first"]
    assert any("no duration of leases" in text for text in notes(done))
