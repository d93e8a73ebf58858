"""The list of a model's slots, as it is written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.formats.structure import adapter_slots
from olivebuild.formats.structure.adapter_slots import Slots

SLOTS = Slots(dtype="float32", tokens=384, modules={"model.layers.0.self_attn.q_proj": (64, 128)})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / adapter_slots.NAME
    file.write_bytes(SLOTS.to_json())
    assert adapter_slots.read(file) == SLOTS
    assert adapter_slots.inputs_of("a.b") == ("a.b.lora_A.weight", "a.b.lora_B.weight")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version": 1', b'"version": 2'),
        (b"float32", b"float64"),
        (b"384", b"-1"),
        (b"128", b"0"),
        (b'"dtype"', b'"more": 1, "dtype"'),
        (b"{", b""),
    ],
)
def test_what_can_not_be_read_is_an_error(tmp_path: Path, old: bytes, new: bytes) -> None:
    file = tmp_path / adapter_slots.NAME
    assert old in SLOTS.to_json()
    file.write_bytes(SLOTS.to_json().replace(old, new))
    with pytest.raises(ValueError, match=r"Expected|Invalid|Object|malformed"):
        adapter_slots.read(file)
