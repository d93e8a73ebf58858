"""A job by itself, as a scheduler starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from olivebuild.cache.store import Store
from olivebuild.executors.site.folder import PRIVATE, JobFolder
from olivebuild.executors.site.job import AGAIN, STOPPED
from olivebuild.executors.site.packing import Packer, read
from tests.support.remote_steps import RemoteSteps, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs outlive connections on POSIX only")


class Job:
    """A job's folder with its action and inputs."""

    def __init__(self, root: Path, run: str, **changes: Any) -> None:
        self.steps = RemoteSteps(root)
        self.store = Store(self.steps.site, PRIVATE)
        file = self.steps.write("in.txt", "text")
        packer = Packer(self.steps.store)
        action = packer.pack(self.steps.action(run, files=[file]))
        self.folder = JobFolder(self.steps.site, action.key)
        self.folder.make()
        self.folder.write_action(structs.replace(action, **changes))
        self.folder.attempt = "first"
        self.blobs = [blob.digest for blob in action.blobs]
        for blob in self.blobs:
            self.store.put_bytes(read(packer.places[blob], 0, 1 << 20))

    def start(self, attempt: str = "first") -> subprocess.Popen[bytes]:
        words = [str(self.steps.site), self.folder.key, attempt]
        command = [sys.executable, "-m", "olivebuild.executors.site.job", *words]
        with open(self.folder.log, "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def run(self, attempt: str = "first") -> int:
        return self.start(attempt).wait()


def test_a_job_leaves_an_outcome_and_no_scratch(tmp_path: Path) -> None:
    job = Job(tmp_path, "cp in.txt {outputs.text}; echo printed")
    assert job.run() == 0
    outcome = job.folder.read_outcome()
    assert outcome
    assert outcome.error is None
    assert {blob.digest for blob in outcome.blobs} >= {outcome.manifest, job.blobs[0]}
    assert "printed" in job.folder.log.read_text()
    assert not job.folder.work.exists()
    # A second process that a scheduler starts for it finds it done.
    assert job.run() == 0


def test_another_attempt_counts(tmp_path: Path) -> None:
    job = Job(tmp_path, "cp in.txt {outputs.text}")
    assert job.run("second") == AGAIN
    assert job.folder.read_outcome() is None


def test_a_job_ends_when_another_attempt_begins(tmp_path: Path) -> None:
    job = Job(tmp_path, "sleep 600")
    process = job.start()
    wait_for(lambda: (job.folder.work / "out").is_dir())
    job.folder.attempt = "second"
    assert process.wait() == AGAIN
    assert job.folder.read_outcome() is None


def test_other_code_makes_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, "cp in.txt {outputs.text}", code="another")
    assert job.run() == 0
    outcome = job.folder.read_outcome()
    assert outcome
    assert outcome.error
    assert "has another olivebuild" in outcome.error["fact"]


def test_an_input_that_is_not_there(tmp_path: Path) -> None:
    job = Job(tmp_path, "cp in.txt {outputs.text}")
    job.store.path(job.blobs[0]).unlink()
    assert job.run() == 0
    outcome = job.folder.read_outcome()
    assert outcome
    assert outcome.lost == (job.blobs[0],)


def test_a_job_that_is_asked_to_stop(tmp_path: Path) -> None:
    job = Job(tmp_path, "sleep 600")
    process = job.start()
    wait_for(lambda: (job.folder.work / "out.json").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == STOPPED
    assert job.folder.is_stopped
    assert job.folder.read_outcome() is None
    # A scheduler that took its node puts it back into the queue.
    process = job.start()
    wait_for(lambda: not job.folder.is_stopped)
    process.kill()
    process.wait()
    assert not job.folder.is_stopped
