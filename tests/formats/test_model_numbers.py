"""Numbers of a model's small files that can't be true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core import hashing
from olivebuild.formats.model_numbers import impossible_size, not_numbers, sizes_in, sizes_of
from tests.formats.test_safetensors import WEIGHTS, write


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"num_hidden_layers": 32}, None),
        ({"num_hidden_layers": 2000}, "num_hidden_layers"),
        ({"text_config": {"num_experts": 10**9}}, "num_experts"),
        ({"encoder_layers": 10**9}, "encoder_layers"),
        ({"vocab_size": 10**9}, None),
        # The number of layers may be what a dimension says, as of experts in one tensor.
        ({"num_local_experts": 1500}, None),
    ],
)
def test_a_count_that_no_weights_stand_for(config: dict[str, Any], name: str | None) -> None:
    finding = impossible_size(config, lambda: (40, 1600))
    assert (finding is not None) == (name is not None)
    if finding:
        assert finding.fact.startswith(f"config.json says {name} ")
        assert finding.fact.endswith("and the weights are 40 tensors")


def test_weights_are_asked_only_if_a_count_is_large() -> None:
    def fails() -> tuple[int, int]:
        raise AssertionError("the weights were read")

    assert impossible_size({"num_hidden_layers": 1000}, fails) is None


def test_sizes_of_a_file_are_those_of_its_tensors(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", WEIGHTS)
    shapes = [shape for _, shape, _ in WEIGHTS.values()]
    count, largest = sizes_of(shapes)
    assert (count, largest) == (len(WEIGHTS), max(n for shape in shapes for n in shape))
    assert sizes_in(tmp_path / "m.safetensors", hashing.ignore_progress) == f"{count} {largest}"
    assert sizes_of([]) == (0, 0)


@pytest.mark.parametrize(
    ("file", "data", "wrong"),
    [
        ("config.json", {"eos_token_id": [1, 2]}, False),
        ("config.json", {"eos_token_id": [[1]]}, True),
        ("config.json", {"bos_token_id": "1"}, True),
        ("config.json", {"bos_token_id": True}, True),
        ("config.json", {"pad_token_id": None, "model_max_length": "x"}, False),
        ("tokenizer_config.json", {"model_max_length": 1e30}, False),
        ("tokenizer_config.json", {"model_max_length": [512]}, True),
        ("other.json", {"eos_token_id": "x"}, False),
    ],
)
def test_a_field_that_is_no_number(file: str, data: dict[str, Any], wrong: bool) -> None:
    finding = not_numbers(file, data)
    assert (finding is not None) == wrong
