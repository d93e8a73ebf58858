"""Frozen weights of decoder layers that are on the device only while their layer is computed.

Each layer's frozen weights are one piece of memory on the device. It is given back when the layer
has been computed, and filled again a layer ahead of use, in the forward pass and in the backward
pass, so that two layers' are there at a time. They are filled from a copy in the processor's memory
(`offload`), or from pieces of which each process has one (`shard`). Until these are dealt out, they
are filled from the weights as they were loaded: views of files, which processes of one machine have
in memory once, unless their number format was changed. Their bytes are those that were loaded, so
that no result changes. Weights in FP8 have two roundings that take turns, of which one is on the
device.

What autograd keeps of a weight, also a view of it, is the same memory, as in torch's first
FullyShardedDataParallel (torch/distributed/fsdp/_flat_param.py). A weight that is not there has no
address: what read it would end the process, and never compute with another layer's numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist

ALIGNED = 64
"""Bytes that a weight begins at a multiple of, as kernels and collectives like it."""


GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""torch's name from 2.13 on, or the one before."""
ATTRIBUTE = "frozen_layers"
"""Where a model has them."""


class Source(Protocol):
    """What a layer's bytes come from."""

    def begin(self, into: torch.Tensor) -> Callable[[], object]:
        """Begin to fill `into`, uint8 [bytes]; return what waits for it."""

    @property
    def kept(self) -> int:
        """Bytes that lie here all the time."""


class Loaded:
    """A layer's weights as they were loaded, by the places that they have in it."""

    def __init__(self, weights: Sequence[tuple[slice, torch.Tensor]]) -> None:
        self._weights = weights

    @property
    def kept(self) -> int:
        return sum(weight.numel() * weight.element_size() for _, weight in self._weights)

    def begin(self, into: torch.Tensor) -> Callable[[], object]:
        for place, weight in self._weights:
            into[place].copy_(weight.view(-1).view(torch.uint8))
        return _nothing

    def copied(self, size: int, *, pinned: bool = False) -> torch.Tensor:
        """Return a copy of the layer, uint8 [size], in the processor's memory."""
        copy = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        self.begin(copy)
        return copy


class HostCopy:
    """A copy in the processor's memory, from which a card takes by itself."""

    def __init__(self, copy: torch.Tensor, stream: Any) -> None:
        self._copy = copy
        self._stream = stream

    @property
    def kept(self) -> int:
        return self._copy.numel()

    def begin(self, into: torch.Tensor) -> Callable[[], object]:
        if self._stream is None:
            into.copy_(self._copy)
            return _nothing
        # The memory may have been another layer's, which is still computed.
        computing = torch.cuda.current_stream(into.device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            into.copy_(self._copy, non_blocking=True)
            filled = self._stream.record_event()
        return lambda: torch.cuda.current_stream(into.device).wait_event(filled)


class Shard:
    """One of as many equal pieces as there are processes, which all gather together."""

    def __init__(self, piece: torch.Tensor) -> None:
        self._piece = piece

    @property
    def kept(self) -> int:
        return self._piece.numel()

    def begin(self, into: torch.Tensor) -> Callable[[], object]:
        work = GATHER(into, self._piece, async_op=True)
        waiting: Callable[[], object] = work.wait
        return waiting


def _nothing() -> None:
    """Wait for nothing."""


class _Layer:
    """One layer's frozen weights, which are views of `flat`, uint8 [bytes].

    `second_of` gives what a weight has for every other step, once, or None.
    """

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        second_of: Callable[[torch.nn.Parameter], torch.Tensor | None],
        device: torch.device,
        shares: int,
        stream: Any,
    ) -> None:
        starts, end = [], 0
        for weight in weights:
            starts.append(end)
            end += -(-weight.numel() * weight.element_size() // ALIGNED) * ALIGNED
        size = -(-end // (ALIGNED * shares)) * ALIGNED * shares
        self.flat = torch.empty(size, dtype=torch.uint8, device=device)
        seconds = [second_of(weight) for weight in weights]
        turns = 1 if all(second is None for second in seconds) else 2
        loaded: list[list[tuple[slice, torch.Tensor]]] = [[] for _ in range(turns)]
        for start, weight, second in zip(starts, weights, seconds, strict=True):
            # On the device they would take the memory that this is to save.
            data = weight.data.contiguous().cpu()
            place = slice(start, start + data.numel() * data.element_size())
            loaded[0].append((place, data))
            if turns > 1:
                loaded[1].append((place, data if second is None else second.contiguous().cpu()))
            weight.data = self.flat[place].view(data.dtype).view(data.shape)
        self.size = size
        self.sources: list[Source] = []
        for source in map(Loaded, loaded):
            if shares > 1:
                self.sources.append(source)
            else:
                copy = source.copied(size, pinned=stream is not None)
                self.sources.append(HostCopy(copy, stream))
        self._turn = 0
        self._waiting: Callable[[], object] | None = None
        self._storage = self.flat.untyped_storage()
        self._storage.resize_(0)

    @property
    def is_here(self) -> bool:
        """Whether its memory is taken: it is filled, or being filled."""
        return self._storage.nbytes() > 0

    def begin(self) -> None:
        """Begin to fill it, unless it is here."""
        if not self.is_here:
            self._storage.resize_(self.size)
            self._waiting = self.sources[self._turn].begin(self.flat)

    def need(self) -> None:
        """Have what is computed next wait until it is filled."""
        self.begin()
        self._wait()

    def take_turn(self, turn: int) -> None:
        """Have the bytes of that turn, 0 or 1, from now on."""
        if len(self.sources) > 1 and turn != self._turn:
            self.release()
            self._turn = turn

    @property
    def kept(self) -> int:
        """Bytes that lie here all the time."""
        return sum(source.kept for source in self.sources)

    def shard(self, rank: int, count: int) -> None:
        """Keep piece `rank` of `count` on the device, and gather it from all from now on."""
        self.release()
        for number, source in enumerate(self.sources):
            assert isinstance(source, Loaded)
            whole = source.copied(self.size).view(count, -1)
            self.sources[number] = Shard(whole[rank].to(self.flat.device, copy=True))

    def release(self) -> None:
        """Give its memory back."""
        self._wait()
        self._storage.resize_(0)

    def _wait(self) -> None:
        if self._waiting:
            self._waiting()
            self._waiting = None


class FrozenLayers:
    """The frozen weights of all decoder layers of peft's `model`, on `device` when they are needed.

    They may lie on another device before. `shares`: the number of processes that will have a piece
    each. `second_of` takes a weight's second rounding from where it lies, if it has one. All passes
    must be of the whole model, in the order of its layers, or they wait.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        shares: int = 1,
        second_of: Callable[[torch.nn.Parameter], torch.Tensor | None] = lambda _: None,
    ) -> None:
        self.shares = shares
        on_card = device.type == "cuda" and shares == 1
        stream = torch.cuda.Stream(device) if on_card else None
        modules = decoder_layers(model)
        self._layers = [
            _Layer(weights, second_of, device, shares, stream)
            for weights in _frozen_of(modules, model)
        ]
        self.most_here = 0
        """The most bytes that were on the device at once."""
        for number, module in enumerate(modules):
            module.register_forward_pre_hook(partial(self._before, number))
            module.register_forward_hook(partial(self._after, number))
        vars(model)[ATTRIBUTE] = self

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def kept(self) -> int:
        """Bytes of frozen weights that this process keeps."""
        return sum(layer.kept for layer in self._layers)

    @property
    def whole(self) -> int:
        """Bytes of the frozen weights of all layers."""
        return sum(layer.size for layer in self._layers)

    @property
    def two_layers(self) -> int:
        """The most bytes of two layers, which are on the device at once."""
        return sum(sorted(layer.size for layer in self._layers)[-2:])

    def shard(self, rank: int, count: int) -> None:
        """Keep piece `rank` of `count` of each layer, and gather layers from all from now on.

        All processes are to do so, and to make the same passes afterwards.
        """
        for layer in self._layers:
            layer.shard(rank, count)

    def take_turn(self, turn: int) -> None:
        """Have weights with two roundings in the first (0) or the second (1) from now on.

        All processes are to do so before the same pass.
        """
        for layer in self._layers:
            layer.take_turn(turn)

    def _hold(self, number: int, following: int | None) -> None:
        """Have a layer here, and the one after it on the way, and no other."""
        wanted = (number, following)
        for other, layer in enumerate(self._layers):
            if other not in wanted and layer.is_here:
                layer.release()
        self._layers[number].need()
        if following is not None:
            self._layers[following].begin()
        here = sum(layer.size for layer in self._layers if layer.is_here)
        self.most_here = max(self.most_here, here)

    def _before(self, number: int, _module: Any, _inputs: object) -> None:
        if in_backward():
            # Computed once more; its gradient comes next.
            self._layers[number].need()
            return
        following: int | None = number + 1
        if following == len(self._layers):
            # The backward pass begins with this one; without it the next pass begins anew.
            following = None if torch.is_grad_enabled() else 0
        self._hold(number, following)

    def _after(self, number: int, _module: Any, _inputs: object, output: Any) -> None:
        if in_backward():
            return
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        if hidden.requires_grad:
            hidden.register_hook(partial(self._before_gradient, number))
        if number + 1 < len(self._layers):
            self._layers[number].release()

    def _before_gradient(self, number: int, _gradient: torch.Tensor) -> None:
        """The gradients of all layers after this one have been taken."""
        self._hold(number, number - 1 if number else None)


def of(model: Any) -> FrozenLayers | None:
    """Return the layers of peft's `model` whose frozen weights come and go, if they do."""
    layers: FrozenLayers | None = vars(model).get(ATTRIBUTE)
    return layers


def in_backward() -> bool:
    """Return whether a backward pass is under way, which may compute layers once more.

    As torch.utils.checkpoint finds out; it has no public name.
    """
    return bool(torch._C._current_graph_task_id() != -1)


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder layers of peft's `model`, in order: its longest list of modules."""
    inner = model.get_base_model().base_model
    lists = [m for m in inner.children() if isinstance(m, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=()))


def _frozen_of(modules: Collection[Any], model: Any) -> list[list[torch.nn.Parameter]]:
    """Return each layer's frozen weights, without those that are used elsewhere, too."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        [p for p in module.parameters() if not p.requires_grad and uses[id(p)] == 1]
        for module in modules
    ]
