"""What may run beside what: cores, memory and GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from olivebuild.api.node import Node
from olivebuild.core import numerics
from olivebuild.engine import scheduler
from olivebuild.engine.scheduler import ResourcePool, Room


class Memory:
    """Room for so many nodes at once."""

    def __init__(self, most: int = 9) -> None:
        self.most = most

    def fits(self, node: Node, running: Sequence[Node]) -> bool:
        return len(running) < self.most


def _node(name: str, kind: str = "adapter", **fields: bool) -> Node:
    options = {"computes": True} | fields
    return Node(name=name, target=name, kind=kind, version=1, fields={}, **options)  # type: ignore[arg-type]


ONNX = _node("onnx-int4", "onnx")
MERGED = _node("merged", "merged")
TRAINING = _node("adapter", gpu=True)
JUDGING = _node("bench:accuracy.merged", "benchmark-accuracy", gpu=True)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries start as many threads as there are cores, of which there are eight."""
    monkeypatch.setattr(numerics, "threads", lambda: "8")
    monkeypatch.setattr(scheduler, "has_genai_for_gpus", lambda: False)


def _room(*, jobs: int = 0, gpus: int = 0) -> Room:
    return Room(jobs, ResourcePool({"cores": 8.0}), gpus=gpus)


def test_two_that_compute_on_the_processor_never_run_at_once() -> None:
    room = _room(jobs=4)
    assert room.fits(TRAINING, None, Memory())
    assert room.take(TRAINING, None) == 0
    assert not room.fits(JUDGING, MERGED, Memory())
    # An ONNX model, too, would have no core.
    assert not room.fits(JUDGING, ONNX, Memory())
    assert room.is_full
    room.give_back(TRAINING)
    assert room.fits(JUDGING, MERGED, Memory())


def test_what_is_told_to_start_few_threads_leaves_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "threads", lambda: "4")
    room = _room()
    room.take(TRAINING, None)
    assert room.fits(JUDGING, MERGED, Memory())
    room.take(JUDGING, MERGED)
    assert room.is_full


def test_an_onnx_model_is_judged_beside_a_gpu_on_the_cores_that_are_left() -> None:
    room = _room(gpus=1)
    room.take(TRAINING, None)
    assert room.left == 7
    assert room.fits(JUDGING, ONNX, Memory())
    assert not room.needs_gpu(JUDGING, ONNX)
    assert room.take(JUDGING, ONNX) == 7
    # With the GPU free again, another step may start beside it: its core was kept.
    room.give_back(TRAINING)
    assert room.left == 1
    assert room.fits(TRAINING, None, Memory())


def test_beside_a_gpu_a_small_classifier_takes_a_core_and_a_check_few_threads() -> None:
    room = _room(gpus=1)
    room.take(TRAINING, None)
    baseline = _node("bench:baseline", "benchmark-baseline")
    # Not while the training imports its libraries.
    assert not room.fits(baseline, None, Memory())
    room.steps(TRAINING)
    assert room.fits(baseline, None, Memory())
    assert room.take(baseline, None) == 0
    assert room.left == 6
    room.give_back(TRAINING)
    check = _node("bench:check.onnx-int4", "benchmark-check", gpu=True)
    assert room.take(check, None) == 2
    # On a processor alone it has those that its key says.
    assert _room().take(check, None) == 0


def test_alone_an_onnx_model_takes_as_many_threads_as_it_likes() -> None:
    assert _room().take(JUDGING, ONNX) == 0


def test_an_onnx_model_that_a_gpu_may_judge_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "has_genai_for_gpus", lambda: True)
    room = _room(gpus=2)
    assert room.needs_gpu(JUDGING, ONNX)
    assert room.take(JUDGING, ONNX) == 0
    assert room.left == 7


def test_a_model_under_strict_numerics_is_judged_as_its_key_says() -> None:
    strict = _node("bench:accuracy.onnx-int4", "benchmark-accuracy", gpu=True, strict=True)
    assert _room(gpus=1).needs_gpu(strict, ONNX)


def test_without_a_word_of_the_user_one_step_runs_beside_parts_of_benchmarks() -> None:
    light = _node("tone", "dataset", computes=False)
    other = _node("hard", "dataset", computes=False)
    check = _node("bench:check.merged", "benchmark-check", computes=False)
    room = _room()
    room.take(light, None)
    assert not room.fits(other, None, Memory())
    assert room.fits(check, None, Memory())
    asked = _room(jobs=2)
    asked.take(light, None)
    assert asked.fits(other, None, Memory())


def test_what_has_no_memory_beside_others_waits_and_starts_alone() -> None:
    room, gpus = _room(gpus=2), Memory(1)
    assert room.fits(TRAINING, None, Memory(0))
    room.take(TRAINING, None)
    assert not room.fits(JUDGING, MERGED, gpus)
    assert room.fits(JUDGING, MERGED, Memory(2))
