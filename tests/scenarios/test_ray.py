"""A training on a real Ray of a head and two nodes, the rest here: with a node killed, and with the
head started anew, the bytes are those of a training here.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import Place, rows, write_rows
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = [pytest.mark.scenario, pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPE = """\
default: merged
executors:
  cluster:
    kind: ray
    command: {command}
    python: {python}
    root: {root}
    variables: {{OLIVEBUILD_NODE_SECONDS: 10}}
targets:
  base: {{kind: model, source: tiny}}
  tone:
    kind: dataset
    source: data/tone.jsonl
    prompt: "<|user|>\\n{{phrase}}<|end|>\\n<|assistant|>\\n"
    completion: "{{tone}}<|end|>"
    holdout: 0.3
  adapter:
    kind: adapter
    model: base
    data: tone.train
    r: 4
    alpha: 8
    executor: cluster
    training: {{lr: 1e-3, steps: 300, batch: 4, checkpoint_steps: 5}}
  merged: {{kind: merged, model: base, adapter: adapter}}
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""A node gives a job the threads of one processor: the numerics are those of here."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def here(cluster: RayCluster, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recipe whose adapter was trained on this machine."""
    root = tmp_path_factory.mktemp("here")
    place = Place(root / "work", root / "cache", ONE_THREAD)
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(
        RECIPE.format(
            command=json.dumps(cluster.inside([])), python=sys.executable, root=root / "site"
        )
    )
    done = place.build("--executor", "local")
    assert done.code == 0, done.err
    return place


@pytest.fixture
def elsewhere(here: Place, tmp_path: Path) -> Place:
    """The same recipe, with nothing built, and a site of its own."""
    place = Place(tmp_path / "work", tmp_path / "cache", ONE_THREAD)
    shutil.copytree(here.folder, place.folder, ignore=shutil.ignore_patterns("build", ".olive*"))
    place.edit(str(here.folder.parent / "site"), str(tmp_path / "site"))
    return place


def checkpoints(place: Place) -> list[Path]:
    return [*(place.folder.parent / "site").glob("checkpoints/*.safetensors")]


def build_and(place: Place, strike: Callable[[], None], *goals: str) -> list[dict[str, object]]:
    """Build, and do something when the training has kept a state; return the build's events."""
    process = place.start("build", "--json", *goals)
    deadline = time.monotonic() + 300
    while not checkpoints(place):
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no state was kept: {process.communicate()}")
        time.sleep(0.1)
    strike()
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


def test_an_adapter_is_trained_on_ray_and_merged_here(here: Place, elsewhere: Place) -> None:
    done = elsewhere.build()
    assert done.code == 0, done.err
    assert done.ran == ["tone", "adapter", "merged"]
    assert elsewhere.everything() == here.everything()


def test_a_training_goes_on_where_its_node_was_killed(
    here: Place, elsewhere: Place, cluster: RayCluster
) -> None:
    killed: list[str] = []

    def strike() -> None:
        killed.append(cluster.node_of("olivebuild.executors.site.job"))
        cluster.kill(killed[0])

    events = build_and(elsewhere, strike)
    cluster.start_node(killed[0])
    text = json.dumps(events)
    assert "its node has died): it is started again" in text
    assert "resuming from step" in text
    assert elsewhere.everything() == here.everything()


def test_a_training_goes_on_after_the_head_was_started_anew(
    here: Place, elsewhere: Place, cluster: RayCluster
) -> None:
    events = build_and(elsewhere, cluster.restart)
    assert "the cluster was started anew): it is started again" in json.dumps(events)
    assert elsewhere.everything() == here.everything()


def weights_of(place: Place) -> np.ndarray:
    """Return what an adapter has learnt, as one row."""
    tensors = load_file(place.folder / "build/adapter/adapter_model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_two_nodes_share_the_batches_of_a_training(here: Place, elsewhere: Place) -> None:
    elsewhere.edit("executor: cluster\n", "executor: cluster\n    resources: {nodes: 2}\n")
    done = elsewhere.build("adapter")
    assert done.code == 0, done.err
    assert "2 nodes share each batch, by 2 processes" in done.out
    wanted, learnt = weights_of(here), weights_of(elsewhere)
    assert np.linalg.norm(learnt - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_a_training_goes_on_with_the_node_that_is_left(
    here: Place, elsewhere: Place, cluster: RayCluster
) -> None:
    killed: list[str] = []

    def strike() -> None:
        killed.append(cluster.node_of("olivebuild.ml.training.nodes.node_process"))
        cluster.kill(killed[0])

    elsewhere.edit("executor: cluster\n", "executor: cluster\n    resources: {nodes: 2}\n")
    text = json.dumps(build_and(elsewhere, strike, "adapter"))
    cluster.start_node(killed[0])
    assert "(one of its nodes was lost): it is started again" in text
    assert "1 of 2 nodes are left, and training goes on there" in text
    assert "resuming from step" in text
    wanted, learnt = weights_of(here), weights_of(elsewhere)
    assert np.linalg.norm(learnt - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_more_gpus_than_there_are_fail_before_anything_runs(elsewhere: Place) -> None:
    elsewhere.edit("executor: cluster\n", "executor: cluster\n    resources: {gpu: 2}\n")
    done = elsewhere.run()
    assert done.code != 0
    assert "cluster (ray) can't run it: it asks for 2 GPUs, 1 core; the largest of" in done.err
    assert not (elsewhere.folder / "build").exists()
