"""Frozen weights that are on the device a layer ahead of use: the same bytes, in less memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scenarios.shared_batches import trained, write_data
from tests.scenarios.training import Stopped, bytes_of, fit, token_rows
from tests.support.tiny_models import make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]
OFFLOAD = {"offload": "cpu"}
DEPTH = 6
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"dropout": 0.2},
    "dora": {"dora": True},
    "qlora": {"method": "qlora"},
    "loftq": {"method": "loftq"},
    "loha": {"method": "loha", "module_dropout": 0.3},
    "lokr": {"method": "lokr"},
    "late-layers": {"layers": [3, 5]},
    "fp8": {"training": {"base": "fp8"}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def deep(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six layers, whose rows of more than 20 tokens are computed apart."""
    folder = tmp_path_factory.mktemp("deep") / "model"
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    make(
        "phi3",
        folder,
        tiny_model,
        num_hidden_layers=DEPTH,
        original_max_position_embeddings=20,
        rope_scaling={"rope_type": "longrope", **factors},
    )
    return folder


def layers_of(loop: Any) -> Any:
    from olivebuild.ml.nn.frozen import layers as frozen_layers

    return frozen_layers.of(loop.runner.forward.model)


# In the processor's memory


@pytest.mark.parametrize("name", METHODS)
def test_offloaded_weights_change_no_byte(name: str, deep: Path, tmp_path: Path) -> None:
    fields = dict(METHODS[name])
    training = {"steps": 5} | fields.pop("training", {})
    batch = token_rows(5, 20)
    wanted, _ = fit(tmp_path / "a", deep, batch, training, **fields)
    found, said = fit(tmp_path / "b", deep, batch, training | OFFLOAD, **fields)
    assert bytes_of(found) == bytes_of(wanted)
    assert found.progress.losses == wanted.progress.losses
    assert any("the device while they are used" in str(e.get("text")) for e in said)
    layers = layers_of(found)
    assert layers_of(wanted) is None
    assert layers.most_here == layers.two_layers == layers.whole * 2 // DEPTH
    weights = sum(
        w.numel() * w.element_size()
        for n, w in found.runner.forward.model.named_parameters()
        if ".layers." in n and not w.requires_grad
    )
    assert weights <= layers.whole < weights * 1.1
    # Of FP8's two roundings, one is on the device.
    assert layers.kept == layers.whole * (2 if name == "fp8" else 1)


def test_layers_that_are_computed_twice_are_there_once_more(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at first: then in smaller pieces, then with layers computed twice."""
    import torch

    from olivebuild.ml.nn.forward import Forward

    batch, training = token_rows(5, 20), {"steps": 4}
    wanted, _ = fit(tmp_path / "a", deep, batch, training)
    compute, calls = Forward.loss_of, []

    def scarce(forward: Forward, part: Any) -> Any:
        calls.append(part)
        if not forward.setup.recompute and len(calls) % 2 == 0:
            raise torch.OutOfMemoryError
        return compute(forward, part)

    monkeypatch.setattr(Forward, "loss_of", scarce)
    monkeypatch.setattr("olivebuild.ml.nn.tuning.CPU_TOKENS", 1)
    found, said = fit(tmp_path / "b", deep, batch, training | OFFLOAD)
    assert any("layers computed twice" in str(e.get("text")) for e in said)
    assert found.progress.losses == pytest.approx(wanted.progress.losses, rel=1e-5)
    assert layers_of(found).most_here == layers_of(found).two_layers
    monkeypatch.setattr(Forward, "loss_of", compute)
    plain, _ = fit(tmp_path / "c", deep, batch, training)
    assert found.progress.losses == pytest.approx(plain.progress.losses, rel=1e-5)


def test_a_weight_that_is_away_takes_no_memory(deep: Path, tmp_path: Path) -> None:
    loop, _ = fit(tmp_path, deep, token_rows(5, 20), {"steps": 1} | OFFLOAD)
    model = loop.runner.forward.model
    away = model.get_base_model().model.layers[DEPTH - 1].mlp.down_proj.base_layer.weight
    assert away.untyped_storage().nbytes() == 0
    assert away.shape == (64, 128)


# In pieces, one for each process


@pytest.mark.parametrize(
    ("count", "asked"),
    [
        (2, {}),
        pytest.param(3, {"fields": {"dropout": 0.2}}, marks=pytest.mark.slow),
        pytest.param(2, {"fields": {"method": "qlora"}}, marks=pytest.mark.slow),
        pytest.param(2, {"base": "fp8"}, marks=pytest.mark.slow),
    ],
)
def test_shared_weights_change_no_byte(
    count: int, asked: dict[str, Any], deep: Path, data: Path, tmp_path: Path
) -> None:
    """The last batch of an epoch has two rows, and rows of a batch are of one sort or of two."""
    given: Any = (deep, data, count)
    rest: dict[str, Any] = asked | {"evaluated": True}
    whole, wanted = trained(tmp_path / "a", tmp_path / "cache-a", *given, **rest)
    shared, found = trained(tmp_path / "b", tmp_path / "cache-b", *given, **rest, shard="base")
    assert np.array_equal(found, wanted)
    assert shared.progress.losses == whole.progress.losses
    assert shared.validation.losses == whole.validation.losses
    layers = layers_of(shared)
    assert layers.kept * count == layers.whole * (2 if "base" in asked else 1)
    assert layers.most_here == layers.two_layers == layers.whole * 2 // DEPTH


def test_several_processes_keep_their_weights_in_the_processors_memory(
    deep: Path, data: Path, tmp_path: Path
) -> None:
    _, wanted = trained(tmp_path / "a", tmp_path / "cache-a", deep, data, 2)
    loop, found = trained(tmp_path / "b", tmp_path / "cache-b", deep, data, 2, offload="cpu")
    assert np.array_equal(found, wanted)
    assert layers_of(loop).kept == layers_of(loop).whole


def test_one_process_alone_shares_with_nobody(deep: Path, data: Path, tmp_path: Path) -> None:
    _, wanted = trained(tmp_path / "a", tmp_path / "cache-a", deep, data, 1)
    loop, found = trained(tmp_path / "b", tmp_path / "cache-b", deep, data, 1, shard="base")
    assert np.array_equal(found, wanted)
    assert layers_of(loop).kept == layers_of(loop).whole


@pytest.mark.parametrize(
    ("way", "asked"),
    [
        pytest.param({"shard": "base"}, {"order": "append"}, marks=pytest.mark.slow),
        ({"offload": "cpu"}, {"fields": {"method": "qlora"}}),
        pytest.param({"offload": "cpu"}, {"base": "fp8"}, marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_wherever_its_base_lies(
    way: dict[str, Any],
    asked: dict[str, Any],
    deep: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends as one that was not interrupted, to the byte."""
    from olivebuild.ml.training.step_runner import StepRunner

    run, taken = StepRunner.run, list[int]()

    def noted(runner: StepRunner, step: int, *rest: Any) -> Any:
        taken.append(step)
        return run(runner, step, *rest)

    monkeypatch.setattr(StepRunner, "run", noted)
    given: Any = (deep, data, 2)
    _, wanted = trained(tmp_path / "quiet", tmp_path / "other", *given, **asked)
    whole, apart = asked, asked | way
    for name, before, after in (("to", whole, apart), ("from", apart, whole)):
        stopped: dict[str, Any] = before | {"stop_at": 5}
        with pytest.raises(Stopped):
            trained(tmp_path / f"{name}-1", tmp_path / name, *given, **stopped)
        taken.clear()
        loop, found = trained(tmp_path / f"{name}-2", tmp_path / name, *given, **after)
        assert loop.step == 8
        assert 3 <= taken[0] <= 5, "it began anew"
        assert np.array_equal(found, wanted)


PROCESS = """\
import sys
from pathlib import Path
import torch
from olivebuild.ml.models import load
from olivebuild.ml.nn.frozen.layers import FrozenLayers
from olivebuild.ml.training import data_parallel
from tests.scenarios.training import adapted
rank, count, folder, meeting = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
model = adapted(folder)
# Each process computes other tokens than the others.
ids = torch.arange(10, 30 + rank)[None]
def gradient():
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]
wanted = gradient()
weights = sum(p.numel() * p.element_size() for n, p in model.named_parameters()
    if ".layers." in n and not p.requires_grad)
device = torch.device("cpu")
data_parallel.connect(data_parallel.store_at(meeting, count), rank, count, device)
layers = FrozenLayers(model, device, count)
layers.shard(rank, count)
found = gradient()
assert len(found) > 10 and all(map(torch.equal, found, wanted))
there = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
    for n, p in model.named_parameters() if ".layers." in n and not p.requires_grad}
assert weights / count <= layers.kept <= weights / count * 1.05, (weights, layers.kept)
assert sum(there.values()) <= layers.two_layers, there
print("kept", layers.kept, "of", weights)
"""


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_each_process_keeps_its_part_and_no_more(count: int, deep: Path, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, (rank, count, deep, tmp_path / "meeting"))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "kept" in output
