"""gc --remote, by the command line: a folder as remote cache."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tests.engine.remote.test_cache import Team, notes, team

__all__ = ["team"]


def make_older(team: Team, days: float) -> None:
    then = time.time() - days * 86400
    for path in team.remote.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_what_no_machine_has_used_for_long_goes(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    make_older(team, 40)
    # Of what another machine looks for, the results stay.
    other.build("middle")
    done = one.run("gc", "--remote", "--json")
    report = json.loads(done.out)
    assert [result["target"] for result in report["results"]] == ["last"]
    assert (report["deleted"], report["kept"]) == (False, 2)
    assert 0 < report["freed"] < report["size"]
    files = [p for p in team.remote.rglob("*") if p.is_file()]
    done = one.run("gc", "--remote")
    lines = done.out.splitlines()
    assert "last" in lines[0]
    assert "40 days ago" in lines[0]
    assert lines[-2].endswith("would go; 2 results stay")
    assert lines[-1] == "`olivebuild gc --remote --delete` deletes it"
    assert [p for p in team.remote.rglob("*") if p.is_file()] == files
    assert "deleted; 2 results stay" in one.run("gc", "--remote", "--delete").out
    third = team.machine("third").build()
    assert third.end["ran"] == ["last"]
    assert notes(third) == []


def test_it_says_where_it_can_not(team: Team, tmp_path: Path) -> None:
    place = team.machine("one")
    done = place.run("gc", "--remote")
    assert (done.code, done.out) == (0, "0 B of 0 B would go; 0 results stay\n")
    place.environment["OLIVEBUILD_REMOTE"] = "http://127.0.0.1:9/"
    done = place.run("gc", "--remote", "--delete")
    assert done.code == 1
    assert "read from only" in done.err
    del place.environment["OLIVEBUILD_REMOTE"]
    done = place.run("gc", "--remote")
    assert done.code == 2
    assert "no remote cache is named" in done.err
