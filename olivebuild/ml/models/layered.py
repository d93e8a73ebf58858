"""A causal language model that has the weights of one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from olivebuild.ml.kernels import mkl
from olivebuild.ml.weights.view import Weight, Weights

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Unlayered(Exception):
    """A model that can't be computed layer by layer; the text says why."""


class _Stop(Exception):
    """Ends a forward pass once its layer is computed."""


def without_weights(auto: Any, config: Any, dtype: torch.dtype) -> Any:
    """Return the model with its buffers, and parameters that take no memory."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return auto.from_config(config, dtype=dtype)


class LayeredModel:
    """A model in float32 whose layers get their weights when they are computed.

    A pass through one layer calls the whole model, so that masks and positions are the model's own:
    layers before it hand on what they get, and the pass ends after it. `folder` holds the model's
    files without weights.
    """

    def __init__(self, weights: Weights, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        mkl.warm_up_mkl()
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._weights = weights.by_name
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = without_weights(AutoModelForCausalLM, config, torch.float32).eval()
        self.layers = _layers_in(self.model, config.get_text_config())
        inner = {id(p) for layer in self.layers for p in layer.parameters()}
        self._names = {
            name: id(p) in inner for name, p in self.model.named_parameters(remove_duplicate=False)
        }
        tied = getattr(self.model, "all_tied_weights_keys", None) or ()
        for name in [n for n in self._names if n not in self._weights]:
            if name not in tied:
                raise Unlayered(f"its weights have no tensor {name}, as transformers names it")
            del self._names[name]
        self._give(name for name, is_inner in self._names.items() if not is_inner)
        self.model.tie_weights()
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self._device)
        self._at, self._out = 0, torch.empty(0)
        self._hidden: torch.Tensor | None = None
        self._is_plain = True
        for number, layer in enumerate(self.layers):
            layer.forward = self._in_place_of(number, layer.forward)

    def names_of(self, module: nn.Linear) -> list[str]:
        """Return the names of a layer's matrix, also those that a merge of tied ones may write."""
        return [
            name
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
            if parameter is module.weight
        ]

    def linear_modules(self, number: int) -> dict[str, nn.Linear]:
        """Return the linear modules of a layer by name; of the head after the last layer."""
        if number == len(self.layers):
            head = self.model.get_output_embeddings()
            return {"head": head} if isinstance(head, nn.Linear) else {}
        modules = self.layers[number].named_modules()
        return {name: m for name, m in modules if isinstance(m, nn.Linear)}

    @contextmanager
    def layer(self, number: int) -> Iterator[None]:
        """Hold the weights of a layer while it is computed."""
        names = []
        if number < len(self.layers):
            inner = {id(p) for p in self.layers[number].parameters()}
            names = [n for n, p in self.model.named_parameters() if id(p) in inner]
        self._give(iter(names))
        try:
            yield
        finally:
            empty = {name: torch.empty(self._weights[name].shape, device="meta") for name in names}
            self.model.load_state_dict(empty, strict=False, assign=True)

    def compute(self, number: int, ids: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """Return a layer's output [rows, length, width] for its input `hidden`.

        `ids` [rows, length] are tokens, padded on the right; the first layer takes no `hidden`.
        After the last layer comes the head, whose input is returned.
        """
        self._at = number
        self._hidden = None if hidden is None else hidden.to(self._device)
        stop: Any = None
        if number == len(self.layers):
            head = self.model.get_output_embeddings()
            stop = head.register_forward_pre_hook(self._end_at_head)
        try:
            with torch.inference_mode():
                self.model(input_ids=ids.to(self._device), use_cache=False)
        except _Stop:
            return self._out.to("cpu")
        finally:
            if stop:
                stop.remove()
        raise Unlayered("its layers are not called as others are")

    def _end_at_head(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._out = args[0]
        raise _Stop

    def _in_place_of(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands for a layer's forward pass."""

        def stand_in(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._at != number:
                last = self._at == len(self.layers) and number == self._at - 1
                handed = self._hidden if last else hidden_states
                return handed if self._is_plain else (handed,)
            out = forward(hidden_states if self._hidden is None else self._hidden, *args, **kwargs)
            self._is_plain = isinstance(out, torch.Tensor)
            self._out = out if self._is_plain else out[0]
            raise _Stop

        return stand_in

    def _give(self, names: Iterator[str]) -> None:
        state = {name: _tensor(self._weights[name]).to(self._device) for name in names}
        self.model.load_state_dict(state, strict=False, assign=True)


def _layers_in(model: nn.Module, config: Any) -> list[Any]:
    """Return a model's layers. Raises Unlayered where there is not one list of them."""
    count = getattr(config, "num_hidden_layers", 0)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1 or not count:
        raise Unlayered("transformers does not keep its layers in one list")
    return list(lists[0])


def _tensor(weight: Weight) -> torch.Tensor:
    """Return a weight in float32. Raises Unlayered for other formats than 16- and 32-bit floats."""
    if weight.dtype not in DTYPES:
        raise Unlayered(f"{weight.name} is stored as {weight.dtype}")
    data = bytearray(weight.read())
    return torch.frombuffer(data, dtype=DTYPES[weight.dtype]).reshape(weight.shape).float()
