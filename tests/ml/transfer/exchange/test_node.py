"""The far end of an exchange: jobs that end, are stopped, are begun again, and what they bring."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from olivebuild.cache.remote_records import blob_name
from olivebuild.cache.store import Store
from olivebuild.core.hashing import of_bytes
from olivebuild.core.processes import python
from olivebuild.ml.transfer.exchange import node as node_module
from olivebuild.ml.transfer.exchange.mirror import Mirror
from olivebuild.ml.transfer.exchange.place import Exchange
from olivebuild.ml.transfer.exchange.records import Attempt
from tests.support.exchange_job import action

KEY = "a" * 32


class Ends:
    """Both ends of an exchange in one process: the far one runs when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, (folder / "bucket").as_uri()
        self.mirror = Mirror(Exchange(self.url, Store(folder / "near")))
        self.store = self.mirror.store
        self.job = self.store.root / "jobs" / KEY
        self.nodes = 0

    def attempt(self, *words: list[object], inputs: tuple[str, ...] = ()) -> Attempt:
        action(self.store, KEY, *words, inputs=inputs)
        attempt = self.mirror.submit(KEY)
        assert attempt
        return attempt

    def run(self, attempt: Attempt) -> int:
        """Run an attempt on a new machine."""
        self.nodes += 1
        return node_module.run(self.url, attempt, self.folder / f"node-{self.nodes}")

    def log(self) -> str:
        return (self.job / "log").read_text()


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ends:
    monkeypatch.setattr(node_module, "JOB", "tests.support.exchange_job")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    monkeypatch.setenv("OLIVEBUILD_EXCHANGE_SECONDS", "0.05")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return Ends(tmp_path)


def test_a_job_and_all_that_it_says(ends: Ends) -> None:
    words: list[list[object]] = [["print", "hello"], ["event", {"n": 1}], ["output", "out of "]]
    attempt = ends.attempt(*words, inputs=("one, ", "two"))
    assert ends.run(attempt) == 0
    assert ends.mirror.settle(KEY)["outcome"]
    assert ends.log() == "hello\n"
    assert (ends.job / "events").read_text() == '{"n": 1}\n'
    assert ends.store.read(of_bytes(b"out of one, two")) == b"out of one, two"
    # What is left there is the blobs, as a remote cache has them.
    bucket = ends.folder / "bucket"
    left = {p.relative_to(bucket).parts[1] for p in bucket.rglob("*") if p.is_file()}
    assert left == {"blobs"}


def test_a_service_that_starts_the_command_again_goes_on_from_the_state(ends: Ends) -> None:
    words: list[list[object]] = [
        ["print", "begins"],
        ["die without state", None],
        ["output", "x"],
    ]
    attempt = ends.attempt(*words)
    assert ends.run(attempt) == 9
    assert not ends.mirror.settle(KEY)["outcome"]
    words.insert(1, ["state", "step 5"])
    again = ends.attempt(*words)
    assert ends.run(again) == 0
    assert ends.mirror.settle(KEY)["outcome"]
    assert ends.log() == "begins\nbegins\ngoes on from step 5\n"


def test_a_state_outlives_its_machine_and_its_attempt(ends: Ends) -> None:
    attempt = ends.attempt(["state", "step 3"], ["sleep", 0.3], ["print", "dies"])
    assert ends.run(attempt) == 1
    for inputs in ((), ("more",)):
        # The same command on another machine, and another attempt.
        words: list[list[object]] = [["die without state", None], ["print", "again"]]
        action(ends.store, KEY, *words, inputs=inputs)
        again = ends.mirror.submit(KEY)
        assert again
        assert ends.run(again) == 1
        assert ends.run(again) == 1
    ends.mirror.settle(KEY)
    assert ends.log().count("goes on from step 3") == 4


def test_a_damaged_state_is_told_and_left(ends: Ends) -> None:
    ends.run(ends.attempt(["state", "step 3"], ["sleep", 0.3]))
    ends.mirror.settle(KEY)
    (file,) = (ends.folder / "bucket").rglob("states/*")
    file.write_bytes(b"step 4")
    assert ends.run(ends.attempt(["die without state", None])) == 9
    ends.mirror.settle(KEY)
    assert "the state of the training is not what was put there: it begins anew" in ends.log()


def test_a_job_that_has_an_outcome_does_not_run_again(ends: Ends) -> None:
    attempt = ends.attempt(["print", "once"], ["output", "x"])
    assert ends.run(attempt) == 0
    assert ends.run(attempt) == 0
    assert ends.mirror.settle(KEY)["outcome"]
    assert ends.log() == "once\n"


def test_a_blob_that_was_swapped_is_told_and_put_there_anew(ends: Ends) -> None:
    attempt = ends.attempt(["output", ""], inputs=("of mine",))
    file = ends.folder / "bucket" / blob_name(of_bytes(b"of mine"))
    file.write_bytes(b"of hers")
    assert ends.run(attempt) == 1
    assert not ends.mirror.settle(KEY)["outcome"]
    assert "of the exchange is not what was put there" in ends.log()
    again = ends.mirror.submit(KEY)
    assert again
    assert ends.run(again) == 0
    assert ends.mirror.settle(KEY)["outcome"]


def test_a_task_of_somebody_else_is_not_run(ends: Ends) -> None:
    attempt = ends.attempt(["output", "x"])
    file = ends.folder / "bucket" / attempt.task
    file.write_bytes(file.read_bytes().replace(b"output", b"0utput"))
    assert ends.run(attempt) == 1
    ends.mirror.settle(KEY)
    assert "task is not what the other end has written" in ends.log()


def test_a_place_that_fails_for_a_while(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = ends.attempt(["print", "a"], ["output", "x"])
    create, faults = Exchange.create, iter([True, False, True, True])
    monkeypatch.setattr(node_module, "PAUSE", 0.01)

    def failing(exchange: Exchange, name: str, data: bytes) -> bool:
        # Every other time it arrives, and the answer is lost.
        fails = next(faults, None)
        done = False if fails is False else create(exchange, name, data)
        if fails is not None:
            raise OSError("the connection broke off")
        return done

    monkeypatch.setattr(Exchange, "create", failing)
    assert ends.run(attempt) == 0
    assert ends.mirror.settle(KEY)["outcome"]
    assert ends.log() == "a\n"


def test_a_node_that_is_asked_to_end_keeps_the_state(ends: Ends) -> None:
    attempt = ends.attempt(["print", "runs"], ["sleep", 60])
    code = (
        "from olivebuild.ml.transfer.exchange import node;"
        "node.JOB = 'tests.support.exchange_job'; node.main()"
    )
    command = python("-c", code, ends.url, KEY, attempt.name)
    environment = {"OLIVEBUILD_EXCHANGE_SECRET": attempt.secret}
    import os

    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        # What the job prints is in the log of the service, too.
        assert process.stdout.readline() == "runs\n"
        process.terminate()
        assert process.wait(30) == 143
    assert ends.run(ends.attempt(["die without state", None])) == 1
    ends.mirror.settle(KEY)
    assert ends.log() == "runs\ngoes on from stopped\n"


def test_there_is_no_such_job(ends: Ends, capfd: pytest.CaptureFixture[str]) -> None:
    assert ends.run(Attempt(key=KEY, name="b", secret="c")) == 1
    assert "error: there is no such job" in capfd.readouterr().err
    assert not Store(ends.folder / "node-1").blobs()
