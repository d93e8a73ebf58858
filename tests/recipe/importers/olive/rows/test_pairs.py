"""Pairs: prompt and completion of each format, and how each is cut."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.rows.pairs import pairs
from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.olive.rows.sequences import Processing, Sequences
from olivebuild.recipe.importers.positions import Placeholder
from tests.recipe.importers.olive.reading import Reading, values

LENGTHS = {"source_max_len": 8, "target_max_len": 4}


def paired(process: dict[str, Any]) -> tuple[dict[str, object], Sequences, Reading]:
    reading = Reading({"config": {"pre_process_data_config": process}}, "0.6.2")
    params = Params(reading.section("config"), "pre_process_data")
    target = reading.target()
    sequences = pairs(Processing(reading.workflow, params, "rows"), target)
    return values(target), sequences, reading


def custom(**fields: Any) -> dict[str, Any]:
    return {"pair_format": "custom", **LENGTHS, **fields}


@pytest.mark.parametrize(
    ("process", "prompt", "completion"),
    [
        (LENGTHS, "{input}", "{output}"),
        ({"pair_format": "self_instruct", **LENGTHS}, "{prompt}", "{completion}"),
        (custom(input_col="q", output_col="a{"), "{q}", "{a{{}"),
        (custom(input_template="Q: {q}", output_template="{a}."), "Q: {q}", "{a}."),
        (custom(input_template="<t>", output_col="a"), Placeholder("t"), "{a}"),
        (custom(output_col="a"), Placeholder("input_template"), "{a}"),
    ],
)
def test_each_format_has_two_sides(
    process: dict[str, Any], prompt: object, completion: object
) -> None:
    fields, _, reading = paired(process)
    assert fields == {"prompt": prompt, "completion": completion}
    assert not reading.refusals()


def test_a_template_wins_over_a_column_and_a_function_over_both() -> None:
    process = custom(
        input_template="Q: {q}",
        input_col="q",
        output_formatting_func="answer",
        output_template="{a}",
        output_col="a",
    )
    fields, _, reading = paired(process)
    assert fields == {"prompt": "Q: {q}", "completion": Placeholder("output_template")}
    entries = reading.entries()
    for key in ("input_col", "output_template", "output_col"):
        assert entries[f"config.pre_process_data_config.{key}"].text == (
            "another parameter says the text"
        )
    function = entries["config.pre_process_data_config.output_formatting_func"]
    assert function.text == "a function of a script, which is not run"
    assert not function.fatal


def test_columns_count_for_the_format_custom_alone() -> None:
    fields, _, reading = paired({**LENGTHS, "input_col": "q", "input_template": "{q}"})
    assert fields["prompt"] == "{input}"
    entry = reading.entries()["config.pre_process_data_config.input_col"]
    assert entry.text == "only the format custom reads it"


@pytest.mark.parametrize(
    ("process", "key", "fact"),
    [
        ({"pair_format": "alpaca"}, "pair_format", "Olive's format alpaca never worked"),
        ({"pair_format": "chip2"}, "pair_format", "the pairs of the format chip2 are not read"),
        (custom(input_template="{q", output_col="a"), "input_template", ""),
        ({"drop_short_sequences": True}, "drop_short_sequences", "pairs are not left out"),
        ({"source_max_len": "long"}, "source_max_len", "source_max_len is text where"),
    ],
)
def test_a_fault_is_refused_where_it_stands(process: dict[str, Any], key: str, fact: str) -> None:
    _, _, reading = paired({**LENGTHS, **process})
    ((path, text),) = reading.refusals().items()
    assert path == f"config.pre_process_data_config.{key}"
    assert text.startswith(fact)
    assert next(reading.ledger.refusals()).hint


def test_each_side_is_cut_to_its_own_length() -> None:
    _, sequences, _ = paired({**LENGTHS, "max_samples": 5, "add_special_tokens": False})
    fields = {name: option.value for name, option in sequences.fields.items()}
    expected = {
        "form": "pairs",
        "prompt_length": 8,
        "completion_length": 4,
        "special_tokens": "none",
        "limit": 5,
    }
    assert fields.items() >= expected.items()
    assert sequences.loss is None


def test_lengths_that_are_left_out_are_left_open() -> None:
    _, sequences, _ = paired({"source_max_len": 8, "ignore_source_in_labels": False})
    assert sequences.fields["completion_length"].value == Placeholder("target_max_len")
    assert sequences.fields["special_tokens"].value == "spaced"
    assert sequences.loss is not None
    assert sequences.loss.value == "all"


def test_what_pairs_do_not_read_is_told() -> None:
    _, _, reading = paired({**LENGTHS, "stride": 3, "joiner": " ", "corpus_strategy": "join"})
    entries = reading.entries()
    for key in ("stride", "joiner", "corpus_strategy"):
        assert entries[f"config.pre_process_data_config.{key}"].text == "pairs do not read it"
