"""Data configurations: one data set each, and no leaf without a word."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.rows.maker import Corpus, Maker
from olivebuild.recipe.importers.positions import Placeholder
from tests.recipe.importers.olive.reading import Reading, values

LOAD = {"data_files": "a.json", "split": "train"}
TURNS = "<|user|>\n{q}<|end|>\n<|assistant|>\n{a}<|end|>"


def made(
    config: dict[str, Any], version: str = "0.8.0", *, held_out: bool = False, better: bool = False
) -> tuple[dict[str, object], Corpus, Reading]:
    """Return the data set's fields, its sequences, and what became of the configuration."""
    value = {"rows": {"load_dataset_config": LOAD, **config}}
    reading = Reading(value, version, better=better)
    corpus = Maker(reading.workflow, reading.section("rows")).corpus(held_out=held_out)
    return values(reading.workflow.draft.targets[corpus.target]), corpus, reading


def processed(process: dict[str, Any], version: str = "0.8.0", **options: Any) -> Any:
    return made({"pre_process_data_config": process}, version, **options)


def test_every_row_is_kept_in_its_place() -> None:
    fields, corpus, reading = processed({"text_template": "{a}"})
    assert fields == {
        "source": "a.json",
        "text": "{a}",
        "dedupe": False,
        "near_duplicates": False,
        "holdout": 0,
    }
    assert (corpus.target, corpus.apart) == ("rows", False)
    assert corpus.sequences.form == "blocks"
    assert not reading.unclaimed()


def test_rows_for_evaluation_are_all_held_out() -> None:
    assert processed({"text_template": "{a}"}, held_out=True)[0]["holdout"] == 1


def test_better_splits_at_the_answer() -> None:
    fields, corpus, _ = processed({"text_template": TURNS}, better=True)
    assert fields == {
        "source": "a.json",
        "prompt": "<|user|>\n{q}<|end|>\n<|assistant|>\n",
        "completion": "{a}<|end|>",
    }
    assert corpus.apart


def test_a_name_of_the_file_is_a_targets_name() -> None:
    _, corpus, reading = made({"name": "My Rows", "pre_process_data_config": {"text_cols": "a"}})
    assert corpus.target == "my-rows"
    assert reading.entries()["rows.name"].field == "my-rows"


@pytest.mark.parametrize(
    ("version", "process", "text"),
    [
        ("0.8.0", {"text_cols": ["a", "b"]}, "{a} {b}"),
        ("0.8.0", {"text_cols": "a"}, "{a}"),
        ("0.8.0", {"text_cols": "<col>"}, Placeholder("col")),
        ("0.8.0", {"text_template": "<t>"}, Placeholder("t")),
        ("0.8.0", {}, "{text}"),
        ("0.6.2", {}, Placeholder("text_template")),
    ],
)
def test_the_text_of_a_row(version: str, process: dict[str, Any], text: object) -> None:
    fields, _, reading = processed(process | {"source_max_len": 8}, version)
    assert fields["text"] == text
    assert not reading.refusals()


def test_a_chat_template_wins_from_0_7_on() -> None:
    process = {"chat_template": True, "message_col": "turns", "text_template": "{a}"}
    fields, _, reading = processed(process)
    assert fields["messages"] == "turns"
    assert "text" not in fields
    path = "rows.pre_process_data_config."
    assert reading.entries()[f"{path}text_template"].text == "chat_template wins"
    old, _, reading = processed(process | {"source_max_len": 8}, "0.6.2")
    assert old["text"] == "{a}"
    assert "ignore it" in reading.entries()[f"{path}chat_template"].text


def test_a_kind_of_rows_is_ignored_from_0_7_on() -> None:
    process = {"dataset_type": "pair", "text_cols": "a"}
    fields, _, reading = processed(process)
    assert fields["text"] == "{a}"
    entry = reading.entries()["rows.pre_process_data_config.dataset_type"]
    assert entry.text == "Olive 0.8.0 ignores it: rows are one text"
    both = process | {"source_max_len": 8, "target_max_len": 8}
    fields, corpus, _ = processed(both, "0.6.2")
    assert (fields["prompt"], corpus.sequences.form) == ("{input}", "pairs")


def test_functions_leave_text_and_sequences_open() -> None:
    fields, corpus, reading = processed({"type": "mine", "params": {"max_seq_len": 8}})
    assert fields["text"] == Placeholder("text that mine makes of a row")
    assert isinstance(corpus.sequences.form, Placeholder)
    assert [e.fatal for e in reading.ledger.refusals()] == [False]
    fields, _, reading = processed({"text_formatting_func": "mine", "text_cols": "a"})
    assert fields["text"] == Placeholder("text that mine makes of a row")
    assert [e.fatal for e in reading.ledger.refusals()] == [False]


@pytest.mark.parametrize(
    ("config", "version", "path", "hint"),
    [
        ({"nmae": "x"}, "0.8.0", "nmae", "did you mean name?"),
        ({"type": "DummyDataContainer"}, "0.8.0", "type", "name a data set"),
        (
            {"params_config": {"text_templat": "{a}"}},
            "0.6.2",
            "params_config.text_templat",
            "did you mean text_template?",
        ),
        (
            {"pre_process_data_config": {"dataset_type": "corpse", "source_max_len": 8}},
            "0.6.2",
            "pre_process_data_config.dataset_type",
            "did you mean corpus?",
        ),
        (
            {"pre_process_data_config": {"chat_template": "{% for m in messages %}"}},
            "0.8.0",
            "pre_process_data_config.chat_template",
            "write true, and put the template into the model's folder",
        ),
        (
            {"pre_process_data_config": {"text_template": "{a:>4}"}},
            "0.8.0",
            "pre_process_data_config.text_template",
            "",
        ),
    ],
)
def test_a_fault_is_refused_where_it_stands(
    config: dict[str, Any], version: str, path: str, hint: str
) -> None:
    _, _, reading = made(config, version)
    (refusal,) = reading.ledger.refusals()
    assert reading.refusals() == {f"rows.{path}": refusal.text}
    assert refusal.hint
    assert hint in refusal.hint


def test_what_training_does_not_read_is_told() -> None:
    _, _, reading = made(
        {
            "pre_process_data_config": {"text_cols": "a"},
            "post_process_data_config": {"type": "x"},
            "components": {"dataloader": {"params": {"batch_size": 2}}},
            "params_config": {"component_kwargs": {"post_process_data": {"k": 1}}},
            "user_script": "evil.py",
            "script_dir": ".",
        }
    )
    assert not reading.refusals()
    assert not reading.unclaimed()
