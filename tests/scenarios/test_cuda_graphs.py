"""Gradients as CUDA graphs: those that are computed kernel by kernel. On a GPU, and their batches'
layout on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.scenarios.training import adapted, gradient, token_rows

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]
torch = pytest.importorskip("torch")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA's")


def setup(**options: Any) -> Any:
    from olivebuild.ml.nn.forward import Setup

    defaults = {"packed": True, "share_prefixes": False, "tokens_per_micro_batch": 10_000}
    return Setup(**(defaults | options))


def test_padded_rows_have_the_gradient_of_packed_ones(llama: Path) -> None:
    from olivebuild.ml.nn.cuda_graphs import _Graph
    from olivebuild.ml.nn.forward import Forward, labels_of

    model, batch = adapted(llama), token_rows()
    loss, expected = gradient(model, setup(), batch)
    model.zero_grad()
    forward = Forward(model, torch.device("cpu"), setup(cuda_graphs=True), print)
    assert forward.replays(batch)
    shape = cast("Any", forward._graphs)._shape_of(batch)
    graph = _Graph(forward, shape)
    for _ in range(2):
        # Filled anew, it holds nothing of the batch before.
        model.zero_grad()
        graph.fill(batch[:3], 7, 4.0)
        graph.fill(batch, labels_of(batch), 1.0)
        assert float(graph.compute()) == pytest.approx(loss, abs=1e-5)
    weights = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    assert (torch.cat(weights) - expected).abs().max() < 1e-5


@pytest.fixture
def on_device(llama: Path) -> Any:
    """A function that returns a forward pass in bfloat16 on the GPU, and what it has noted."""

    def make(change: Any = None, **options: Any) -> tuple[Any, list[str]]:
        from olivebuild.ml.models import load
        from olivebuild.ml.nn.forward import Forward

        device, notes = torch.device("cuda"), list[str]()
        model = adapted(llama, load.load_model(llama, torch.bfloat16, device))
        if change:
            change(model)
        options = {"padded_groups": False, "cuda_graphs": True} | options
        return Forward(model, device, setup(**options), notes.append), notes

    return make


def gradients(forward: Any, batches: list[list[Any]]) -> list[tuple[float, Any]]:
    from olivebuild.ml.nn.forward import labels_of

    results = []
    forward.model.train()
    for batch in batches:
        forward.model.zero_grad(set_to_none=True)
        loss = float(forward.backward(batch, None, labels_of(batch)))
        weights = [p.grad.float().flatten() for p in forward.model.parameters() if p.requires_grad]
        results.append((loss, torch.cat(weights)))
    return results


@on_gpu
def test_graphs_give_the_gradients_of_kernels_one_by_one(on_device: Any) -> None:
    batches = [token_rows(seed, count) for seed in range(3) for count in (2, 7)]
    forward, notes = on_device()
    replayed = gradients(forward, batches)
    assert not notes
    assert 1 <= len(forward._graphs._graphs) <= 6
    expected = gradients(on_device(cuda_graphs=False)[0], batches)
    for (loss, weights), (right, gradient_) in zip(replayed, expected, strict=True):
        assert loss == pytest.approx(right, rel=2e-2)
        assert float((weights - gradient_).norm() / gradient_.norm()) < 5e-2
    # The same again, by graphs that are there already.
    for (_, weights), (_, again) in zip(replayed, gradients(forward, batches), strict=True):
        assert torch.equal(weights, again)


def _drop(model: Any) -> None:
    for module in model.modules():
        for name in getattr(module, "lora_dropout", {}):
            module.lora_dropout[name] = torch.nn.Dropout(0.5)


@on_gpu
def test_each_replay_draws_its_own_dropout_and_a_state_brings_it_back(on_device: Any) -> None:
    batch = token_rows()
    forward, notes = on_device(_drop)
    torch.cuda.manual_seed(0)
    first = gradients(forward, [batch, batch, batch])
    assert not notes
    assert not torch.equal(first[0][1], first[1][1])
    torch.cuda.manual_seed(0)
    again = gradients(forward, [batch])
    state = torch.cuda.get_rng_state()
    rest = gradients(forward, [batch, batch])
    # As after a restart: the graph is captured anew.
    other, _ = on_device(_drop)
    torch.cuda.set_rng_state(state)
    resumed = gradients(other, [batch, batch])
    assert [loss for loss, _ in first] == [loss for loss, _ in (*again, *rest)]
    for (_, a), (_, b), (_, c) in zip(first[1:], rest, resumed, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c)


def _drawn_by_the_host(model: Any) -> None:
    layer = model.get_base_model().model.layers[1]
    forward = layer.forward
    layer.forward = lambda x, *args, **kwargs: (
        forward(x, *args, **kwargs) if float(torch.rand([])) < 2 else x
    )


def _decided_by_the_host(model: Any) -> None:
    layer = model.get_base_model().model.layers[1]
    forward = layer.forward
    layer.forward = lambda x, *args, **kwargs: (
        forward(x, *args, **kwargs) if float(x.sum()) != 0.123 else x
    )


@on_gpu
@pytest.mark.parametrize("change", [_drawn_by_the_host, _decided_by_the_host])
def test_what_the_host_decides_is_no_graph_and_that_is_told(on_device: Any, change: Any) -> None:
    batches = [token_rows(0), token_rows(1)]
    forward, notes = on_device(change)
    results = gradients(forward, batches)
    assert len(notes) == 1
    assert "CUDA graphs" in notes[0]
    expected = gradients(on_device(change, cuda_graphs=False)[0], batches)
    for (loss, weights), (right, gradient_) in zip(results, expected, strict=True):
        assert loss == pytest.approx(right, rel=1e-3)
        assert np.isclose(float(weights.norm()), float(gradient_.norm()), rtol=1e-2)
