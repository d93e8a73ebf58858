"""Tensors of a model's files that are each the weight of one linear layer, found from its class.

Only there does adding to the tensor what an adapter adds to the layer's output come to the same.
Not so where a weight is tied or shared, where the loader renames, splits or joins tensors, or where
a layer is no plain product (transposed, fused experts).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.host import installed
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import Weights

if TYPE_CHECKING:
    from olivebuild.cache.store import Store
    from olivebuild.ml.weights.lora import Change

VERSION = 1
"""Raise it when a structure's plain weights are found in another way."""


def check_places(store: Store, model: Weights, changed: list[Change]) -> None:
    """Raise NotProvenEqual unless each changed tensor is the weight of one linear layer."""
    plain = plain_weights(store, model)
    if others := sorted(c.weight.name for c in changed if c.weight.name not in plain):
        raise NotProvenEqual(f"{others[0]} is not the weight of one linear layer alone")


def plain_weights(store: Store, model: Weights) -> frozenset[str]:
    """Return the names of tensors that are the weight of one linear layer, and nothing else.

    There are none where transformers can't make the class. The names are stored by structure.
    """
    text = model.bytes_of("config.json") or b""
    shapes = {w.name: w.shape for w in model.by_name.values()}
    structure = [
        hashing.of_bytes(text),
        [[name, list(shape)] for name, shape in sorted(shapes.items())],
    ]
    versions = [installed("transformers"), installed("torch")]
    derived, key = Derived(store), hashing.of_json(["placed", VERSION, *structure, *versions])
    if (stored := derived.read(key)) is not None:
        return frozenset(json.loads(stored))
    names = find_plain(text, shapes)
    derived.write(key, json.dumps(sorted(names)).encode())
    return names


def find_plain(config: bytes, shapes: dict[str, tuple[int, ...]]) -> frozenset[str]:
    """Return the same as `plain_weights`, from the class on the meta device: no weight is made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(config)
        try:
            read = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(
                    read, trust_remote_code=False, attn_implementation="eager"
                )
        except Exception:  # noqa: BLE001
            # Loading the class fails in the same way, and reports it better.
            return frozenset()
    return frozenset(_plain_layers(model, shapes))


def _plain_layers(model: Any, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield the names of weights of linear layers that are loaded from one tensor and used once."""
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping

    loads_as = {name: _renamed(name, get_model_conversion_mapping(model)) for name in shapes}
    sources = Counter(loads_as.values())
    modules = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    ties = model.get_expanded_tied_weights_keys(all_submodels=True)
    tied = {*ties, *ties.values()}
    for path, module in model.named_modules():
        name = f"{path}.weight"
        # A subclass may compute something else.
        if type(module) is not torch.nn.Linear or shapes.get(name) != tuple(module.weight.shape):
            continue
        is_renamed = loads_as[name] != name or sources[name] != 1
        is_shared = modules[id(module)] != 1 or users[id(module.weight)] != 1 or name in tied
        if not is_renamed and not is_shared:
            yield name


def _renamed(name: str, conversions: list[Any]) -> str:
    """Return the loader's name for a tensor, or for what it joins or splits the tensor into."""
    for conversion in conversions:
        name = conversion.rename_source_key(name)[0]
    return name
