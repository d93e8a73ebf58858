"""Targets made elsewhere over ssh: Debian's sshd on loopback, and real steps on a tiny model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import olivebuild
from tests.conftest import RECIPE, Place, rows, write_rows
from tests.support.sshd import Sshd, sshd

pytestmark = pytest.mark.scenario

COMMANDS = """\
targets:
  up: {kind: command, run: "python up.py {outputs.x}", files: [up.py, in.txt], outputs: {x: x.txt}}
  twice:
    kind: command
    run: "cat {inputs.up} {inputs.up} > {outputs.y}"
    shell: true
    inputs: {up: up.x}
    outputs: {y: y.txt}
"""
FIRST = """\
  first: {kind: command, run: "cp in.txt {outputs.f}", files: [in.txt], outputs: {f: f.txt}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd") / "own") as running:
        yield running


@pytest.fixture
def tiny(place: Place, tiny_model: Path) -> Place:
    """A recipe that trains the tiny model for long enough to be cut off."""
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE.replace("steps: 4", "steps: 40"))
    place.environment["OMP_NUM_THREADS"] = "1"
    return place


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


def declare(place: Place, server: Sshd, site: Path, *targets: str) -> None:
    """Have a recipe send some of its targets to the server."""
    text = place.recipe.read_text()
    for target in targets:
        head, _, rest = text.partition(f"\n  {target}:")
        assert rest
        if rest.startswith(" {"):
            rest = rest.replace(" {", " {executor: box, ", 1)
        else:
            rest = "\n    executor: box" + rest
        text = f"{head}\n  {target}:{rest}"
    fields = f"kind: ssh, host: box, ssh_config: {server.config}, root: {site}"
    place.recipe.write_text(f"executors:\n  box: {{{fields}, python: {sys.executable}}}\n{text}")


def notes(events: list[dict[str, object]]) -> list[str]:
    return [str(event["text"]) for event in events if event["event"] == "note"]


def test_a_target_is_made_there_and_its_users_here(place: Place, server: Sshd, site: Path) -> None:
    (place.folder / "in.txt").write_text("one\n")
    program = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(open('in.txt').read().upper())\n"
        "print('at', os.getcwd())\n"
    )
    (place.folder / "up.py").write_text(program)
    place.recipe.write_text(COMMANDS)
    declare(place, server, site, "up")
    done = place.build("twice")
    assert done.ran == ["up", "twice"], done.err
    assert place.built("twice", "y.txt") == b"ONE\nONE\n"
    started = {e["target"]: e.get("executor") for e in done.events if e["event"] == "started"}
    assert started == {"up": "box", "twice": None}
    # It ran in a folder of the site, and left nothing of the job behind.
    assert f"at {site}" in place.run("log", "up").out
    assert [*(site / "jobs").iterdir()] == []
    server.stop()
    # What fails there says so; what is cached needs no machine.
    shutil.rmtree(place.folder / "build")
    assert place.run("build", "twice").code == 0
    (place.folder / "in.txt").write_text("two\n")
    unreached = place.run("build", "twice")
    server.start()
    assert unreached.code == 1
    assert "box (ssh box): it can't be reached" in unreached.err
    (place.folder / "up.py").write_text("print('why'); raise SystemExit(3)\n")
    failed = place.run("build", "twice")
    assert failed.code == 1
    assert "up" in failed.err
    assert "why" in place.run("log", "up").out


@pytest.mark.slow
def test_another_olivebuild_there_is_an_error_before_anything_runs(
    place: Place, server: Sshd, site: Path, tmp_path: Path
) -> None:
    (place.folder / "in.txt").write_text("one\n")
    (place.folder / "up.py").write_text("raise SystemExit('not to be run')\n")
    place.recipe.write_text(COMMANDS + FIRST)
    declare(place, server, site, "up")
    package = Path(olivebuild.__file__).parent
    shutil.copytree(package, tmp_path / "other/olivebuild")
    (tmp_path / "other/olivebuild/more.py").touch()
    place.edit("kind: ssh", f"kind: ssh, variables: {{PYTHONPATH: {tmp_path}/other}}")
    done = place.run("build", "--json", "first", "twice")
    assert done.code == 1
    assert "box (ssh box) has another olivebuild" in done.err
    assert "olivebuild.yaml:" in done.err
    assert not [event for event in done.events if event["event"] == "started"]
    assert place.run("plan", "twice").code == 0
    asked = place.run("plan", "twice", "--connect")
    assert asked.code == 1
    assert "box (ssh box) has another olivebuild" in asked.err
    place.edit(f", variables: {{PYTHONPATH: {tmp_path}/other}}", "")
    assert place.run("plan", "twice", "--connect").code == 0
    place.edit("executor: box, ", "executor: box, resources: {gpu: 99}, ")
    wanting = json.loads(place.run("plan", "twice", "--connect", "--json").out)["problems"]
    assert [(p["target"], "99 GPUs are asked for" in p["fact"]) for p in wanting] == [("up", True)]


@pytest.mark.slow
def test_a_training_survives_cuts_and_its_build(tiny: Place, server: Sshd, site: Path) -> None:
    here = tiny.build("adapter")
    assert here.code == 0, here.err
    expected = tiny.everything()
    declare(tiny, server, site, "adapter")

    # Cut while it trains: the build goes on when the server is back.
    forget(tiny)
    build = tiny.start("build", "--json", "adapter")
    assert build.stdout
    wait_for(build.stdout, "metric")
    assert server.cut() == 1
    rest, errors = build.communicate()
    assert build.returncode == 0, errors
    said = notes([json.loads(line) for line in rest.splitlines()])
    assert [text for text in said if text.startswith("the connection to box (ssh box) is cut")]
    assert "the connection to box (ssh box) is back" in said
    assert tiny.everything() == expected

    # Cut for good, and the build killed: the next one picks the job up.
    forget(tiny)
    shutil.rmtree(site)
    build = tiny.start("build", "--json", "adapter")
    assert build.stdout
    wait_for(build.stdout, "metric")
    build.kill()
    build.communicate()
    server.cut()
    again = tiny.build("adapter")
    assert again.code == 0, again.err
    assert "picked up where it is on box (ssh box)" in notes(again.events)
    steps = [event["step"] for event in again.events if event["event"] == "metric"]
    assert steps == [*range(1, 41)]
    assert tiny.everything() == expected


@pytest.mark.slow
def test_an_environment_is_made_there_by_pip(place: Place, server: Sshd, site: Path) -> None:
    """The package is sent along: on the other side is nothing but a Python."""
    (place.folder / "in.txt").write_text("one\n")
    program = "import sys, olivebuild; open(sys.argv[1], 'w').write(olivebuild.__file__)\n"
    (place.folder / "up.py").write_text(program)
    place.recipe.write_text(COMMANDS)
    declare(place, server, site, "up")
    place.edit("kind: ssh", "kind: ssh, environment: lock")
    first = place.build("up")
    assert first.ran == ["up"], first.err
    assert f"made the environment {site}/environments/" in first.err
    where = place.built("up", "x.txt").decode()
    assert where.startswith(f"{site}/environments/code/")
    (place.folder / "in.txt").write_text("two\n")
    again = place.build("up")
    assert again.ran == ["up"], again.err
    assert "environment" not in again.err


def forget(place: Place) -> None:
    """Forget all that was built."""
    for folder in (place.cache, place.folder / "build", place.folder / ".olivebuild"):
        shutil.rmtree(folder)


def wait_for(lines: Iterator[str], event: str) -> None:
    for line in lines:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"there was no {event}")
