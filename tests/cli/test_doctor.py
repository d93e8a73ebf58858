"""What a machine has and can run, as text."""

from __future__ import annotations

from typing import Any

from olivebuild.api.step import kinds
from olivebuild.cli.doctor import NEEDS, to_text

FACTS: dict[str, Any] = {
    "olivebuild": "1.0",
    "python": "3.11.7",
    "system": "Linux x86_64",
    "processor": "a processor",
    "cores": 2,
    "memory_bytes": 24 << 30,
    "gpus": [],
    "providers": ["cpu"],
    "not_here": {"cuda": "no NVIDIA GPU is to be seen here"},
    "overlaps": [{"packages": ["a", "b"], "fact": "a and b overwrite each other", "hint": "pip"}],
    "cache": "/home/me/.cache/olivebuild",
    "libraries": {"torch": "2.13.0", "peft": None},
    "kinds": {
        "command": {"runs": True, "missing": []},
        "adapter": {"runs": False, "missing": ["peft", "safetensors"]},
    },
}


def test_each_fact_has_a_line() -> None:
    lines = to_text(FACTS).splitlines()
    assert lines[0] == "olivebuild  1.0 on Python 3.11.7, Linux x86_64"
    assert "processor   a processor, 2 cores, 24 GiB" in lines
    assert "GPUs        none" in lines
    assert "providers   cpu (onnxruntime-genai)" in lines
    assert "            not cuda: no NVIDIA GPU is to be seen here" in lines
    assert "warning     a and b overwrite each other" in lines
    assert "torch              2.13.0" in lines
    assert "peft               not installed" in lines
    assert "command            runs here" in lines
    assert "adapter            restores only; missing: peft, safetensors" in lines


def test_each_kind_with_libraries_of_its_own_is_examined() -> None:
    examined = {name.partition(" ")[0] for name in NEEDS}
    assert examined <= set(kinds())
    assert {"model", "dataset", "adapter", "merged", "onnx", "benchmark"} <= examined
