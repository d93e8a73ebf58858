"""The table of fields: its reasons are there, and defaults change where releases changed them."""

from __future__ import annotations

import pytest

from olivebuild.recipe.importers.olive import table
from olivebuild.recipe.importers.olive.tell_tales import JULY


def test_every_fate_has_its_reason() -> None:
    data = table._read()
    for name, fields in data["fields"].items():
        for key, entry in fields.items():
            kind, _, word = entry.get("as", "").partition(".")
            if kind in ("none", "no"):
                assert word in data["reasons" if kind == "none" else "refusals"], (name, key)


@pytest.mark.parametrize(
    ("name", "key", "version", "value"),
    [
        ("LoRA", "lora_dropout", (0, 6, 2), 0.0),
        ("LoRA", "lora_dropout", (0, 7, 0), 0.05),
        ("QLoRA", "double_quant", (0, 3, 3), True),
        ("QLoRA", "double_quant", (0, 4, 0), False),
        ("training_args", "max_steps", (0, 6, 2), 10000),
        ("training_args", "max_steps", JULY, 10000),
        ("training_args", "max_steps", (0, 7, 0), -1),
        ("training_args", "optim", (0, 8, 0), "paged_adamw_32bit"),
        ("training_args", "optim", (0, 9, 0), "adamw_torch"),
    ],
)
def test_defaults_are_those_of_the_release(
    name: str, key: str, version: tuple[int, int, int], value: object
) -> None:
    assert table.default(name, key, version) == value


def test_the_main_branch_of_july_took_the_fields_of_both_releases_around_it() -> None:
    fields = table.fields_of("QLoRA")
    assert fields["eval_dataset_size"].taken(JULY)
    assert fields["save_quant_config"].taken(JULY)
    assert not fields["r"].taken(JULY)
    assert not fields["lora_r"].taken((0, 8, 0))
