"""`overrides` of an ONNX target as the model builder wants them: node by node.

With them come the options that the builder then forgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivebuild.core.fs.small_files import read_json


def structured(
    folder: Path, overrides: Mapping[str, str], precision: str, *, share: bool | None
) -> dict[str, Any]:
    """Return the options of the builder that are not KEY=VALUE.

    `folder` has the model's config.json; `share` is the recipe's shared_embeddings.
    """
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)
    nodes = expanded(overrides, text["num_hidden_layers"])
    # A node with the bits of the whole is left out: with some of each the builder does not find its
    # own nodes again.
    weights: dict[str, Any] = {
        "overrides": [
            {"match": {"name": node}, "type": kind}
            for node, kind in nodes.items()
            if kind != precision
        ]
    }
    # With options of this form the builder (0.18.0) no longer quantises an embedding that is the
    # head's, and stores it a second time in float.
    tied = (
        config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        if share is None
        else share
    )
    if tied:
        weights["op_types"] = ["MatMul", "Gather"]
    return {"builder_config_version": 2, "target_options": {"quant_config": {"weights": weights}}}


def expanded(overrides: Mapping[str, str], layers: int) -> dict[str, str]:
    """Return overrides with each `*` as the number of every layer; the first for a node counts."""
    by_node: dict[str, str] = {}
    for pattern, kind in overrides.items():
        for layer in range(layers if "*" in pattern else 1):
            by_node.setdefault(pattern.replace("*", str(layer)), kind)
    return by_node
