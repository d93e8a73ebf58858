"""An adapter that is trained on a real Slurm, on one node and on two; nodes that are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster

pytestmark = [pytest.mark.scenario, pytest.mark.slow, pytest.mark.timeout(1200)]
WEIGHTS = "adapter_model.safetensors"
LONG = "{lr: 1e-3, steps: 120, batch: 4, checkpoint_steps: 5}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with (
        pytest.MonkeyPatch.context() as patch,
        slurm_cluster(tmp_path_factory.mktemp("slurm"), patch) as cluster,
    ):
        yield cluster


def prepare(tiny_model: Path, root: Path, resources: str = "{cores: 1}") -> Place:
    variables = {"OMP_NUM_THREADS": "1", "OLIVEBUILD_NODE_SECONDS": "5"}
    place = Place(root / "work", root / "cache", variables)
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    fields = f"    executor: cluster\n    resources: {resources}\n    r: 4\n"
    text = RECIPE.replace("{lr: 1e-3, steps: 4, batch: 4}", LONG).replace("    r: 4\n", fields)
    site = f"executors:\n  cluster: {{kind: slurm, root: {root / 'site'}}}\n"
    place.recipe.write_text(site + text)
    return place


@pytest.fixture(scope="module")
def local(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a training on this machine."""
    place = prepare(tiny_model, tmp_path_factory.mktemp("local"))
    place.build("--executor", "local", "adapter")
    return place.built("adapter", WEIGHTS)


def numbers(data: bytes) -> np.ndarray:
    """The weights of a file of float32 tensors, in the order of their names."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    parts = []
    for name in sorted(header.keys() - {"__metadata__"}):
        start, end = header[name]["data_offsets"]
        assert header[name]["dtype"] == "F32"
        parts.append(np.frombuffer(data[8 + length + start : 8 + length + end], np.float32))
    return np.concatenate(parts)


def checkpoints(place: Place) -> list[Path]:
    return [*(place.cache.parent / "site/checkpoints").glob("*.safetensors")]


def wait_for(what: Callable[[], object], build: subprocess.Popen[str]) -> None:
    """Wait until something is true, while a build runs."""
    while not what():
        assert build.poll() is None, build.communicate()
        time.sleep(0.1)


def nodes_of_the_job(cluster: SlurmCluster) -> str:
    return cluster.call("squeue", "--noheader", "--states=RUNNING", "--format=%i %N").strip()


def test_a_training_on_slurm_has_the_bytes_of_one_here_though_its_node_is_lost(
    tiny_model: Path, tmp_path: Path, cluster: SlurmCluster, local: bytes
) -> None:
    place = prepare(tiny_model, tmp_path)
    build = place.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(place), build)
    ident, node = nodes_of_the_job(cluster).split()
    cluster.kill_node(node)
    cluster.down(node)
    waits = ("squeue", "--noheader", "--format=%T")
    wait_for(lambda: cluster.call(*waits).strip() == "PENDING", build)
    # Slurm itself would wait for two minutes.
    cluster.call("scontrol", "update", f"job={ident}", "StartTime=now")
    out, err = build.communicate(timeout=600)
    assert build.returncode == 0, out + err
    assert place.built("adapter", WEIGHTS) == local
    cluster.start_node(node)
    cluster.up(node)


def test_ctrl_c_ends_the_job_which_goes_on_with_the_next_build(
    tiny_model: Path, tmp_path: Path, cluster: SlurmCluster, local: bytes
) -> None:
    place = prepare(tiny_model, tmp_path)
    build = place.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(place), build)
    build.send_signal(signal.SIGINT)
    out, err = build.communicate(timeout=120)
    assert build.returncode == 130, out + err
    deadline = time.monotonic() + 60
    while cluster.call("squeue", "--noheader"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    done = place.build("adapter")
    assert "where an earlier run stopped" in done.out
    assert place.built("adapter", WEIGHTS) == local


def test_a_training_on_two_nodes_is_that_of_one_within_rounding(
    tiny_model: Path, tmp_path: Path, cluster: SlurmCluster, local: bytes
) -> None:
    place = prepare(tiny_model, tmp_path, "{cores: 1, nodes: 2}")
    done = place.build("adapter")
    assert "2 nodes share each batch, by 2 processes" in done.out
    learnt, wanted = numbers(place.built("adapter", WEIGHTS)), numbers(local)
    assert np.linalg.norm(learnt - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert not np.array_equal(learnt, wanted)


@pytest.mark.parametrize("lost", ["n1", "n2"])
def test_a_training_goes_on_with_the_node_that_is_left(
    tiny_model: Path, tmp_path: Path, cluster: SlurmCluster, local: bytes, lost: str
) -> None:
    place = prepare(tiny_model, tmp_path, "{cores: 1, nodes: 2}")
    build = place.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(place), build)
    cluster.kill_node(lost)
    cluster.down(lost)
    out, err = build.communicate(timeout=600)
    assert build.returncode == 0, out + err
    assert "1 of 2 nodes are left, and training goes on there" in out
    learnt, wanted = numbers(place.built("adapter", WEIGHTS)), numbers(local)
    assert np.linalg.norm(learnt - wanted) < 1e-3 * np.linalg.norm(wanted)
    cluster.start_node(lost)
    cluster.up(lost)


def test_what_the_cluster_can_not_give_is_refused_before_anything_runs(
    tiny_model: Path, tmp_path: Path, cluster: SlurmCluster
) -> None:
    place = prepare(tiny_model, tmp_path, "{gpu: 2}")
    done = place.run("build", "adapter")
    assert done.code != 0
    assert "no node of partition main has 2 GPUs, at most 1" in done.err + done.out
    assert not os.path.exists(place.folder / "build/tone")
