"""Jobs on machines that share no folder: begun, followed, cancelled, lost and begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.cache.remote_records import blob_name
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.core.hashing import of_bytes
from olivebuild.core.processes import python
from olivebuild.executors.launchers.mirrored import MirroredLauncher
from olivebuild.executors.site.folder import JobFolder
from olivebuild.executors.site.portable import PortableAction
from tests.support.exchange_job import action

KEY = "a" * 32
NODE = (
    "import sys; from olivebuild.ml.transfer.exchange import node;"
    "node.JOB = 'tests.support.exchange_job'; sys.argv = sys.argv[1:]; node.main()"
)
"""The far end, whose jobs are those of the tests."""


class Nodes:
    """A service whose nodes are processes of this machine, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.fails = False

    def refusal(self, needs: Needs) -> str:
        return "too many" if needs.gpus > 1 else ""

    def submit(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        needs: Needs,
    ) -> None:
        if self.fails:
            raise InputError("nobody may", hint="ask")
        here = {"OLIVEBUILD_CACHE": str(self.folder / name)}
        self.processes[name] = subprocess.Popen(
            python("-c", NODE, *words), env=os.environ | variables | here
        )

    def state(self, name: str) -> JobState:
        if name not in self.processes:
            return JobState.GONE
        code = self.processes[name].poll()
        if code is None:
            return JobState.RUNNING
        return JobState.LOST if code == -signal.SIGKILL else JobState.ENDED

    def ending(self, name: str) -> str:
        return f"exit code {self.processes[name].poll()}"

    def cancel(self, name: str) -> None:
        self.processes[name].terminate()


class Place:
    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes(folder)
        self.store = Store(folder / "near")
        self.bucket = folder / "bucket"
        self.job = self.store.root / "jobs" / KEY
        self.launcher = MirroredLauncher(self.nodes, self.bucket.as_uri(), self.store.root)

    def submit(self, *words: list[object], inputs: tuple[str, ...] = ()) -> str:
        folder = action(self.store, KEY, *words, inputs=inputs)
        return self.launcher.submit("name", ["ignored"], folder, Needs())

    def wait(self, ident: str) -> JobState:
        for _ in range(6000):
            state = self.launcher.state(ident)
            if state not in (JobState.RUNNING, JobState.QUEUED):
                return state
            time.sleep(0.02)
        raise AssertionError(self.launcher.ending(ident))

    def wait_for(self, file: Path, text: str) -> None:
        for _ in range(6000):
            if file.is_file() and text in file.read_text():
                return
            time.sleep(0.02)
        raise AssertionError(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("OLIVEBUILD_EXCHANGE_SECONDS", "0.05")
    place = Place(tmp_path)
    yield place
    if place.launcher._mirror:
        place.launcher._mirror.close()
    for process in place.nodes.processes.values():
        process.kill()
        process.wait()


def test_a_job_and_what_it_says_meanwhile(place: Place) -> None:
    words: list[list[object]] = [["print", "begins"], ["sleep", 0.5], ["output", "made of "]]
    ident = place.submit(*words, inputs=("one",))
    place.wait_for(place.job / "log", "begins\n")
    assert not (place.job / "outcome.json").exists()
    assert place.wait(ident) is JobState.ENDED
    (blob,) = json.loads((place.job / "outcome.json").read_text())["blobs"]
    assert place.store.read(blob["digest"]) == b"made of one"
    # Another agent, which knows nothing but the id.
    again = MirroredLauncher(place.nodes, place.bucket.as_uri(), place.store.root)
    assert again.state(ident) is JobState.ENDED
    assert again._mirror is None


def test_another_agent_follows_where_the_first_was_cut_off(place: Place) -> None:
    ident = place.submit(["print", "a"], ["sleep", 0.6], ["print", "b"], ["output", ""])
    place.wait_for(place.job / "log", "a\n")
    process = place.launcher._mirror
    assert process
    process._process.kill()
    process._process.wait()
    place.launcher = MirroredLauncher(place.nodes, place.bucket.as_uri(), place.store.root)
    assert place.wait(ident) is JobState.ENDED
    assert (place.job / "log").read_text() == "a\nb\n"


def outcome(place: Place) -> dict[str, Any]:
    return dict(json.loads((place.job / "outcome.json").read_text()))


def test_a_job_that_fails_by_itself_is_not_begun_again(place: Place) -> None:
    ident = place.submit(["print", "last words"], ["die without state", None])
    assert place.wait(ident) is JobState.ENDED
    assert (place.job / "log").read_text() == "last words\n"
    assert "its command ended with exit code 9: exit code 9" in outcome(place)["error"]["fact"]


def test_a_command_that_never_began(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.NODE", "raise SystemExit('no olivebuild here')")
    ident = place.submit(["output", ""])
    assert place.wait(ident) is JobState.ENDED
    assert "its command did not begin: exit code 1" in outcome(place)["error"]["fact"]


def test_a_service_that_refuses_a_job(place: Place) -> None:
    place.nodes.fails = True
    ident = place.submit(["output", ""])
    assert place.wait(ident) is JobState.ENDED
    assert outcome(place)["error"]["fact"] == "nobody may"


def test_an_agent_that_ended_before_it_submitted(place: Place) -> None:
    ident = place.submit(["output", ""])
    while place.launcher.state(ident) is JobState.QUEUED:
        time.sleep(0.01)
    record = json.loads((place.job / "service.json").read_text())
    assert record["sent"]
    # It had submitted, and not noted that.
    (place.job / "service.json").write_text(json.dumps(record | {"sent": False}))
    assert place.wait(ident) is JobState.ENDED
    assert len(place.nodes.processes) == 1


def test_an_agent_that_ended_while_inputs_were_on_their_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = action(place.store, KEY, ["output", ""])
    monkeypatch.setattr(JobFolder, "read_action", lambda _: PortableAction)
    monkeypatch.setattr(PortableAction, "needs", Needs())
    assert place.launcher.state(KEY) is JobState.QUEUED
    assert place.wait(KEY) is JobState.ENDED
    assert outcome(place)["blobs"]
    assert folder == place.job


def test_a_cancelled_job_keeps_its_state_for_the_next(place: Place) -> None:
    ident = place.submit(["print", "runs"], ["sleep", 60])
    place.wait_for(place.job / "log", "runs\n")
    place.launcher.cancel(ident)
    place.launcher.cancel(ident)
    assert place.wait(ident) is JobState.ENDED
    assert (place.job / "stopped").exists()
    assert not (place.job / "outcome.json").exists()
    ident = place.submit(["die without state", None], ["output", ""])
    assert place.wait(ident) is JobState.ENDED
    assert (place.job / "log").read_text() == "runs\ngoes on from stopped\n"


def test_a_lost_node_is_left_for_another_which_goes_on(place: Place) -> None:
    ident = place.submit(["state", "step 5"], ["sleep", 0.3], ["print", "runs"], ["sleep", 60])
    place.wait_for(place.job / "log", "runs\n")
    (process,) = place.nodes.processes.values()
    process.kill()
    assert place.wait(ident) is JobState.LOST
    ident = place.submit(["die without state", None], ["output", ""])
    assert place.wait(ident) is JobState.ENDED
    assert "goes on from step 5" in (place.job / "log").read_text()
    assert len(place.nodes.processes) == 2


def test_a_damaged_blob_is_put_there_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place.bucket / blob_name(of_bytes(b"of mine"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of hers")
    ident = place.submit(["output", ""], inputs=("of mine",))
    assert place.wait(ident) is JobState.LOST
    ident = place.launcher.submit("name", [], place.job, Needs())
    assert place.wait(ident) is JobState.ENDED
    assert (place.job / "outcome.json").exists()


def test_a_place_that_can_not_be_written_to(place: Place) -> None:
    place.launcher = MirroredLauncher(place.nodes, lambda: "https://127.0.0.1:1/", place.store.root)
    with pytest.raises(InputError, match="can only be read"):
        place.submit(["output", ""])
    assert not place.nodes.processes
    assert place.launcher.refusal(Needs(gpus=2)) == "too many"
