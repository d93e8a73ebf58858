"""Limits on folders from elsewhere without the recipe's trust.

An error for what would load code, or lead out of the folder.

Of models and adapters for transformers and peft here, of ONNX folders in onnx_folder.py. Both are
asked when a plan is made, before a step reads what it has fetched, and again before a library loads
a folder, since a shared cache can hold what another wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs.small_files import read_json

READ_FIRST = "would let it: look at what it names first"
MODEL_HINT = f"trust_remote_code: true on the model {READ_FIRST}"
HINT = f"trust: true on the target {READ_FIRST}"
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""transformers loads one whose name has a slash from the hub, as compiled code
(https://huggingface.co/docs/kernels).
"""
PEFT_IMPORTS = ("transformers",)
"""The packages whose classes peft's `auto_mapping` may name."""


class Fault(NamedTuple):
    """`file` is relative to the folder."""

    fact: str
    file: str


def check(faults: Iterable[Fault], hint: str, where: Where | str | None) -> None:
    """Raises InputError with the first fault and the number of the others."""
    listed = list(faults)
    if listed:
        more = f" ({len(listed) - 1} more of the kind)" if len(listed) > 1 else ""
        raise InputError(f"{listed[0].file}: {listed[0].fact}{more}", where=where, hint=hint)


def of_model(folder: Path) -> Iterator[Fault]:
    """Yield what config.json has transformers load beside its own classes.

    The folder's safetensors aside.
    """
    file = folder / "config.json"
    try:
        config = read_json(file)
    except (OSError, ValueError, RecursionError):
        # Its readers tell.
        return
    for name, value in _entries(config):
        if name.lstrip("_").removesuffix("_internal") in IMPLEMENTATIONS:
            for kernel in value.values() if isinstance(value, dict) else (value,):
                if isinstance(kernel, str) and "/" in kernel:
                    yield Fault(f"{name} names {kernel!r}, compiled code from the hub", file.name)


def of_adapter(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what an adapter's configuration has peft import."""
    name = "adapter_config.json"
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if mapping and (not isinstance(library, str) or library.partition(".")[0] not in PEFT_IMPORTS):
        yield Fault(f"auto_mapping names the package {library!r}, which peft would import", name)
    core = config.get("megatron_core") or "megatron.core"
    if core != "megatron.core":
        yield Fault(f"megatron_core names the package {core!r}, which peft would import", name)


def of_adapter_folder(folder: Path) -> Iterator[Fault]:
    try:
        config = read_json(folder / "adapter_config.json")
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(config, dict):
        yield from of_adapter(config)


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    """(key, value) of all objects in a JSON value.

    Raises nothing: json.loads has bounded the depth.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
