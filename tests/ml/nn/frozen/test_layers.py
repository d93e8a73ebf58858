"""Layers whose frozen weights come and go: which are there when, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from olivebuild.ml.nn.frozen import layers as frozen_layers
from olivebuild.ml.nn.frozen.layers import FrozenLayers, HostCopy, Loaded

DEPTH, WIDTH = 5, 8


class Layer(torch.nn.Module):
    """A frozen product, and one that is trained beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.trained = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x + torch.tanh(self.frozen(torch.tanh(self.trained(x)))),)


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(DEPTH))
        self.heads = torch.nn.ModuleList([torch.nn.Linear(WIDTH, 1)])
        # As tied weights, one in a layer is used outside of it, too.
        second = self.layers[1]
        assert isinstance(second, Layer)
        second.frozen.bias = self.heads[0].get_parameter("weight")
        self.heads[0].requires_grad_(requires_grad=False)

    @property
    def base_model(self) -> Inner:
        return self


class Model(torch.nn.Module):
    """As peft's, as far as it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Inner()

    def get_base_model(self) -> Inner:
        return self.inner

    def forward(self, x: torch.Tensor, *, twice: bool = False) -> torch.Tensor:
        for layer in self.inner.layers:
            (x,) = checkpoint(layer, x, use_reentrant=False) if twice else layer(x)
        return x


def gradients(model: Model, *, twice: bool = False) -> list[torch.Tensor]:
    model.zero_grad()
    out = model(torch.ones(3, WIDTH), twice=twice)
    out.square().sum().backward()
    return [
        out.detach(),
        *(p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None),
    ]


def here(model: Model) -> list[int]:
    """The layers whose frozen weights are in memory."""
    sizes = [layer.frozen.weight.untyped_storage().nbytes() for layer in model.inner.layers]  # type: ignore[union-attr, operator]
    return [number for number, size in enumerate(sizes) if size]


@pytest.mark.parametrize("twice", [False, True])
def test_passes_are_the_same_and_two_layers_are_there(twice: bool) -> None:
    wanted = gradients(Model(), twice=twice)
    assert len(wanted) == 1 + 2 * DEPTH
    model = Model()
    layers = FrozenLayers(model, torch.device("cpu"))
    assert frozen_layers.of(model) is layers
    assert here(model) == []
    for _ in range(3):
        assert all(map(torch.equal, gradients(model, twice=twice), wanted))
        # The first is needed again first.
        assert here(model) == [0]
        with torch.no_grad():
            assert torch.equal(model(torch.ones(3, WIDTH)), wanted[0])
    assert layers.most_here == layers.two_layers


def test_each_layer_is_on_the_way_before_it_is_needed() -> None:
    model, seen = Model(), []
    FrozenLayers(model, torch.device("cpu"))
    for number, layer in enumerate(model.inner.layers):

        def note(_: Any, __: Any, number: int = number) -> None:
            seen.append((number, here(model)))

        layer.trained.register_forward_pre_hook(note)  # type: ignore[union-attr]
    model(torch.ones(3, WIDTH))
    assert seen == [(0, [0, 1]), (1, [1, 2]), (2, [2, 3]), (3, [3, 4]), (4, [4])]


def test_a_pass_that_broke_off_leaves_nothing_behind() -> None:
    wanted, model = gradients(Model()), Model()
    layers = FrozenLayers(model, torch.device("cpu"))

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    handle = model.inner.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        model(torch.ones(3, WIDTH))
    handle.remove()
    assert all(map(torch.equal, gradients(model), wanted))
    assert layers.most_here == layers.two_layers


def test_weights_that_are_used_elsewhere_stay() -> None:
    model = Model()
    FrozenLayers(model, torch.device("cpu"))
    tied = model.inner.heads[0].weight
    assert isinstance(tied, torch.Tensor)
    assert tied.untyped_storage().nbytes() == 4 * WIDTH


def test_a_copy_waits_for_what_is_computed_and_what_is_computed_for_the_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a card; here the streams only note what they are told."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> str:
            told.append(f"{self.name} up to here")
            return f"event of {self.name}"

        def wait_event(self, event: str) -> None:
            told.append(f"{self.name} waits for {event}")

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        told.append(f"on {stream.name}")
        yield
        told.append("back")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("computing"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    into = torch.zeros(64, dtype=torch.uint8)
    wait = HostCopy(torch.ones(64, dtype=torch.uint8), Stream("copying")).begin(into)
    assert told == [
        "copying waits for computing", "on copying", "copying up to here", "back",
    ]  # fmt: skip
    wait()
    assert told[-1] == "computing waits for event of copying"
    assert bool(torch.all(into == 1))


def test_weights_that_are_to_be_dealt_out_are_not_copied_before(tmp_path: Path) -> None:
    """They are views of files, which the processes of a machine have in memory once."""
    from safetensors.torch import load_file, save_file

    model = Model()
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, tmp_path / "model")
    loaded = load_file(tmp_path / "model")
    for name, parameter in model.named_parameters():
        parameter.data = loaded[name]
    wanted, places = gradients(model), {t.data_ptr() for t in loaded.values()}
    layers = FrozenLayers(model, torch.device("cpu"), shares=2)
    weights = [
        weight.data_ptr()
        for layer in layers._layers
        for source in layer.sources
        if isinstance(source, Loaded)
        for _, weight in source._weights
    ]
    assert len(weights) == 2 * DEPTH - 1
    assert set(weights) <= places
    assert all(map(torch.equal, gradients(model), wanted))
