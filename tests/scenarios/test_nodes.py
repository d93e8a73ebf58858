"""A training on two nodes: two groups of processes that share nothing but an address and files."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.job import Job
from olivebuild.core.errors import NodeLost, StepError
from tests.scenarios.shared_batches import job_of, write_data

pytestmark = [
    pytest.mark.scenario,
    # Each process imports torch and transformers, which take seconds.
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


class OtherNode:
    """Node 1 of two, as its launcher starts it."""

    def __init__(self, folder: Path, model: Path, data: Path, **training: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.variables = {"OLIVEBUILD_NODES": "2", "OLIVEBUILD_RENDEZVOUS": self.address}
        # Its paths are its own.
        job = job_of(folder / "node-1", folder / "cache-1", model, data, **training)
        file = folder / "node-1/action.json"
        file.write_text(job.action.to_json())
        self.log = folder / "node-1/log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "olivebuild.ml.training.nodes.node_process", str(file)],
                env=os.environ | self.variables | {"OLIVEBUILD_NODE": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait()


def trained(
    folder: Path,
    model: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: OtherNode | None = None,
    on_step: Any = None,
    **training: Any,
) -> tuple[Any, np.ndarray, list[str]]:
    """Train in this process, node 0; the loop, the adapter's weights and what was said."""
    import torch
    import torch.distributed as dist

    from olivebuild.ml.training import train
    from olivebuild.steps.adapter import AdapterFields

    # Its state is under its key, in the cache.
    place = f"node-0-of-{os.environ.get('OLIVEBUILD_NODES', '2')}"
    job = job_of(folder / place, folder / "cache", model, data, **training)
    said: list[str] = []

    class Listening(Job):
        def say(self, event: str, **told: Any) -> None:
            if event == "note":
                said.append(told["text"])
            if event == "metric" and on_step:
                on_step(told["step"])

    variables = (other.variables | {"OLIVEBUILD_NODE": "0"}) if other else {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        listening, fields = Listening(job.action, io.StringIO()), job.fields(AdapterFields)
        rows = train.rows_of(listening, fields)
        try:
            loop = train.fit(listening, fields, rows, None, torch.device("cpu"), torch.float32)
        finally:
            assert not dist.is_initialized()
    weights = [w.detach().numpy().ravel() for w in loop.runner.trainable.weights]
    return loop, np.concatenate(weights), said


def test_what_two_nodes_learn_is_what_one_learns(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, wanted, _ = trained(tmp_path / "alone", llama, data, monkeypatch)
    other = OtherNode(tmp_path, llama, data)
    together, learnt, said = trained(tmp_path, llama, data, monkeypatch, other)
    assert other.process.wait(60) == 0, other.log.read_text()
    assert "2 nodes share each batch, by 2 processes" in said
    assert together.runner.ranks.count == 2
    assert together.progress.losses == pytest.approx(alone.progress.losses, rel=1e-5)
    assert np.linalg.norm(learnt - wanted) < 1e-4 * np.linalg.norm(wanted)
    # Rounding is another, so the batches were shared.
    assert not np.array_equal(learnt, wanted)


def test_a_lost_node_ends_the_training_and_one_goes_on(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.ml.training.nodes import rendezvous

    monkeypatch.setattr(rendezvous, "LOST_SECONDS", 3.0)
    _, wanted, _ = trained(tmp_path / "alone", llama, data, monkeypatch)
    other = OtherNode(tmp_path, llama, data)

    def kill_at(step: int) -> None:
        if step == 4:
            other.end()

    with pytest.raises(NodeLost, match="node 1 of the 2 that share its batches has been silent"):
        trained(tmp_path, llama, data, monkeypatch, other, kill_at)
    steps: list[int] = []
    monkeypatch.setenv("OLIVEBUILD_NODES", "1")
    monkeypatch.setenv("OLIVEBUILD_NODES_WANTED", "2")
    _, learnt, said = trained(tmp_path, llama, data, monkeypatch, None, steps.append)
    assert "1 of 2 nodes are left, and training goes on there" in said
    assert steps[0] > 3
    assert np.linalg.norm(learnt - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_a_process_of_another_node_that_fails_is_named(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    other = OtherNode(tmp_path, llama, data)

    def kill_at(step: int) -> None:
        if step == 2:
            (rank,) = psutil.Process(other.process.pid).children()
            rank.kill()

    with pytest.raises(StepError, match=r"a process on node 1 of the 2 .* ended with -9"):
        trained(tmp_path, llama, data, monkeypatch, other, kill_at)
    assert other.process.wait(60) == 1


def test_a_node_ends_when_the_first_is_gone(
    tmp_path: Path, llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed(Exception):
        pass

    def fail_at(step: int) -> None:
        if step == 2:
            raise Failed

    other = OtherNode(tmp_path, llama, data)
    with pytest.raises(Failed):
        trained(tmp_path, llama, data, monkeypatch, other, fail_at)
    assert other.process.wait(60) == 1
