"""Which tensors of a model's files are the one weight of one plain linear layer each: found out
from its class, once for a structure.

Only there does adding to the tensor what an adapter adds to the layer's output come to the same.
Not so where a weight is tied or shared, where the
loader renames, splits or joins tensors, or where a layer is no plain product (transposed, fused
experts).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.host import installed
from olivebuild.ml.weights.view import Weights

if TYPE_CHECKING:
    from olivebuild.cache.store import Store
    from olivebuild.ml.weights.lora import Change

VERSION = 1
"""Raise it when a structure's plain weights are found in another way."""


def check_places(store: Store, model: Weights, changed: list[Change]) -> None:
    """Raises NotProvenEqual when a changed tensor is not, by name and alone, the weight of a linear
    layer.
    """
    from olivebuild.ml.weights.errors import NotProvenEqual

    known = plain_weights(store, model)
    if odd := sorted(c.weight.name for c in changed if c.weight.name not in known):
        raise NotProvenEqual(f"{odd[0]} is not the weight of one linear layer alone")


def plain_weights(store: Store, model: Weights) -> frozenset[str]:
    """Their names; none where transformers can't make the class."""
    text = model.bytes_of("config.json") or b""
    shapes = {w.name: w.shape for w in model.by_name.values()}
    structure = [
        hashing.of_bytes(text),
        [[name, list(shape)] for name, shape in sorted(shapes.items())],
    ]
    derived, key = (
        Derived(store),
        hashing.of_json(
            ["placed", VERSION, *structure, installed("transformers"), installed("torch")]
        ),
    )
    if (known := derived.read(key)) is not None:
        return frozenset(json.loads(known))
    names = find_plain(text, shapes)
    derived.write(key, json.dumps(sorted(names)).encode())
    return names


def find_plain(config: bytes, shapes: dict[str, tuple[int, ...]]) -> frozenset[str]:
    """As `plain_weights`, from the class on the meta device: no weight is made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping

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
            # Whatever keeps a class from being made, loading it says so better.
            return frozenset()
    loads_as = {name: _renamed(name, get_model_conversion_mapping(model)) for name in shapes}
    sources = Counter(loads_as.values())
    modules = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    ties = model.get_expanded_tied_weights_keys(all_submodels=True)
    tied = {*ties, *ties.values()}
    found = set()
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if (
            type(module) is torch.nn.Linear
            and shapes.get(name) == tuple(module.weight.shape)
            and loads_as[name] == name
            and sources[name] == 1
            and modules[id(module)] == 1
            and users[id(module.weight)] == 1
            and name not in tied
        ):
            found.add(name)
    return frozenset(found)


def _renamed(name: str, conversions: list[Any]) -> str:
    """What the loader makes of a tensor's name; of one that it joins or splits, what it calls the
    result.
    """
    for conversion in conversions:
        name = conversion.rename_source_key(name)[0]
    return name
