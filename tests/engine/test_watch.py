"""`watch`, as a process of its own: it builds when an input changes, lives through what is broken
for a moment, and ends with Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from tests.conftest import Place

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Ctrl-C can't be sent to one process there")

RECIPE = """\
targets:
  all: {kind: command, run: "python join.py data {outputs.all}", files: ["data/*.txt"],
    outputs: {all: all.txt}}
  copy: {kind: command, run: "cp {inputs.all} {outputs.copy}", inputs: {all: all.all},
    outputs: {copy: copy.txt}}
"""
JOIN = """\
import pathlib, sys
texts = [p.read_text() for p in sorted(pathlib.Path(sys.argv[1]).glob("*.txt"))]
if "fail" in texts:
    sys.exit("as asked")
pathlib.Path(sys.argv[2]).write_text("".join(texts))
"""
SECONDS = 30


class Watched:
    """A running `watch --json`, and what it says."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.process = place.start("watch", "--json", *arguments)
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def until_quiet(self) -> list[dict[str, Any]]:
        """Its events until it waits again."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["event"] != "watching":
            events.append(json.loads(self._lines.get(timeout=SECONDS)))
        return events

    def ran(self) -> list[str]:
        """What ran until it waits again, in all builds that there were: a slow machine may see one
        edit in two halves.
        """
        return [t for e in self.until_quiet() if e["event"] == "done" for t in e["ran"]]

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        """What it wrote on stderr."""
        self.process.send_signal(number)
        assert self.process.wait(SECONDS) == 130
        self._reader.join()
        assert self.process.stderr
        return self.process.stderr.read()


@pytest.fixture
def start(place: Place) -> Iterator[Callable[..., Watched]]:
    place.recipe.write_text(RECIPE)
    (place.folder / "join.py").write_text(JOIN)
    (place.folder / "data").mkdir()
    (place.folder / "data/a.txt").write_text("a")
    running: list[Watched] = []

    def begin(*arguments: str) -> Watched:
        running.append(Watched(place, *arguments))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.communicate()


def test_inputs_are_built_when_they_change(place: Place, start: Callable[..., Watched]) -> None:
    watched = start()
    assert watched.ran() == ["all", "copy"]
    (place.folder / "data/a.txt").write_text("b")
    assert watched.ran() == ["all", "copy"]
    assert place.built("copy", "copy.txt") == b"b"
    (place.folder / "data/b.txt").write_text("c")
    assert watched.ran() == ["all", "copy"]
    (place.folder / "join.py").write_text(JOIN + "# the same\n")
    assert watched.ran() == ["all"]
    (place.folder / "data/a.txt").write_text("a")
    (place.folder / "data/b.txt").unlink()
    events = watched.until_quiet()
    assert events[0]["event"] == "changed"
    assert place.built("copy", "copy.txt") == b"a"
    assert "Traceback" not in watched.end()
    assert place.build().ran == []


def test_what_is_broken_for_a_moment_is_lived_through(
    place: Place, start: Callable[..., Watched]
) -> None:
    watched = start()
    assert watched.ran() == ["all", "copy"]
    for broken in ("targets: [", "targets: {}", ""):
        place.recipe.write_text(broken)
        assert [e["event"] for e in watched.until_quiet()] == ["changed", "error", "watching"]
    place.recipe.write_text(RECIPE)
    assert watched.ran() == []
    (place.folder / "data/a.txt").unlink()
    assert [e["fact"] for e in watched.until_quiet() if e["event"] == "failed"] == [
        "data/*.txt matches no file"
    ]
    (place.folder / "data/a.txt").write_text("fail")
    (done,) = [e for e in watched.until_quiet() if e["event"] == "done"]
    assert done["failed"] == ["all"]
    (place.folder / "data/a.txt").write_text("a")
    watched.until_quiet()
    assert place.built("copy", "copy.txt") == b"a"
    (place.folder / "olivebuild.lock").write_text("{")
    assert watched.until_quiet()[1]["event"] == "error"
    (place.folder / "olivebuild.lock").unlink()
    assert watched.ran() == []
    errors = watched.end(signal.SIGTERM)
    assert "Traceback" not in errors
    assert "error: data/*.txt matches no file" in errors
    assert "error: all: the command ended with 1" in errors


def test_an_edit_during_a_build_is_built_after_it(
    place: Place, start: Callable[..., Watched]
) -> None:
    (place.folder / "join.py").write_text(JOIN + "import time; time.sleep(1)\n")
    watched = start("all")
    while json.loads(watched._lines.get(timeout=SECONDS))["event"] != "started":
        pass
    (place.folder / "data/a.txt").write_text("later")
    while (
        not place.folder.joinpath("build/all/all.txt").exists()
        or place.built("all", "all.txt") != b"later"
    ):
        watched.until_quiet()
    watched.end()


def test_an_interrupt_in_a_step_stops_it(place: Place, start: Callable[..., Watched]) -> None:
    (place.folder / "join.py").write_text("import time; time.sleep(1000)\n")
    watched = start("all")
    while json.loads(watched._lines.get(timeout=SECONDS))["event"] != "started":
        pass
    children = psutil.Process(watched.process.pid).children(recursive=True)
    assert "Traceback" not in watched.end()
    assert not psutil.wait_procs(children, timeout=15)[1]


def test_a_recipe_that_is_wrong_from_the_beginning_is_an_error(
    place: Place, start: Callable[..., Watched]
) -> None:
    for words in (["nothing-of-that-name"], ["-f", "other.yaml"]):
        done = place.run("watch", *words)
        assert done.code == 2, done.err


def test_lines_for_people(place: Place, start: Callable[..., Watched]) -> None:
    process = place.start("watch")
    assert lines_until_quiet(process)[0].startswith("run ")
    (place.folder / "data/a.txt").write_text("b")
    lines = lines_until_quiet(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert "changed  data/a.txt\n" in lines
    assert process.returncode == 130
    assert err.strip() == "interrupted: what was finished is kept"


def lines_until_quiet(process: subprocess.Popen[str]) -> list[str]:
    lines = [""]
    assert process.stdout
    while not lines[-1].startswith("watching"):
        lines.append(process.stdout.readline())
        assert lines[-1], "the watcher has ended"
    return lines[1:]
