"""`overrides` of an ONNX target as the model builder wants them: node by node, and beside what it
then forgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivebuild.core.fs.small_files import read_json


def structured(
    folder: Path, overrides: Mapping[str, str], precision: str, *, share: bool | None
) -> dict[str, Any]:
    """Options of the builder beside KEY=VALUE.

    `folder` has the model's config.json; `share` is what the recipe says of embeddings.
    """
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)
    nodes = expanded(overrides, text["num_hidden_layers"])
    # What has the bits of the whole anyway is left out: with some of each the builder does not find
    # its own nodes again.
    found = {
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
    weights = found | ({"op_types": ["MatMul", "Gather"]} if tied else {})
    return {"builder_config_version": 2, "target_options": {"quant_config": {"weights": weights}}}


def expanded(overrides: Mapping[str, str], layers: int) -> dict[str, str]:
    """With each `*` as the number of every layer; what stands first counts."""
    found: dict[str, str] = {}
    for pattern, kind in overrides.items():
        for layer in range(layers if "*" in pattern else 1):
            found.setdefault(pattern.replace("*", str(layer)), kind)
    return found
