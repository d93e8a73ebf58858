"""The structure of a model: all that decides how fast it runs, and none of its weights.

Of an ONNX folder the graphs without initialisers' values and the runtime's options; of a Hugging
Face folder the configuration and the names, types and shapes of tensors. Models with one structure
compute the same operations on tensors of the same shapes, whatever their weights.

Where values decide what is computed, as the router's of a mixture of experts do, or where code of
the model's own might look at them, the digest of the content is a part of the structure, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.onnx_folder import CONFIG, graphs
from olivebuild.formats.safetensors import tensors_of
from olivebuild.formats.structure.onnx_graph import graph_digest
from olivebuild.formats.weight_files import CODE_FILES, weight_files

VALUE_DEPENDENT = frozenset({"MoE", "QMoE", "NonZero", "Compress", "Unique", "Loop", "EPContext"})
"""Operators that do more or less by what they are given, or hold what is not to be read."""
READ_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""The domains of which it is known what their operators do."""
EXPERTS = "expert"
"""In the names of settings of mixtures of experts: `num_local_experts` (Mixtral),
`n_routed_experts` (DeepSeek), `moe_num_experts` (DBRX).
"""
UNTIMED = ("_name_or_path", "transformers_version")
SEARCH = ("past_present_share_buffer", "num_beams", "num_return_sequences")
"""Options of onnxruntime-genai's search that a measurement leaves as they are."""


class Structure(Struct, frozen=True, kw_only=True):
    """Digests of what decides the speed of a model.

    `content` is that of its weights where their values count, and `why` says why; else "".
    """

    runtime: str
    config: str
    graph: str
    content: str = ""
    why: str = ""


def structure_of(folder: Path, content: str, *, trust: bool = False) -> Structure:
    """Return the structure of a model whose content has a digest.

    `trust`: code of the model's own may run. Raises InputError for what can't be read.
    """
    if (folder / CONFIG).is_file():
        return _of_onnx(folder, content, trust=trust)
    return _of_tensors(folder, content, trust=trust)


def _of_onnx(folder: Path, content: str, *, trust: bool) -> Structure:
    called: set[tuple[str, str]] = set()
    digests = {}
    for path in graphs(folder):
        name = path.relative_to(folder).as_posix()
        try:
            digests[name], operators = graph_digest(path)
        except (ValueError, OSError) as e:
            raise InputError(
                f"{name} can't be read: {e}", where=str(folder), hint="is the file complete?"
            ) from None
        called |= operators
    why = "code of its own may run" if trust else _why_values_count(called)
    return Structure(
        runtime="onnxruntime-genai",
        config=hashing.of_json(_timed_options(read_json(folder / CONFIG))),
        graph=hashing.of_json(digests),
        content=content if why else "",
        why=why,
    )


def _why_values_count(called: set[tuple[str, str]]) -> str:
    """Return why the values of weights decide what operators do; "" where they don't."""
    for domain, name in sorted(called):
        if name in VALUE_DEPENDENT:
            return f"what {name} does depends on values"
        if domain not in READ_DOMAINS:
            return f"what {domain}.{name} does is not known"
    return ""


def _timed_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return genai_config.json without what a measurement sets itself: stop tokens and sampling."""
    search = config.get("search")
    kept = {k: search[k] for k in SEARCH if k in search} if isinstance(search, dict) else search
    return {**_without_tokens(config), "search": kept}


def _without_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the numbers of single tokens, which stop and begin answers."""
    return {
        name: _without_tokens(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not name.endswith("_token_id") and name not in UNTIMED
    }


def _of_tensors(folder: Path, content: str, *, trust: bool) -> Structure:
    config = read_json(folder / "config.json")
    tensors = sorted(
        (t.name, t.dtype, t.shape)
        for name in weight_files(folder).names
        for t in tensors_of(folder / name)
    )
    code = _code_in(folder) if trust else {}
    why = ""
    if code:
        why = "code of its own may run"
    elif has_experts(config):
        why = "it is a mixture of experts"
    return Structure(
        runtime="transformers",
        config=hashing.of_json([_without_tokens(config), code]),
        graph=hashing.of_json(tensors),
        content=content if why else "",
        why=why,
    )


def _code_in(folder: Path) -> dict[str, str]:
    """Return the digests of the Python files in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): hashing.of_file(path)
        for path in files_below(folder)
        if path.is_file() and any(path.match(pattern) for pattern in CODE_FILES)
    }


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether a setting of a configuration counts several experts."""
    for name, value in config.items():
        if isinstance(value, dict):
            if has_experts(value):
                return True
        elif EXPERTS in name:
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(n, int) and not isinstance(n, bool) and n > 1 for n in numbers):
                return True
    return False
