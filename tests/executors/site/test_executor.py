"""Steps on a site whose agent is a process of this machine: the jobs are real."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from olivebuild.api.action import ActionInput
from olivebuild.api.site import Needs, SiteRequirements
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StepError
from olivebuild.executors.site.executor import SiteExecutor
from tests.support.remote_steps import RemoteSteps, is_running, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs outlive connections on POSIX only")


@pytest.fixture
def steps(tmp_path: Path) -> RemoteSteps:
    return RemoteSteps(tmp_path)


def test_a_step_with_a_file_and_an_input(steps: RemoteSteps) -> None:
    folder = steps.work / "build/first"
    steps.write("build/first/first.txt", "one ")
    manifest, blob = steps.store.put_folder(folder)
    source = ActionInput(
        str(folder), str(folder / "first.txt"), "command", "first", "", False, "", blob
    )
    file = steps.write("data/in.txt", "two")
    action = steps.action(
        "echo said; cat {inputs.first} data/in.txt > {outputs.text}",
        files=[file],
        inputs={"first": source},
    )
    action.fields["inputs"] = {"first": "first.text"}
    outcome = steps.run(action)
    assert outcome.error is None
    assert outcome.result is not None
    assert Path(action.out, "text.txt").read_text() == "one two"
    assert outcome.numerics["processor"]
    brought = steps.store.manifest(outcome.result.manifest)
    assert [entry.name for entry in brought.files] == ["text.txt"]
    assert steps.store.missing(brought) is None
    assert "said" in steps.log.read_text()
    # What was taken in is forgotten there, and what was made stays private.
    assert not steps.folder(action).path.exists()
    store = Store(steps.site)
    assert {path.stat().st_mode & 0o077 for path in store.blobs()} == {0}
    assert manifest.files[0].digest in {path.name for path in store.blobs()}


def test_a_step_that_fails_says_so_in_its_words(steps: RemoteSteps) -> None:
    outcome = steps.run(steps.action("echo because; exit 3"))
    assert outcome.result is None
    assert isinstance(outcome.error, StepError)
    assert outcome.error.fact == "step: the command ended with 3"
    assert "because" in steps.log.read_text()


def test_a_step_whose_time_is_up_says_so_and_is_not_begun_again(steps: RemoteSteps) -> None:
    action = steps.action("echo begun; sleep 600")
    needs = SiteRequirements(needs=Needs(seconds=2))
    outcome = steps.run(action._replace(elsewhere=needs))
    assert isinstance(outcome.error, StepError)
    assert outcome.error.fact.endswith("on box (local) (its `time:` of 2.0 s is up)")
    assert steps.log.read_text().count("begun") == 1


def test_what_a_site_can_never_do_is_said_before(steps: RemoteSteps) -> None:
    executor = steps.executor()
    refused = executor.refusals(
        {
            "ok": SiteRequirements(),
            "gpus": SiteRequirements(needs=Needs(gpus=512)),
            "nodes": SiteRequirements(needs=Needs(nodes=2)),
            "version": SiteRequirements(libraries={"msgspec": "0.0.1"}),
            "strict": SiteRequirements(numerics={"processor": "abacus"}),
        }
    )
    executor.cancel()
    facts = {name: error.fact for name, error in refused.items()}
    assert facts.pop("gpus").startswith("box (local) can't run it: 512 GPUs are asked for")
    assert "2 nodes are asked for" in facts.pop("nodes")
    assert "msgspec is 0.0.1 here and" in facts.pop("version")
    assert "processor is abacus here" in facts.pop("strict")
    assert facts == {}


def test_an_agent_that_does_not_begin(tmp_path: Path) -> None:
    from olivebuild.executors.site.connection import LocalConnection

    connection = LocalConnection("other", program=sys.executable, variables={"PYTHONHOME": "/none"})
    executor = SiteExecutor(name="other", connection=connection, root=str(tmp_path))
    refused = executor.refusals({"step": SiteRequirements()})
    executor.cancel()
    assert refused["step"].fact.startswith("other: its agent did not begin (exit code 1)")


def test_a_file_beyond_the_recipe_does_not_travel(steps: RemoteSteps) -> None:
    outside = steps.root / "outside.txt"
    outside.write_text("x")
    outcome = steps.run(steps.action("cp ../outside.txt {outputs.text}", files=[outside]))
    assert isinstance(outcome.error, InputError)
    assert "not below the recipe's folder" in outcome.error.fact


def test_a_cut_connection_stops_nothing(steps: RemoteSteps) -> None:
    go = steps.root / "go"
    run = f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo done > {{outputs.text}}"
    action = steps.action(run)
    executor = steps.executor()
    executor.start(action, steps.log)
    wait_for(lambda: "begun" in steps.log.read_text())
    steps.connection.cut()
    wait_for(lambda: (steps.root / "agent.pid").read_text())
    go.touch()
    outcome = steps.outcome(executor)
    executor.cancel()
    assert outcome.error is None
    assert Path(action.out, "text.txt").read_text() == "done\n"
    assert [note.partition(" (")[0] for note in steps.notes] == [
        "the connection to box",
        "the connection to box",
    ]
    assert steps.notes[-1].endswith("is back")
    assert steps.log.read_text().count("begun") == 1


def test_ctrl_c_ends_a_job(steps: RemoteSteps) -> None:
    pid = steps.root / "pid"
    action = steps.action(f"echo $$ > {pid}; sleep 600")
    executor = steps.executor()
    executor.start(action, steps.log)
    wait_for(lambda: int(pid.read_text()))
    executor.cancel()
    wait_for(lambda: not is_running(int(pid.read_text())))
    assert steps.folder(action).is_stopped
    assert steps.folder(action).read_outcome() is None


def test_a_job_that_nobody_followed_is_picked_up(steps: RemoteSteps) -> None:
    go = steps.root / "go"
    run = f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo done > {{outputs.text}}"
    action = steps.action(run)
    first = steps.executor()
    first.start(action, steps.log)
    wait_for(lambda: "begun" in steps.log.read_text())
    # As a build does that is killed: nothing is cancelled.
    first._courier._link.stop()
    first._courier._new.put(None)
    first._courier._link.close()
    go.touch()
    outcome = steps.run(action)
    assert outcome.error is None
    assert steps.notes == ["picked up where it is on box (local)"]
    assert steps.log.read_text().count("begun") == 1


@pytest.mark.slow
def test_a_job_that_is_lost_is_started_again(steps: RemoteSteps) -> None:
    mark = steps.root / "mark"
    run = f"if [ -e {mark} ]; then echo done > {{outputs.text}}; else touch {mark}; sleep 600; fi"
    action = steps.action(run)
    executor = steps.executor()
    executor.start(action, steps.log)
    wait_for(mark.exists)
    os.killpg(int(steps.folder(action).ident.partition(" ")[0]), signal.SIGKILL)
    outcome = steps.outcome(executor)
    executor.cancel()
    assert outcome.error is None
    assert steps.notes == ["its process on box (local) is lost: it is started again"]


@pytest.mark.slow
def test_an_input_that_was_damaged_there_is_sent_again(steps: RemoteSteps) -> None:
    file = steps.write("in.txt", "the text")
    first = steps.action("cat in.txt > {outputs.text}", files=[file])
    assert steps.run(first).error is None
    store = Store(steps.site)
    for path in store.blobs():
        if path.read_bytes() == b"the text":
            path.write_bytes(b"THE TEXT")
    again = steps.action("cat in.txt in.txt > {outputs.text}", files=[file])
    outcome = steps.run(again)
    assert outcome.error is None
    assert Path(again.out, "text.txt").read_text() == "the textthe text"
    assert steps.notes == ["inputs are damaged on box (local): they are sent again"]
