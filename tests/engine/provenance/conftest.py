"""The lineage of an adapter, as a plan would have it."""

from __future__ import annotations

import pytest

from olivebuild.cache.key import Part
from olivebuild.engine.provenance.lineage import DigestedFile, Lineage, PinnedSource, StepRun

COMMIT = "c" * 40


def file(name: str, content: str = "0") -> DigestedFile:
    return DigestedFile(name=name, sha256=content * 64, size=3)


def step(target: str, kind: str, **inputs: str) -> StepRun:
    return StepRun(
        node=target,
        target=target,
        kind=kind,
        key=f"{len(target):032x}",
        parts=(
            Part("step", "kind", kind),
            Part("step", "version", "3"),
            Part("parameter", "r", "8"),
            Part("library", "torch", "2.9.0"),
        ),
        inputs=inputs,
        outputs={"": "f" * 32},
        seconds=1.5,
        numerics={"processor": "x86-64-v4"},
        finished="2026-11-20T10:00:00Z",
    )


@pytest.fixture
def lineage() -> Lineage:
    return Lineage(
        target="adapter",
        kind="adapter",
        digest="f" * 32,
        recipe=file("olivebuild.yaml"),
        lock=file("olivebuild.lock"),
        files=(file("adapter_model.safetensors", "1"), file("adapter_config.json", "2")),
        steps=(
            step("base", "model"),
            step("tone", "dataset"),
            step("adapter", "adapter", model="base", data="tone"),
        ),
        sources={"base": PinnedSource(text="hf:some/model", pin=COMMIT, files={"a.bin": "3" * 64})},
        read={"tone": (file("data/tone.jsonl", "4"),)},
    )
