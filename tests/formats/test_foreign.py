"""What a folder from elsewhere would have libraries import, and the error that it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats.foreign import HINT, check, of_adapter, of_adapter_folder, of_model


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        ({}, 0),
        ({"attn_implementation": "eager"}, 0),
        ({"attn_implementation": "evil/kernel"}, 1),
        ({"text_config": {"_attn_implementation": "evil/kernel"}}, 1),
        ({"layers": [{"experts_implementation_internal": {"a": "evil/kernel", "b": "x"}}]}, 1),
        ({"name_or_path": "evil/model"}, 0),
    ],
)
def test_kernels_from_the_hub_are_named(tmp_path: Path, config: dict[str, Any], facts: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    faults = list(of_model(tmp_path))
    assert len(faults) == facts
    assert all("'evil/kernel', compiled code from the hub" in fault.fact for fault in faults)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_configuration_that_cannot_be_read_is_told_by_its_readers(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "adapter_config.json").write_text(text)
    assert list(of_model(tmp_path)) == list(of_adapter_folder(tmp_path)) == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"auto_mapping": None, "megatron_core": "megatron.core"}, ""),
        ({"auto_mapping": {"parent_library": "transformers.models.llama"}}, ""),
        ({"auto_mapping": {"parent_library": "evil"}}, "the package 'evil'"),
        ({"auto_mapping": {"parent_library": "transformers_evil"}}, "'transformers_evil'"),
        ({"auto_mapping": ["x"]}, "the package None"),
        ({"megatron_core": "evil.core"}, "megatron_core names the package 'evil.core'"),
    ],
)
def test_packages_that_peft_would_import_are_named(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    faults = list(of_adapter_folder(tmp_path))
    assert faults == list(of_adapter(config))
    assert bool(faults) == bool(says)
    assert says in "".join(fault.fact for fault in faults)


def test_the_first_fault_is_the_error_and_the_others_are_counted() -> None:
    config = {"auto_mapping": {"parent_library": "a"}, "megatron_core": "b"}
    with pytest.raises(InputError) as caught:
        check(of_adapter(config), HINT, "olivebuild.yaml:3")
    assert caught.value.fact.startswith("adapter_config.json: auto_mapping names")
    assert caught.value.fact.endswith("(1 more of the kind)")
    assert caught.value.hint == HINT
    check([], HINT, None)
