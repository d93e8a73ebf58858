"""Processes that share a training's batches: real ones, over gloo on this processor.

What they learn is what one alone learns but for rounding.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from olivebuild.api.job import Job
from tests.scenarios.shared_batches import job_of, trained, write_data
from tests.scenarios.training import Stopped, token_rows

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_what_several_learn_is_what_one_learns(tmp_path: Path, llama: Path, data: Path) -> None:
    """The last batch of an epoch has two rows, fewer than there are processes."""
    alone, wanted = trained(tmp_path / "a", tmp_path / "cache-a", llama, data, 1)
    together, found = trained(tmp_path / "b", tmp_path / "cache-b", llama, data, 3)
    assert together.progress.losses == pytest.approx(alone.progress.losses, rel=1e-5)
    assert together.progress.norms == pytest.approx(alone.progress.norms, rel=1e-4)
    assert together.progress.tokens == alone.progress.tokens
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_a_batch_whose_gradient_left_the_number_format_is_taken_again_by_all(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.ml.training.step_runner import StepRunner

    make = StepRunner.__init__

    def scaled(runner: StepRunner, *arguments: Any) -> None:
        make(runner, *arguments)
        runner.scale = 2.0**34

    monkeypatch.setattr(StepRunner, "__init__", scaled)
    alone, wanted = trained(tmp_path / "a", tmp_path / "cache-a", llama, data, 1, dtype="float16")
    together, found = trained(tmp_path / "b", tmp_path / "cache-b", llama, data, 3, dtype="float16")
    assert max(alone.runner.scale, together.runner.scale) < 2.0**30
    assert together.progress.losses == pytest.approx(alone.progress.losses, rel=1e-3)
    assert np.linalg.norm(found - wanted) < 1e-2 * np.linalg.norm(wanted)


def test_several_resume_what_one_left_and_one_what_several_left(
    tmp_path: Path, llama: Path, data: Path
) -> None:
    _, wanted = trained(tmp_path / "quiet", tmp_path / "other", llama, data, 1)
    for name, before, after in (("more", 1, 2), ("less", 2, 1)):
        with pytest.raises(Stopped):
            trained(tmp_path / f"{name}-1", tmp_path / name, llama, data, before, stop_at=5)
        loop, found = trained(tmp_path / f"{name}-2", tmp_path / name, llama, data, after)
        assert loop.step == 8
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


WORKER = """\
import sys
from olivebuild.executors import worker
from olivebuild.ml.training import data_parallel
data_parallel.count_for = lambda *_: 2
sys.exit(worker.main())
"""


class Shared:
    """A worker, as an executor starts it, whose training has a helper."""

    def __init__(self, job: Job) -> None:
        from olivebuild.core import code_version

        file, log = job.out.parent / "action.json", job.out.parent / "log"
        file.write_text(job.action.to_json())
        pipe = subprocess.PIPE
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        assert self.worker.stdin
        self.worker.stdin.write(
            json.dumps({"action": str(file), "log": str(log), "code": code_version.code()}) + "\n"
        )
        self.worker.stdin.flush()
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.kill()
        self.worker.communicate()

    def until_step(self, step: int) -> psutil.Process:
        """Its helper, once the training has come so far."""
        assert self.worker.stdout
        for line in self.worker.stdout:
            self.said.append(json.loads(line))
            if self.said[-1].get("step") == step:
                break
        (helper,) = psutil.Process(self.worker.pid).children()
        return helper

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        assert self.worker.stdout
        self.said += [json.loads(line) for line in self.worker.stdout]
        return self.worker.wait(60), self.said


def has_ended(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_step_whose_batches_are_shared(tmp_path: Path, llama: Path, data: Path) -> None:
    with Shared(job_of(tmp_path / "job", tmp_path / "cache", llama, data)) as shared:
        helper = shared.until_step(2)
        code, said = shared.end()
    assert (code, said[-1]["event"]) == (0, "result")
    assert said[-1]["provenance"]["processes"] == 2
    assert (tmp_path / "job/out/adapter_model.safetensors").exists()
    assert has_ended(helper)


def test_a_helper_that_is_gone_ends_the_training(tmp_path: Path, llama: Path, data: Path) -> None:
    with Shared(job_of(tmp_path / "job", tmp_path / "cache", llama, data, steps=5000)) as shared:
        shared.until_step(2).kill()
        code, said = shared.end()
    assert code == 1
    assert said[-1]["event"] == "error"
    assert "process 2 of the 2 that share its batches ended with" in said[-1]["fact"]


def test_a_helper_does_not_outlive_the_training(tmp_path: Path, llama: Path, data: Path) -> None:
    with Shared(job_of(tmp_path / "job", tmp_path / "cache", llama, data, steps=5000)) as shared:
        helper = shared.until_step(2)
        shared.worker.kill()
        assert has_ended(helper)


def test_an_error_in_the_midst_of_a_step_waits_for_nobody(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core.errors import StepError
    from olivebuild.ml.nn.forward import Forward

    def backward(*_: Any) -> None:
        raise StepError(
            "a single row of 9 tokens does not fit into memory", hint="a smaller model needs less"
        )

    monkeypatch.setattr(Forward, "backward", backward)
    with pytest.raises(StepError, match="does not fit"):
        trained(tmp_path / "a", tmp_path / "cache", llama, data, 2)


def test_a_training_that_is_asked_to_stop_keeps_its_state(
    tmp_path: Path, llama: Path, data: Path
) -> None:
    from olivebuild.ml.training.checkpoint import read

    job = job_of(
        tmp_path / "job", tmp_path / "cache", llama, data, steps=5000, checkpoint_steps=None
    )
    with Shared(job) as shared:
        helper = shared.until_step(2)
        os.killpg(shared.worker.pid, signal.SIGTERM)
        code, said = shared.end()
    assert code == 128 + signal.SIGTERM
    assert not [e for e in said if e["event"] == "error"]
    kept = read(job.store.checkpoint(job.action.key))
    assert kept
    assert kept.step == max(e["step"] for e in said if e["event"] == "metric")
    assert has_ended(helper)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 12])
def test_shares_are_all_of_a_batch_and_about_as_long(count: int) -> None:
    from olivebuild.ml.training.data_parallel import local_share

    batch = token_rows(3, 20)
    shares: Sequence[Any] = [local_share(batch, rank, count) for rank in range(count)]
    assert sorted(id(row) for share in shares for row in share) == sorted(map(id, batch))
    tokens = [sum(map(len, share)) for share in shares]
    assert max(tokens) - min(tokens) <= max(map(len, batch))
    places = {id(row): i for i, row in enumerate(batch)}
    assert all(
        [places[id(row)] for row in share] == sorted(places[id(row)] for row in share)
        for share in shares
    )
